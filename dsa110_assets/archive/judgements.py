"""People's judgements of candidates: real, an artefact or unsure, with a note and a name.

They are kept beside the products, as `<archive>/judgements/<key>.json`, one file a source: no reprocessing, retention or
reindexing touches them, and backups hold them. They belong to the place on the sky, because another catalogue may name the source
differently.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from dsa110_assets.archive import files
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.telescope import astrometry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsa110_assets.archive.store import Archive

DIRECTORY = "judgements"
VERDICTS = ("real", "artefact", "unsure")
SAME_PLACE_ARCSEC = 5.0
"""A judgement applies to every source within this distance of its place, whatever the source's name: a fifth of the beam."""
LONGEST_NOTE, LONGEST_NAME = 2000, 80


@dataclass(frozen=True)
class Judgement:
    """One person's judgement of a source, and its time (UTC)."""

    source_id: str
    ra_deg: float
    dec_deg: float
    verdict: str
    note: str
    name: str
    at: datetime


def judge(
    archive: Archive, source_id: str, ra_deg: float, dec_deg: float, *, verdict: str, name: str, note: str = "", at: datetime | None = None
) -> Judgement:
    """Record a person's judgement of a source; earlier ones stay. This is the only function that writes judgements.

    Raises ConfigurationError for a verdict not in VERDICTS, a missing name, a text that is too long or contains control characters,
    or an invalid place on the sky.
    """
    name, note = name.strip(), note.strip()
    if verdict not in VERDICTS:
        raise ConfigurationError(f"verdict {verdict!r}: choose of {', '.join(VERDICTS)}")
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(f"a judgement needs the name of the person who makes it, of at most {LONGEST_NAME} printable characters")
    if len(note) > LONGEST_NOTE or not all(line.isprintable() for line in note.splitlines()):
        raise ConfigurationError(f"a note has at most {LONGEST_NOTE} printable characters")
    if not source_id or not (math.isfinite(ra_deg) and -90 <= dec_deg <= 90):
        raise ConfigurationError(f"{source_id!r} at {ra_deg}, {dec_deg}: a judgement needs a source id and a place on the sky [deg]")
    judgement = Judgement(source_id, float(ra_deg), float(dec_deg), verdict, note, name, at or datetime.now(UTC))
    folder = archive.root / DIRECTORY
    path = folder / f"{xxhash.xxh3_64_hexdigest(source_id.encode(errors='surrogateescape'))}.json"
    with files.typed_errors(str(folder)):
        folder.mkdir(exist_ok=True)
        with files.locked(folder / ".lock"):
            before = files.read_json(path)
            if before is None and path.exists():
                raise ConfigurationError(f"{path} cannot be read as JSON; move it away, or its contents would be lost")
            files.write_json(path, [*(before or []), asdict(judgement) | {"at": judgement.at.isoformat()}])
    return judgement


def judgements(archive: Archive) -> list[Judgement]:
    """All judgements, oldest first. A file that cannot be read is named in the log and does not hide the others."""
    found: list[Judgement] = []
    for path in (archive.root / DIRECTORY).glob("*.json"):
        found += _read(path)
    return sorted(found, key=lambda judgement: (judgement.at, judgement.source_id))


def of_places(
    said: Sequence[Judgement], source_ids: Sequence[str], ra_deg: Sequence[float], dec_deg: Sequence[float]
) -> list[list[Judgement]]:
    """The judgements of each of these sources, by its name or within SAME_PLACE_ARCSEC of it, in the order of `said` (oldest first)."""
    if not said:
        return [[] for _ in source_ids]
    ra, dec = np.deg2rad([judgement.ra_deg for judgement in said]), np.deg2rad([judgement.dec_deg for judgement in said])
    found = []
    for name, a, d in zip(source_ids, np.deg2rad(ra_deg), np.deg2rad(dec_deg), strict=True):
        near = 3600 * astrometry.separation_deg(ra, dec, a, d) <= SAME_PLACE_ARCSEC
        found.append([judgement for judgement, is_near in zip(said, near, strict=True) if is_near or judgement.source_id == name])
    return found


def _read(path: Path) -> list[Judgement]:
    try:
        contents: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [Judgement(**{**entry, "at": datetime.fromisoformat(entry["at"])}) for entry in contents]
    except (OSError, ValueError, TypeError, KeyError) as error:
        files.log_once(f"{path} holds no judgements ({error}): repair it or move it away")
        return []
