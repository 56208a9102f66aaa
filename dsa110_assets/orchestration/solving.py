"""One calibrator transit from measurement set to judged, registered tables; and the tables back onto data."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa110_assets.errors import BadDataError
from dsa110_assets.orchestration import calibrators, recipes

if TYPE_CHECKING:
    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.publish import Draft
    from dsa110_assets.calibration.calibrated import Calibrated
    from dsa110_assets.calibration.select import CaltableSet
    from dsa110_assets.calibration.transits import Transit
    from dsa110_assets.settings import Settings
    from dsa110_assets.sky.model import SkyModel
    from dsa110_assets.thresholds import Thresholds


@dataclass(frozen=True)
class Solved:
    """A transit that was solved: its set's name, tables and figures, and what its rules found wrong."""

    name: str
    product: "Product"
    transit: "Transit"
    paths: tuple[Path, ...]
    figures: Mapping[str, Any]
    problems: tuple[str, ...]


def solve_transit(
    product: "Product",
    transit: "Transit",
    ms_path: Path,
    sky: "SkyModel",
    settings: "Settings",
    thresholds: "Thresholds",
    directory: Path,
) -> Solved:
    """Solve one transit and write its tables below `directory`, unless its rules find it wrong: then none are kept."""
    from dsa110_assets.calibration import caltables, night, quality
    from dsa110_assets.imaging.search import bright_sources
    from dsa110_assets.visibilities import measurement_set

    fingerprint = (
        f"{recipes.RECIPES['caltables'].code_version}|{settings.solve_engine}|{json.dumps(asdict(settings.solve), sort_keys=True)}"
    )
    name = calibrators.set_name(transit, product, fingerprint)
    read = measurement_set.mapped if settings.solve_engine == "own" else measurement_set.read
    try:
        solution = night.calibrate_transit(
            read(ms_path), sky, transit, settings.solve, search=bright_sources, **_engine(settings, directory)
        )
    except BadDataError as error:
        return Solved(name, product, transit, (), {}, (str(error),))
    problems = tuple(quality.problems(solution.report, thresholds))
    paths: list[Path] = []
    if not problems:
        (directory / name).mkdir()
        for gains in solution.tables:
            path = directory / name / f"{gains.kind}.cal"
            caltables.write(gains, path, ms_path)
            paths.append(path)
    return Solved(name, product, transit, tuple(paths), solution.report, problems)


def _engine(settings: "Settings", directory: Path) -> dict[str, Any]:
    if settings.solve_engine == "own":
        return {}
    from dsa110_assets.calibration import casa_engine

    return {"engine": partial(casa_engine.solve, work_dir=directory.parent)}


def register(draft: "Draft", solved: Solved) -> None:
    """Register a solved set with its validity; it becomes visible with the product."""
    from dsa110_assets.archive import caltable_registry

    middle = float(solved.figures["mid_mjd"])
    caltable_registry.register(
        draft,
        solved.name,
        solved.paths,
        mid_mjd=middle,
        valid_start_mjd=middle - calibrators.VALIDITY_D,
        valid_end_mjd=middle + calibrators.VALIDITY_D,
        dec_deg=float(solved.product.metadata["pointing_dec_deg"]),
        antennas=solved.product.metadata["antennas"],
        calibrator=solved.transit.calibrator.name,
        anchor=solved.transit.calibrator.anchor,
        figures=_numbers(solved.figures) | {"measurement_set": solved.product.id, "refant": solved.figures["refant"]},
    )


_WORST = {
    "bandpass_snr": min, "gain_snr": min, "bandpass_flag_fraction": max, "gain_flag_fraction": max,
    "gain_amplitude_min": min, "gain_amplitude_max": max, "closure_phase_deg": max, "closure_amplitude": max,
    "gain_phase_scatter_deg": max, "dead_receptors": max, "reduced_chi2": max, "field_changed": max, "field_new": max,
}  # fmt: skip
"""Of several sets the night shows the worst."""


def write_transits(directory: Path, outcomes: Sequence[Solved]) -> None:
    """transits.json: what every transit of the night gave, the refused ones with their reasons."""
    from dsa110_assets.archive.files import write_json
    from dsa110_assets.archive.product import jsonable

    told = [
        {
            "name": one.name,
            "measurement_set": one.product.id,
            "calibrator": one.transit.calibrator.name,
            "transit_mjd": one.transit.mjd,
            "problems": list(one.problems),
            "figures": dict(one.figures),
        }
        for one in outcomes
    ]
    write_json(directory / "transits.json", jsonable({"transits": told}))


def night_figures(solved: Sequence[Solved], refused: Sequence[Solved]) -> dict[str, Any]:
    """The night's figures: how many sets, the worst of each of their numbers, what they rest on, what was refused."""
    figures: dict[str, Any] = {
        "n_transits": len(solved) + len(refused),
        "n_sets": len(solved),
        "sets": [one.name for one in solved],
        "calibrators": sorted({one.transit.calibrator.name for one in solved}),
        "anchor": ", ".join(sorted({one.transit.calibrator.anchor for one in solved})),
        "anchor_provisional": all(one.transit.calibrator.variable for one in solved),
        "refused": [f"{one.name}: {'; '.join(one.problems)}" for one in refused],
    }
    for name, worst in _WORST.items():
        if values := [float(one.figures[name]) for one in solved if name in one.figures]:
            figures[name] = worst(values)
    return figures


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def calibrate(ms_path: Path, chosen: "CaltableSet", settings: "Settings", sky: "SkyModel", path: Path, note: str) -> "Calibrated":
    """Write the measurement set at `ms_path`, corrected by a set's tables and against `sky`, averaged as set, to `path`."""
    from dsa110_assets.calibration import calibrated, caltables
    from dsa110_assets.imaging.search import bright_sources
    from dsa110_assets.visibilities import averaging, measurement_set

    tables = [caltables.read(table) for table in chosen.paths]
    with measurement_set.opened(ms_path) as stored:
        n_channels, width_hz = stored.frame.frequencies_hz.size, stored.frame.channel_width_hz
    channels = settings.average_channels or averaging.channels_up_to(averaging.WIDEST_HZ, n_channels, width_hz)
    how: dict[str, Any] = {
        "channels": channels, "times": settings.average_times, "observer_note": note,
        "against": calibrated.Against(sky, settings.epoch, bright_sources),
    }  # fmt: skip
    if settings.solve_engine == "own":
        return calibrated.calibrate_set(ms_path, tables, path, **how)
    from dsa110_assets.calibration import casa_engine

    vis = casa_engine.apply(measurement_set.read(ms_path), tables, work_dir=path.parent.parent)
    return calibrated.write_averaged(vis, path, **how)


def write_verdicts(made: "Calibrated", chosen: "CaltableSet", directory: Path, ms_path: Path) -> dict[str, Any]:
    """What the antennas were found to be: antennas.parquet, a picture, and what was applied as a CASA table; the figures."""
    if made.observed is None:
        return {"antennas_judged": False}
    from dsa110_assets.calibration import caltables, verdicts

    receptors = verdicts.table(made.observed, made.frame, made.system_jy, {})
    receptors.to_parquet(directory / "antennas.parquet")
    verdicts.draw(receptors, directory / "preview.png")
    caltables.write(verdicts.gains(made.observed, made.frame), directory / "epoch.cal", ms_path)
    return verdicts.figures(made.observed, receptors)
