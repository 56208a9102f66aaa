"""The program behind `ops/benchmarks/all` and `ops/benchmarks/STAGE`: run stages, renew RESULTS.md and the plots.

    ops/benchmarks/all [--only STAGE ...] [--data FOLDER] [--scratch FOLDER] [--repeats 5] [--dry]

Without --data the full-scale group (96 antennas x 48 channels x 16 subbands, 2.3 GB) is simulated once and kept. Figures
are kept in results.json, so that one stage can be renewed alone. About 20 GB of disk.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

import common
import derived
import goals

HERE = Path(__file__).resolve().parent
STAGES = (
    "visibilities", "flagging", "solve", "apply", "imaging", "detection", "mosaic", "photometry", "lightcurves", "group",
    "sky_faults", "constant_sky", "healthy", "backfill", "orchestration", "watching", "years", "scaling", "many_machines", "workers",
)  # fmt: skip
"""The stages in the order in which they run; each is a file here with a function `rows`."""
SMALL = {"flagging", "lightcurves", "sky_faults", "constant_sky", "healthy", "detection", "watching", "years", "many_machines", "workers"}
"""Stages that make their own data."""
BEGIN, END = "<!-- figures: renewed by ops/benchmarks/all -->", "<!-- end of figures -->"


def main() -> int:
    wanted = _arguments()
    wanted.scratch.mkdir(parents=True, exist_ok=True)
    data = common.Data(wanted.data or wanted.scratch / "inbox", wanted.scratch)
    results = HERE / "results.json"
    kept = json.loads(results.read_text()) if results.exists() else {}
    began = time.monotonic()
    sys.path.insert(0, str(HERE.parent.parent))
    if set(wanted.only or STAGES) - SMALL:
        derived.simulated(data)
    failed = []
    for stage in wanted.only or STAGES:
        print(f"== {stage} (after {time.monotonic() - began:.0f} s)", flush=True)
        rows = common.attempt(stage, lambda stage=stage: importlib.import_module(stage).rows(data, wanted.repeats))  # type: ignore[misc]
        failed += [stage] if any(row.failed for row in rows) else []
        kept[stage] = {"machine": common.machine(), "rows": common.saved(rows)}
        if wanted.dry:
            print(common.table(rows))
        else:
            results.write_text(json.dumps(kept, indent=1) + "\n")
            _renew(kept)
    print(f"done in {time.monotonic() - began:.0f} s; {'failed: ' + ', '.join(failed) if failed else 'nothing failed'}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsa110-benchmarks"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE", help=f"some of {', '.join(STAGES)}")
    parser.add_argument("--data", type=Path, help="folder of an existing full-scale group, as `dsa110 simulate` makes it")
    parser.add_argument("--scratch", type=Path, default=cache, help="where data and what is derived from them are kept")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print the tables and leave RESULTS.md alone")
    return parser.parse_args()


def _renew(kept: dict[str, dict[str, object]]) -> None:
    """Write the tables between the markers of RESULTS.md, and the plots."""
    rows = {stage: common.loaded(kept[stage]["rows"]) for stage in STAGES if stage in kept}  # type: ignore[arg-type]
    everything = [row for stage in rows.values() for row in stage]
    parts = ["## Goals\n", goals.table(everything), "![all stages](stages.png)\n"]
    told: dict[str, object] = {}
    for stage, found in rows.items():
        parts += [f"## {stage.capitalize()}\n", common.table(found)]
        if (HERE / f"{stage}.png").exists():
            parts.append(f"![{stage}]({stage}.png)\n")
        told.update(kept[stage]["machine"])  # type: ignore[call-overload]
    versions = "\n".join(f"- {name}: {value}" for name, value in told.items())
    parts += ["## Machine and versions\n", versions + "\n"]
    common.plot([row for row in everything if row.engine != "simulated"], HERE / "stages.png")
    page = HERE / "RESULTS.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + BEGIN + "\n\n" + "\n".join(parts) + "\n" + END + after)


if __name__ == "__main__":
    sys.exit(main())
