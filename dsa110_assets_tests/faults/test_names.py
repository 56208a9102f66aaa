"""Row 18: names that lead out of the inbox or the archive, or that must not be printed on a terminal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dsa110_assets.archive import naming, quarantine
from dsa110_assets.archive.store import Archive
from dsa110_assets.cli import inbox as command
from dsa110_assets.errors import BadDataError, DsaError, NotFoundError
from dsa110_assets.orchestration.ingest import inbox as looking
from dsa110_assets.orchestration.planning import plan
from dsa110_assets.portal.app import create_app
from dsa110_assets.settings import Settings
from dsa110_assets.visibilities import uvh5
from dsa110_assets_tests.faults.figures import record_figure
from dsa110_assets_tests.faults.test_files import OpenWatch
from dsa110_assets_tests.portal.conftest import ask
from dsa110_assets_tests.tiny import SUBBANDS

STRANGE = (
    "2026-01-25T22:25:00_sb00.hdf5\n.hdf5", "\n_sb01.hdf5", "..\\sb02.hdf5", "x" * 250 + ".hdf5", "\x1b[31m_sb03.hdf5",
    "2026-01-25T22:25:00_sb99.hdf5", "2026-02-30T22:25:00_sb00.hdf5", "-rf.hdf5", "$(id).hdf5", "'; DROP TABLE products;.hdf5",
    "２０２６-01-25T22:25:00_sb00.hdf5", "‮5fdh.hdf5", b"\xff\xfe_sb00.hdf5",
)  # fmt: skip
ESCAPES = ("../secret", "/etc/passwd", "a/../../secret", "..", "a\0b", "a\nb", "x" * 300, "%2e%2e%2fsecret", "~root", "")


def outside(tmp_path: Path, inbox: Path) -> Path:
    """A good subband file outside the inbox."""
    place = tmp_path / "outside"
    place.mkdir()
    secret = place / "2026-01-25T22:25:07_sb01.hdf5"
    secret.write_bytes(min(inbox.glob("2026-01-25T22:25*_sb01.hdf5")).read_bytes())
    return secret


@pytest.mark.row(18)
def test_strange_names_links_and_pipes_in_the_inbox_are_put_aside_unopened(settings: Settings, inbox: Path, tmp_path: Path) -> None:
    secret = outside(tmp_path, inbox)
    watch = OpenWatch(secret)
    for name in STRANGE:
        Path(os.fsdecode(os.path.join(os.fsencode(inbox), os.fsencode(name)))).write_bytes(b"nothing of ours")
    link, pipe, folder, circle = (inbox / f"2026-01-25T22:25:{s:02d}_sb03.hdf5" for s in (51, 52, 53, 54))
    link.symlink_to(secret)
    os.mkfifo(pipe)
    folder.mkdir()
    circle.symlink_to(circle)
    late = looking.Patience(SUBBANDS, SUBBANDS, 0.0, 0.0, looking.now_s() + 10_000, by_data=False)
    with Archive.create(settings.archive) as archive:
        seen = looking.scan(inbox, late, looking.known(archive))
        assert len(seen.ready()) == 3, "the good groups go on"
        lines = plan.quarantine_unusable(archive, seen)
        assert all(line.isprintable() for line in lines)
        records = quarantine.quarantined(archive)
        assert len(records) == len(STRANGE) + 4
        assert {link, pipe, folder, circle} < {record.paths[0] for record in records}
        assert looking.scan(inbox, late, looking.known(archive)).unusable == ()
        _, files = command.survey(settings, archive)
        assert all(row.path.isprintable() and row.reason.isprintable() for row in files)
    record_figure(18, "strange names refused", f"{len(records)} of {len(STRANGE) + 4}")
    record_figure(18, "files outside that were opened", watch.count())
    assert watch.count() == 0


@pytest.mark.row(18)
@pytest.mark.parametrize("name", ESCAPES)
def test_names_outside_the_archive_are_refused_by_every_function(settings: Settings, name: str) -> None:
    escapes = 0
    with Archive.create(settings.archive) as archive:
        doors = (
            lambda: archive.current(name),
            lambda: archive.current("tile_image", name or "x"),
            lambda: archive.get(name),
            lambda: archive.find(name or "x"),
            lambda: naming.family("tile_image", name or "x"),
            lambda: quarantine.release(archive, name),
            lambda: uvh5.read_header(Path(name)),
            lambda: archive.publish(name, None, [], settings={}, code_version="1", run_id="r").__enter__(),
        )
        for door in doors:
            try:
                door()
                escapes += 1
            except (NotFoundError, BadDataError):
                continue
        token = naming.token(name)
        assert token.isascii()
        assert token.replace("_", "a").isalnum()
        assert len(token) <= 40
    record_figure(18, "escapes at the archive's and the reader's doors", escapes)
    assert escapes == 0


@pytest.mark.row(18)
@pytest.mark.parametrize("name", ESCAPES)
def test_names_outside_the_archive_are_refused_by_the_portal(settings: Settings, tmp_path: Path, name: str) -> None:
    from urllib.parse import quote

    secret = settings.archive.parent / "secret"
    Archive.create(settings.archive).close()
    secret.write_text("the secret")
    watch = OpenWatch(secret)
    app = create_app(settings.archive)
    text = quote(name, safe="") or "-"
    urls = (
        f"/products/{text}",
        f"/files/{text}/image.fits",
        f"/files/tile_image-20260125T2225-v1/{text}",
        f"/api/v1/products/{text}/lineage",
    )
    urls += (f"/api/v1/products?asset={text}", f"/api/v1/products?since={text}", f"/api/v1/light-curves/{text}", f"/nights/{text}")
    for url in urls:
        answer = ask(app, url)
        assert answer.status in (400, 404, 422), url
        assert b"the secret" not in answer.body
        assert b"root:x:" not in answer.body
    record_figure(18, "escapes at the portal", watch.count())
    assert watch.count() == 0


@pytest.mark.row(18)
def test_a_link_put_in_place_of_an_accepted_file_is_not_followed(inbox: Path, tmp_path: Path, settings: Settings) -> None:
    """The link replaces the file after the manifest is made and before it is read: the reader checks the file itself again."""
    from dsa110_assets.orchestration.running.process import process

    process(settings, through="subband_group")
    secret = outside(tmp_path, inbox)
    path = min(inbox.glob("2026-01-25T22:25*_sb01.hdf5"))
    status = path.stat()
    os.utime(secret, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.unlink()
    path.symlink_to(secret)
    watch = OpenWatch(secret)
    report = process(settings, through="measurement_set")
    assert watch.count() == 0
    assert all(failed.error_class in (cls.__name__ for cls in DsaError.__subclasses__()) for failed in report.failed)
