"""People's judgements of sources stay, whatever is made again, renamed, rebuilt or restored."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dsa110_assets.archive import integrity, judgements
from dsa110_assets.archive.backup import backup, restore
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError

THEN, LATER = datetime(2026, 1, 26, 3, tzinfo=UTC), datetime(2026, 1, 27, 3, tzinfo=UTC)
ARCSEC = 1 / 3600


def test_all_judgements_are_kept_in_order(archive: Archive) -> None:
    first = judgements.judge(archive, "S1", 40.0, 16.27, verdict="unsure", name=" A. Observer ", note="faint\nyet there", at=THEN)
    judgements.judge(archive, "S2", 50.0, 16.27, verdict="artefact", name="B", at=THEN)
    last = judgements.judge(archive, "S1", 40.0, 16.27, verdict="real", name="C", at=LATER)
    assert first.name == "A. Observer"
    assert [(one.source_id, one.verdict) for one in judgements.judgements(archive)] == [
        ("S1", "unsure"),
        ("S2", "artefact"),
        ("S1", "real"),
    ]
    assert judgements.of_places(judgements.judgements(archive), ["S1"], [40.0], [16.27]) == [[first, last]]


def test_a_judgement_belongs_to_the_position_not_the_source_name(archive: Archive) -> None:
    """The limit is 5 arcsec at any right ascension; 1 degree of right ascension is cos(16.27 deg) = 0.96 degrees on the sky."""
    judgements.judge(archive, "new J0240", 359.9999, 16.27, verdict="real", name="A")
    judged = judgements.judgements(archive)
    near, far, other_side = 359.9999 + 4.9 * ARCSEC / 0.95996, 359.9999 - 5.1 * ARCSEC / 0.95996, 0.0002
    found = judgements.of_places(judged, ["a", "b", "c", "new J0240"], [near, far, other_side, 10.0], [16.27] * 4)
    assert [len(one) for one in found] == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verdict": "maybe"}, "choose of real, artefact, unsure"),
        ({"name": " "}, "the name of the person who makes it"),
        ({"name": "x" * 81}, "at most 80"),
        ({"note": "\x1b[31m"}, "printable"),
        ({"note": "x" * 2001}, "at most 2000"),
    ],
)
def test_invalid_judgements_are_refused(archive: Archive, change: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        judgements.judge(archive, "S", 1.0, 2.0, **{"verdict": "real", "name": "A", **change})
    with pytest.raises(ConfigurationError, match="needs a source id and a place on the sky"):
        judgements.judge(archive, "S", float("nan"), 2.0, verdict="real", name="A")
    assert judgements.judgements(archive) == []


def test_reindexing_sweeping_and_restoring_keep_judgements(archive: Archive, engine_url: str | None, tmp_path) -> None:
    judged = judgements.judge(archive, "S", 1.0, 2.0, verdict="real", name="A", note="größer")
    integrity.reindex(archive.root, engine_url)
    integrity.sweep(archive, everywhere=True)
    assert judgements.judgements(archive) == [judged]
    saved = backup(archive, tmp_path / "backups", keep=2)
    (archive.root / judgements.DIRECTORY / next(iter((archive.root / judgements.DIRECTORY).glob("*.json"))).name).unlink()
    assert judgements.judgements(archive) == []
    restore(saved.path, archive.root, engine_url)
    assert judgements.judgements(archive) == [judged]


def test_a_damaged_file_hides_no_other_and_is_not_written_over(archive: Archive) -> None:
    kept = judgements.judge(archive, "good", 1.0, 2.0, verdict="real", name="A")
    judgements.judge(archive, "bad", 5.0, 2.0, verdict="real", name="A")
    damaged = next(path for path in (archive.root / judgements.DIRECTORY).glob("*.json") if '"bad"' in path.read_text())
    damaged.write_text("[{")
    assert judgements.judgements(archive) == [kept]
    with pytest.raises(ConfigurationError, match="cannot be read as JSON"):
        judgements.judge(archive, "bad", 5.0, 2.0, verdict="unsure", name="A")
    assert damaged.read_text() == "[{"
