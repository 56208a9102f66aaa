"""Effect of faults of the instrument or the calibrator on fluxes and noise, at full scale.

3C138's transit is simulated and solved. The observation after it is simulated with each fault, calibrated with those tables,
compared with the sky, and imaged, by the functions of `later_observation` that tests use with 24 antennas. Figures: median and
worst ratio of product to truth of the bright isolated sources, and noise over the radiometer noise. The remark names the
lost receptors and the failed checks. A row takes about two minutes; rows already in the scratch folder are kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import Contender, Data, Row, compare

KEPT = "sky-faults.json"
_HOURS = 3


def rows(data: Data, repeats: int) -> list[Row]:
    found = data.scratch / KEPT
    data.scratch.mkdir(parents=True, exist_ok=True)
    call = {"found": str(found), "scratch": str(data.scratch)}
    (all_of_them,) = compare([Contender("sky faults", "dsa110_assets", seen_all, call, limit_s=3600 * _HOURS)], 1)
    told = json.loads(found.read_text()) if found.exists() else {}
    each = [Row(f"fault: {name}", "dsa110_assets", remark=one["remark"], accuracy=one["figures"]) for name, one in told.items()]
    return [*each, all_of_them] if all_of_them.failed else each


def seen_all(found: str, scratch: str) -> dict[str, Any]:
    """Process every fault in turn and add its results to the file `found` under the fault's name."""
    import tempfile

    from dsa110_assets_tests.end_to_end import later_observation as later

    told: dict[str, Any] = json.loads(Path(found).read_text()) if Path(found).exists() else {}

    def keep(name: str, one: dict[str, Any]) -> None:
        told[name] = one
        Path(found).write_text(json.dumps(told, indent=1))

    planted = {"healthy": (), **later.CORRECTED, **later.FLAGGED, **later.INTERFERENCE}
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        if set(planted) - set(told):
            (Path(place) / "tables").mkdir()
            solution, sky = later.solved(Path(place) / "tables", (), later.FULL)
    for name, faults in planted.items():
        if name not in told:
            with tempfile.TemporaryDirectory(dir=scratch) as place:
                keep(name, described(later.seen(Path(place), (solution.tables, sky), faults, later.FULL)))
    for name, (fault, _) in later.WRONG_CALIBRATORS.items():
        if name not in told:
            with tempfile.TemporaryDirectory(dir=scratch) as place:
                problems, one = later.judged(Path(place), fault, later.FULL)
                keep(name, described(one) if one else {"figures": {}, "remark": f"refused: {'; '.join(problems)}"})
    return {}


def described(seen: Any) -> dict[str, Any]:
    """The figures and the remark of an observation, as the table shows them."""
    lost, failed = seen.figures["receptors_lost"], list(seen.failed)
    said = [f"lost: {' '.join(lost)}" if lost else "", f"failed checks: {', '.join(failed)}" if failed else "",
            "excluded" if seen.excluded else ""]  # fmt: skip
    return {
        "figures": {"median ratio": seen.ratio, "worst ratio": seen.worst, "noise over radiometer's": seen.noise},
        "remark": "; ".join(filter(None, said)),
    }
