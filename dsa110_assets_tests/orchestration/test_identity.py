"""A file is identified by its bytes: after a copy, `touch` or a restored backup nothing is made again, after a changed byte it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import pytest

from dsa110_assets.archive.store import Archive
from dsa110_assets.orchestration.graph import specifications
from dsa110_assets.orchestration.ingest import inbox as looking
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.orchestration.running.process import process
from dsa110_assets.settings import Settings
from dsa110_assets_tests.tiny import tiny_settings

pytestmark = pytest.mark.row(38, cases="copies and touches that make nothing anew")

FIRST = "2026-01-25T22:20"


@pytest.fixture
def copied(processed: Settings, tiny_run: Path, tmp_path: Path) -> Settings:
    """A processed archive over an inbox of copies: the same bytes with other modification times in another directory."""
    place = tmp_path / "copies"
    place.mkdir()
    for path in tiny_run.glob("*.hdf5"):
        shutil.copyfile(path, place / path.name)
        os.utime(place / path.name, ns=(10**18, 10**18))
    return tiny_settings(place, tmp_path)


def versions(settings: Settings) -> dict[tuple[str, str | None], int]:
    with Archive(settings.archive) as archive:
        return {(p.asset, p.partition): p.version for p in archive.products()}


def test_files_with_new_modification_times_make_nothing(copied: Settings) -> None:
    before = versions(copied)
    report = process(copied)
    assert report.ok
    assert report.made == ()
    assert versions(copied) == before


def test_another_byte_is_another_file(copied: Settings) -> None:
    """The changed file has the same size, in one subband: its observation is made again, the others are not."""
    changed = sorted(copied.inbox.glob("*_sb01.hdf5"))[0]
    with h5py.File(changed, "r+") as file:
        file["Data/visdata"][5] *= 1.5
    os.utime(changed, ns=(10**18, 10**18))
    planned = {(step.asset, step.partition) for step in process(copied, dry_run=True).planned}
    assert ("subband_group", FIRST) in planned
    assert {key for asset, key in planned if asset == "measurement_set"} == {FIRST}


def test_a_live_look_compares_files_for_a_limited_time(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored backup of a month is not read in one tick; files not yet compared wait, with this reason."""
    with Archive(copied.archive) as archive:

        def look() -> looking.Inbox:
            names = looking.listing(copied.inbox)
            return looking.scan(copied.inbox, plan.patience(copied, by_data=False), looking.known_files(archive, names), 1000, names)

        looking._contents.clear()
        monkeypatch.setattr(looking, "COMPARE_S", -1.0)
        seen = look()
        assert (seen.candidates, seen.settled, len(seen.waiting)) == ((), 0, 12)
        assert all("a later scan compares" in reason for _, reason in seen.waiting)
        monkeypatch.setattr(looking, "COMPARE_S", 60.0)
        seen = look()
        assert (seen.candidates, seen.settled, seen.waiting) == ((), 12, ())
        monkeypatch.setattr(looking, "COMPARE_S", -1.0)  # files that were compared once are not read again
        assert look().settled == 12


def test_files_touched_between_two_steps_are_still_used(settings: Settings) -> None:
    """A measurement set is made from the files that its manifest names, whatever their modification times are now."""
    assert process(settings, through="subband_group").ok
    before = versions(settings)
    for path in settings.inbox.glob("*.hdf5"):
        copy = path.with_suffix(".copy")
        shutil.copyfile(path, copy)
        os.utime(copy, ns=(10**18, 10**18))
        copy.replace(path)
    report = process(settings, through="measurement_set")
    assert report.ok
    assert {one.asset for one in report.made} == {"measurement_set"}
    assert {key: version for key, version in versions(settings).items() if key[0] == "subband_group"} == {
        key: version for key, version in before.items() if key[0] == "subband_group"
    }


def test_a_touched_catalogue_is_the_same_catalogue(tmp_path: Path, settings: Settings) -> None:

    table = tmp_path / "nvss.csv"
    table.write_text("name,ra,dec,flux_jy\nA,10,20,1\n")
    changed = settings.model_copy(update={"catalogues": (table,)})

    def facts() -> object:
        found = specifications()["source_catalog"].find(None, changed, "")  # type: ignore[arg-type]
        assert found is not None
        return found.facts["catalogues"]

    before = facts()
    os.utime(table, ns=(10**18, 10**18))
    assert facts() == before
    table.write_text("name,ra,dec,flux_jy\nA,10,20,2\n")
    os.utime(table, ns=(10**18, 10**18))
    assert facts() != before
    table.unlink()
    assert facts() == [f"{table}:missing"]
