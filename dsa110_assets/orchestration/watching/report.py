"""The night's page: observations, failures with their reasons, a gallery, checks and candidates, in one HTML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dsa110_assets.archive.product import HELD, VERDICTS
from dsa110_assets.orchestration.judging import checks, rules
from dsa110_assets.orchestration.running import reporting
from dsa110_assets.orchestration.running.instance import events
from dsa110_assets.orchestration.specification import recipes, spec
from dsa110_assets.telescope import astrometry, timegrid
from dsa110_assets.variability.options import VARIABILITY_FILE

if TYPE_CHECKING:
    import pandas as pd

    from dsa110_assets.archive.product import Product
    from dsa110_assets.archive.store import Archive

RUNS = 20
"""How many failed runs of a partition are searched, the newest first."""
GALLERY = 48
CURVES = 12
CURVE_WIDTH, CURVE_HEIGHT = 420, 120


@dataclass(frozen=True)
class Failure:
    """A partition of an asset that could not be made, with the reason in the words of the error."""

    asset: str
    partition: str
    reason: str


def failures_of(instance: dg.DagsterInstance, archive: "Archive", night: str) -> list[Failure]:
    """The failures of the night whose product has not been made since: for each asset and partition, the latest failure."""
    failures: dict[tuple[str, str], Failure] = {}
    for partition in unfinished(archive, night):
        failed = dg.RunsFilter(tags={"dagster/partition": partition}, statuses=[dg.DagsterRunStatus.FAILURE])
        for run in instance.get_runs(filters=failed, limit=RUNS):
            for entry in events(instance, run.run_id, dg.DagsterEventType.STEP_FAILURE):
                event = entry.dagster_event
                if event is not None and archive.current(str(event.step_key), partition) is None:
                    failure_data = event.step_failure_data.user_failure_data
                    reason = (failure_data.description if failure_data else None) or (event.message or "")
                    failures.setdefault((str(event.step_key), partition), Failure(str(event.step_key), partition, reason))
    return list(failures.values())


def unfinished(archive: "Archive", night: str) -> list[str]:
    """The night's accepted observations and its hours for which any asset is missing, and the night itself."""
    keys = [p.partition for p in archive.products("subband_group", night, night) if p.partition]
    hours = list(dict.fromkeys(timegrid.hour_of(key) for key in keys))
    return list(dict.fromkeys([*_lacking(archive, night, "observation", keys), *_lacking(archive, night, "hour", hours), night]))


def _lacking(archive: "Archive", night: str, grain: spec.Grain, windows: Sequence[str]) -> list[str]:
    """Those of these windows for which any asset of their grain is missing."""
    made_partitions = [{p.partition for p in archive.products(asset, night, night, removed=True)} for asset in spec.of_grain(grain)]
    return [key for key in windows if any(key not in partitions for partitions in made_partitions)]


def write(directory: Path, night: str, archive: "Archive", failures: Sequence[Failure]) -> dict[str, Any]:
    """Write night_report.html, which needs no other file, and return the night's figures."""
    import jinja2

    from dsa110_assets.archive import quarantine

    products = {asset: archive.products(asset, night, night) for asset in spec.assets()}
    quarantined = [one for one in quarantine.quarantined(archive) if _of_night(one, night)]
    candidates, drawn = _candidates(products, recipes.nights_until(archive, night))
    judged = [
        (p, verdict) for of_asset in products.values() for p in of_asset for verdict in rules.from_metadata(p.asset, p.metadata)
        if VERDICTS in p.metadata
    ]  # fmt: skip
    failed = [(p, verdict) for p, verdict in judged if not verdict.passed]
    errors = checks.failed(p for of_asset in products.values() for p in of_asset)
    images = [asset for asset in spec.assets().values() if asset.image]
    values = {
        "night": night,
        "columns": [heading for asset in spec.of_grain("observation") for heading in spec.assets()[asset].columns.values()],
        "observations": [_observation(p, products) for p in products["subband_group"]],
        "summary": _summary(products),
        "failures": failures,
        "quarantined": quarantined,
        "failed_checks": failed,
        "errors": errors,
        "n_checks": len(judged),
        "mosaics": _pictures([p for one in reversed(images) if one.grain != "observation" for p in products[one.name]]),
        "gallery": _pictures([p for one in images if one.grain == "observation" for p in products[one.name]][:GALLERY]),
        "n_tiles": len(products["tile_image"]),
        "candidates": candidates,
        "curves": drawn,
    }
    template = files("dsa110_assets.orchestration").joinpath("templates/night_report.html").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template).render(values)
    (directory / "night_report.html").write_text(page, encoding="utf-8")
    return {
        "n_observations": len(products["subband_group"]),
        "n_images": len(products["tile_image"]),
        "n_failures": len(failures),
        "n_quarantined": len(quarantined),
        "n_checks_made": len(judged),
        "n_checks_broken": len(failed),
        "n_errors": len(errors),
        "n_candidates": len(candidates),
    }


def _of_night(entry: Any, night: str) -> bool:
    return bool((entry.observation or "").startswith(night) or any(path.name.startswith(night) for path in entry.paths))


def _observation(group: "Product", products: "Mapping[str, list[Product]]") -> dict[str, Any]:
    """The table row of one observation: the figures of all its products, and the last asset that was made of it."""
    row: dict[str, Any] = {"key": group.partition, "reached": group.asset, **group.metadata}
    observed = spec.of_grain("observation")
    for asset in observed:
        for product in products[asset]:
            if product.partition == group.partition:
                row |= {**product.metadata, "reached": asset}
    return {
        "key": row["key"],
        "reached": row["reached"],
        "figures": [_shown(row.get(name)) for asset in observed for name in spec.assets()[asset].columns],
    }


def _summary(products: "Mapping[str, list[Product]]") -> list[dict[str, Any]]:
    return [
        {
            "product": product,
            "figures": [(name, _shown(product.metadata[name])) for name in asset.figures if product.metadata.get(name) not in (None, [])],
            "held": product.metadata.get(HELD, ""),
        }
        for asset in spec.assets().values()
        for product in (products[asset.name] if asset.figures else ())
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pictures(products: "Sequence[Product]") -> list[dict[str, str]]:
    return [
        {"id": p.id, "partition": p.partition or "", "uri": reporting.data_uri(p.path / "preview.png")}
        for p in products
        if (p.path / "preview.png").is_file()
    ]


def _candidates(products: "Mapping[str, list[Product]]", nights: "Sequence[Product]") -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The candidates, most significant first, and drawings of the first few light curves over all nights."""
    if not products["variability"] or not nights:
        return [], []
    import pandas as pd

    from dsa110_assets.archive.light_curves import Nights

    table = pd.read_parquet(products["variability"][0].path / VARIABILITY_FILE)
    chosen = table[table["kind"] != ""].sort_values("q_value")
    if chosen.empty:
        return [], []
    source_ids = list(chosen["source_id"].head(CURVES))
    curves = Nights.of([product.path for product in nights]).of_sources(source_ids)
    rows = [
        {name: _shown(value) for name, value in row.items()} | {"position": astrometry.sexagesimal(row["ra_deg"], row["dec_deg"])}
        for row in chosen[["source_id", "kind", "ra_deg", "dec_deg", "n_epochs", "mean_flux_jy", "eta", "v", "q_value"]].to_dict("records")
    ]
    drawn = [{"source_id": name, "svg": _drawing(curves[curves["source_id"] == name])} for name in source_ids]
    return rows, drawn


def _drawing(curve: "pd.DataFrame") -> str:
    """A light curve as SVG: points with one-sigma error bars, time to the right, flux upwards from zero."""
    from html import escape

    points = curve[curve["flux_jy"].notna() & curve["flux_err_jy"].notna()]
    if points.empty:
        return ""
    first, last = float(points["mjd"].min()), float(points["mjd"].max())
    top = 1.05 * float((points["flux_jy"] + points["flux_err_jy"]).max()) or 1.0
    marks = []
    for mjd, flux, error in points[["mjd", "flux_jy", "flux_err_jy"]].itertuples(index=False):
        x = 40 + (CURVE_WIDTH - 50) * ((mjd - first) / (last - first) if last > first else 0.5)
        y, low, high = (CURVE_HEIGHT - 20) * (1 - flux / top) + 5, (flux - error) / top, (flux + error) / top
        y1, y2 = (CURVE_HEIGHT - 20) * (1 - low) + 5, (CURVE_HEIGHT - 20) * (1 - high) + 5
        marks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    label = f"{escape(str(curve['source_id'].iloc[0]))}: {top / 1.05:.3g} Jy at the top, MJD {first:.2f} to {last:.2f}"
    axis = f'<path d="M40 5V{CURVE_HEIGHT - 15}H{CURVE_WIDTH - 5}"/><text x="2" y="14">{top / 1.05:.2g} Jy</text>'
    axis += (
        f'<text x="40" y="{CURVE_HEIGHT - 2}">MJD {first:.2f}</text><text x="{CURVE_WIDTH - 80}" y="{CURVE_HEIGHT - 2}">{last:.2f}</text>'
    )
    return f'<svg viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" role="img" aria-label="{label}">{axis}{"".join(marks)}</svg>'
