"""Caltable sets, quarantine records, and what a rejection makes stale: exactly its dependents."""

from __future__ import annotations

import math
import os

import pytest

from dsa110_assets.archive import caltable_registry, integrity, quarantine
from dsa110_assets.archive.stale import stale
from dsa110_assets.errors import NotFoundError, SilentWrongnessError

MADE = {"settings": {}, "code_version": "1", "run_id": "run"}
WINDOWS = ("2026-01-25T22:25", "2026-01-25T22:30", "2026-01-25T22:35")
NIGHT = "2026-01-25"
ROW = {"valid_start_mjd": 61065.0, "valid_end_mjd": 61066.0, "dec_deg": 16.27, "antennas": {"2", "1"}}


def publish_tables(archive, *names):
    """Publish a caltables product with one set per name."""
    with archive.publish("caltables", NIGHT, [], **MADE) as draft:
        for i, name in enumerate(names):
            (draft.path / f"{name}.b").mkdir()
            (draft.path / f"{name}.b" / "table.dat").write_text(name)
            caltable_registry.register(
                draft,
                name,
                [f"{name}.b"],
                mid_mjd=61065.2 + i / 10,
                calibrator=name,
                anchor="PB17:3C138",
                **ROW,
            )
    return draft.product


def test_sets_become_visible_with_their_product(archive):
    with archive.publish("caltables", NIGHT, [], **MADE) as draft:
        (draft.path / "t.b").write_text("t")
        caltable_registry.register(
            draft,
            "3C138",
            [draft.path / "t.b"],
            mid_mjd=61065.5,
            calibrator="3C138",
            anchor="PB17:3C138",
            figures={"snr": 97.7},
            **ROW,
        )
        assert caltable_registry.sets(archive) == []
    (one,) = caltable_registry.sets(archive, "active")
    assert one.set_id == "caltables-20260125-v1/3C138"
    assert one.paths == (draft.product.path / "t.b",)
    assert one.paths[0].read_text() == "t"
    assert (one.antennas, one.anchor, one.figures) == (frozenset({"1", "2"}), "PB17:3C138", {"snr": 97.7})
    assert (one.valid_start_mjd, one.mid_mjd, one.valid_end_mjd, one.dec_deg) == (
        61065.0,
        61065.5,
        61066.0,
        16.27,
    )


def test_rejecting_restoring_and_superseding_sets(archive):
    publish_tables(archive, "3C138", "3C48")
    assert [s.calibrator for s in caltable_registry.sets(archive, "active")] == ["3C138", "3C48"]
    rejected = caltable_registry.reject(archive, "caltables-20260125-v1/3C48", "zero gains")
    assert (rejected.status, rejected.reason) == ("rejected", "zero gains")
    assert [s.calibrator for s in caltable_registry.sets(archive, "active")] == ["3C138"]
    assert caltable_registry.restore(archive, rejected.set_id).status == "active"
    again = publish_tables(archive, "3C138")
    assert [s.set_id for s in caltable_registry.sets(archive, "active")] == [f"{again.id}/3C138"]
    assert {s.status for s in caltable_registry.sets(archive)} == {"active", "superseded"}
    archive.reject(again.id, "all of it")
    assert caltable_registry.sets(archive, "active") == []
    with pytest.raises(NotFoundError, match="there is caltables-20260125-v1/3C138"):
        caltable_registry.reject(archive, "3C999", "x")


def test_manual_changes_of_a_set_hold_and_can_be_reverted(archive, tmp_path):
    """Changed validity and retirements hold at once, also in a rebuilt index, and no published byte changes."""
    product = publish_tables(archive, "3C138", "3C48")
    one, other = (f"{product.id}/{name}" for name in ("3C138", "3C48"))
    assert archive.verify(product) == []
    extended = caltable_registry.extend(archive, one, None, 61070.0, "extended by me")
    assert (extended.valid_start_mjd, extended.valid_end_mjd, extended.history) == (61065.0, 61070.0, ("extended by me",))
    caltable_registry.retire(archive, one, 61066.0, 61067.0, "retired by me")
    caltable_registry.retire(archive, one, 61068.0, None, "and again")
    caltable_registry.reject(archive, one, "worse")
    integrity.reindex(archive.root, archive.index.url.render_as_string(hide_password=False))
    found = {s.set_id: s for s in caltable_registry.sets(archive)}
    assert found[one].retired == ((61066.0, 61067.0), (61068.0, math.inf))
    assert found[one].status == "rejected"
    assert found[one].history == ("extended by me", "retired by me", "and again")
    assert (found[other].retired, found[other].history, found[other].valid_end_mjd) == ((), (), 61066.0)
    back = caltable_registry.restore(archive, one, "restored by me")
    assert (back.status, back.retired, back.valid_end_mjd, back.history[-1]) == ("active", (), 61070.0, "restored by me")
    assert archive.verify(product) == []
    with pytest.raises(NotFoundError, match="must lie within its validity"):
        caltable_registry.extend(archive, one, 61066.0, None, "x")
    with pytest.raises(NotFoundError, match="is not a span of time"):
        caltable_registry.retire(archive, one, 61067.0, 61066.0, "x")


@pytest.mark.parametrize(
    ("name", "tables", "mid", "match"),
    [
        ("ok", ["missing.b"], 61065.5, "not among"),
        ("ok", ["../../../../../archive.json"], 61065.5, "not among"),
        ("ok", [], 61065.5, "has no tables"),
        ("ok", ["t.b"], 61067.0, "outside its validity"),
        ("a/b", ["t.b"], 61065.5, "unusable"),
    ],
)
def test_unusable_sets_stop_the_publication(archive, name, tables, mid, match):
    with (  # noqa: PT012
        pytest.raises(SilentWrongnessError, match=match),
        archive.publish("caltables", NIGHT, [], **MADE) as draft,
    ):
        (draft.path / "t.b").write_text("t")
        caltable_registry.register(draft, name, tables, mid_mjd=mid, calibrator="3C138", anchor="a", **ROW)
    assert archive.products(state=None) == []


def test_a_rejected_set_makes_exactly_its_dependents_stale(archive, publish):
    tables = publish_tables(archive, "3C138", "3C48")
    sets = [f"{tables.id}/3C138", f"{tables.id}/3C48", f"{tables.id}/3C48"]
    applied = [publish("calibrated_ms", w, [tables], metadata={"caltable_set": s}) for w, s in zip(WINDOWS, sets, strict=True)]
    images = [publish("tile_image", w, [p]) for w, p in zip(WINDOWS, applied, strict=True)]
    mosaic = publish("hour_mosaic", "2026-01-25T22:00", images)
    other = publish("hour_mosaic", "2026-01-25T23:00", images[:1])
    assert stale(archive) == []
    caltable_registry.reject(archive, sets[1], "swapped antennas")
    found = stale(archive)
    assert {s.product.id for s in found} == {p.id for p in (*applied[1:], *images[1:], mosaic)}
    assert other.id not in {s.product.id for s in found}
    order = [s.product.id for s in found]
    assert order.index(applied[1].id) < order.index(images[1].id) < order.index(mosaic.id)
    assert found[0].reasons == (f"caltable set {sets[1]} was rejected: swapped antennas",)
    caltable_registry.restore(archive, sets[1])
    assert stale(archive) == []


def test_products_of_two_sets_become_stale_with_either_and_no_other(archive, publish):
    tables = publish_tables(archive, "3C138", "3C48", "3C147")
    near, across, other = (f"{tables.id}/{name}" for name in ("3C138", "3C48", "3C147"))
    both = publish("calibrated_ms", WINDOWS[0], [tables], metadata={"caltable_set": near, "caltable_sets": [across, near]})
    single = publish("calibrated_ms", WINDOWS[1], [tables], metadata={"caltable_set": near})
    for rejected, expected in ((near, {both.id, single.id}), (across, {both.id}), (other, set())):
        caltable_registry.reject(archive, rejected, "zero gains")
        assert {one.product.id for one in stale(archive)} == expected
        caltable_registry.restore(archive, rejected)


def test_a_new_version_makes_dependents_stale_until_they_are_made_again(archive, publish):
    group = publish("subband_group")
    measured = publish("measurement_set", inputs=[group])
    image = publish("tile_image", inputs=[measured])
    late = publish("subband_group", text="sixteen now")
    assert [(s.product.id, s.reasons[0]) for s in stale(archive)] == [
        (measured.id, f"{group.id} was replaced by {late.id}"),
        (image.id, f"{measured.id} is stale"),
    ]
    measured = publish("measurement_set", inputs=[late], text="sixteen now")
    assert [s.product.id for s in stale(archive)] == [image.id]
    publish("tile_image", inputs=[measured])
    assert stale(archive) == []


def test_the_same_bytes_again_make_nothing_stale(archive, publish):
    group = publish("subband_group", text="same")
    publish("measurement_set", inputs=[group])
    publish("subband_group", text="same")
    assert stale(archive) == []
    archive.reject(group.id, "bad")
    assert len(stale(archive)) == 1


def test_quarantine_keeps_file_and_reason_and_can_be_released(archive, tmp_path):
    file = tmp_path / "2026-01-25T22:26:05_sb00.hdf5"
    file.write_bytes(b"short")
    before = file.stat()
    one = quarantine.quarantine(archive, file, "is truncated", WINDOWS[0])
    assert quarantine.quarantine(archive, file, "is truncated", WINDOWS[0]) == one
    assert quarantine.quarantined(archive) == [one]
    assert (one.paths, one.reason, one.observation) == ((file,), "is truncated", WINDOWS[0])
    assert one.holds_for(file)
    assert not one.holds_for(tmp_path / "other")
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_mode,
    )
    assert file.read_bytes() == b"short"
    assert quarantine.release(archive, file)[0].released_at is not None
    assert quarantine.quarantined(archive) == []
    assert len(quarantine.quarantined(archive, released=True)) == 1
    assert quarantine.quarantine(archive, file, "is truncated", WINDOWS[0]).released_at is None
    assert quarantine.release(archive, one.key)[0].key == one.key
    with pytest.raises(NotFoundError, match="is not quarantined; 0 records"):
        quarantine.release(archive, file)


def test_quarantine_does_not_hold_for_a_changed_file(archive, tmp_path):
    file = tmp_path / "sb00.hdf5"
    file.write_bytes(b"short")
    one = quarantine.quarantine(archive, file, "is truncated")
    file.write_bytes(b"whole file")
    assert not one.holds_for(file)
    os.utime(file, ns=(1, 1))
    assert not one.holds_for(file)


def test_a_group_is_quarantined_as_a_whole(archive, tmp_path):
    paths = [tmp_path / f"sb{i:02d}.hdf5" for i in range(3)]
    for path in paths[:2]:
        path.write_bytes(b"x")
    one = quarantine.quarantine(archive, paths[::-1], "window taken by a fuller group", WINDOWS[0])
    assert one.paths == tuple(paths)
    assert all(one.holds_for(path) for path in paths)  # also the missing one, while it stays missing
    with pytest.raises(NotFoundError, match="needs a reason"):
        quarantine.quarantine(archive, paths, "")
