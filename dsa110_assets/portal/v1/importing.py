"""Importing tables in a separate process, because it calibrates a measurement set with them, for which the portal lacks the memory.

`python -m dsa110_assets.portal.v1.importing ANSWER DIRECTORY BY CHECK NAME CALIBRATOR`, with '' for what is not given.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import HTTPException

from dsa110_assets import children
from dsa110_assets.archive import files
from dsa110_assets.errors import BadDataError, DsaError, NotFoundError

if TYPE_CHECKING:
    from dsa110_assets.settings import Settings

DEADLINE_S = 1800.0
_one_at_a_time = threading.Lock()


def import_set(settings: Settings, directory: str, *, by: str, check: str | None, name: str | None, calibrator: str | None) -> str:
    """Register the tables in a directory and return the set's id. Answers 409 while another import is under way, and 422 with the
    reasons if the tables are refused."""
    if not os.path.isdir(directory):
        raise NotFoundError(f"{directory}: no such directory on the portal's machine; name the one that holds the tables")
    if not any(Path(directory).glob("*/table.dat")):  # refused at once, without starting a process
        raise BadDataError(f"{directory} holds no caltable (a folder with a table.dat); name the folder that the tables lie in")
    if not _one_at_a_time.acquire(blocking=False):
        raise HTTPException(409, "another import is under way; wait for its end")
    try:
        with tempfile.TemporaryDirectory(prefix="dsa110-import-") as place:
            answer, words = Path(place, "answer.json"), (directory, by, check or "", name or "", calibrator or "")
            command = (sys.executable, "-m", "dsa110_assets.portal.v1.importing", str(answer), *words)
            locations = {"DSA110_ARCHIVE": str(settings.archive), "DSA110_INBOX": str(settings.inbox)}
            ended = children.run(command, deadline_s=DEADLINE_S, log_path=Path(place, "log"), env={**os.environ, **locations})
            answered = files.read_json(answer)
            if not isinstance(answered, dict):
                ended.require_success()
                raise HTTPException(503, f"the import ended without an answer: {ended.tail}")
    finally:
        _one_at_a_time.release()
    if "refused" in answered:
        raise HTTPException(422, str(answered["refused"]))
    return str(answered["set_id"])


def main(answer: str, directory: str, by: str, *more: str) -> None:
    """Import as `dsa110 calibration import` does, in the child process; the answer is written as JSON."""
    from dsa110_assets import settings
    from dsa110_assets.orchestration.calibrating import tables_by_hand as by_hand
    from dsa110_assets.orchestration.resources import Platform

    check, name, calibrator = (word or None for word in more)
    try:
        platform = Platform(settings.load())
        stated = by_hand.Stated(name=name, calibrator=calibrator)
        tried_on = Path(check) if check else None
        made = by_hand.import_set(platform.archive, platform.settings, platform.thresholds, Path(directory), stated, by, tried_on)
        files.write_json(Path(answer), {"set_id": made.set_id})
    except (DsaError, RuntimeError) as error:  # casacore raises RuntimeError for what is no table
        files.write_json(Path(answer), {"refused": " ".join(str(error).split())})


if __name__ == "__main__":
    main(*sys.argv[1:])
