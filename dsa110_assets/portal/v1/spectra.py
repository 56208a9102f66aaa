"""A source's spectrum, measured on request, in a separate process with limits on its time and memory.

`python -m dsa110_assets.portal.v1.spectra ANSWER SOURCE EPOCH`.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException

from dsa110_assets import analyst_spectra, children
from dsa110_assets.archive import files
from dsa110_assets.errors import DsaError, NotFoundError
from dsa110_assets.portal import curves

if TYPE_CHECKING:
    from dsa110_assets.analyst import AnalystArchive

DEADLINE_S, PATIENCE_S = 240.0, 60.0
"""The longest time for one measurement, and for waiting until those before it are done."""
MEMORY_BYTES = 8 << 30
"""Limit of the address space, which includes the mapped measurement set; resident memory at full scale is 1.2 GB."""
KEPT = 200
"""Number of spectra that are remembered, of some kB each."""
_one_at_a_time = threading.Lock()
_known: OrderedDict[tuple[str, str, str], dict[str, Any]] = OrderedDict()


def spectrum(archive: AnalystArchive, source: str, epoch: str | None) -> dict[str, Any]:
    """Return a spectrum in the form of `rows.spectrum_json`, from memory if it was measured before.

    Raises NotFoundError if no calibrated set is kept or it cannot determine the spectrum; answers 503 if other measurements take too
    long, or if the process failed.
    """
    curve = curves.light_curve(archive, source)
    at, product = analyst_spectra.set_of(archive.store, curve, epoch)
    key = (str(archive.root), str(curve.meta["source_id"]), product.id)
    if key in _known:
        return _answer(_known[key])
    if not _one_at_a_time.acquire(timeout=PATIENCE_S):
        raise HTTPException(503, "other spectra are being measured: ask again in a minute", headers={"Retry-After": "60"})
    try:
        if key not in _known:
            _known[key] = _measured(archive, key[1], at)
            while len(_known) > KEPT:
                _known.popitem(last=False)
        return _answer(_known[key])
    finally:
        _one_at_a_time.release()


def _answer(answered: dict[str, Any]) -> dict[str, Any]:
    """The answer of the child process. Raises NotFoundError if it refused."""
    if "refused" in answered:
        raise NotFoundError(str(answered["refused"]))
    return answered


def _measured(archive: AnalystArchive, source: str, epoch: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="dsa110-spectrum-") as place:
        answer = Path(place, "answer.json")
        command = (sys.executable, "-m", "dsa110_assets.portal.v1.spectra", str(answer), source, epoch)
        env = {**os.environ, "DSA110_ARCHIVE": str(archive.root), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        ended = children.run(command, deadline_s=DEADLINE_S, log_path=Path(place, "log"), env=env)
        answered = files.read_json(answer)
        if not isinstance(answered, dict):
            raise HTTPException(503, f"the measurement ended without an answer (status {ended.returncode}): {ended.tail}")
    return answered


def main(answer: str, source: str, epoch: str) -> None:
    """Measure a spectrum in the child process; the answer is written as JSON."""
    from dsa110_assets.analyst import open_archive
    from dsa110_assets.portal.rows import spectrum_json

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        told = spectrum_json(open_archive().spectrum(source, epoch))
    except (DsaError, RuntimeError) as error:  # casacore raises RuntimeError for what is no table
        told = {"refused": " ".join(str(error).split())}
    files.write_json(Path(answer), told)


if __name__ == "__main__":
    main(*sys.argv[1:])
