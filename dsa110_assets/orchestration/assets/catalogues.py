"""Catalogues: the sources known before the night, the sky model made from them, and the calibrators."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa110_assets.archive import files
from dsa110_assets.orchestration.calibrating import calibrators
from dsa110_assets.orchestration.judging import judges
from dsa110_assets.orchestration.judging.rules import Rule
from dsa110_assets.orchestration.running.step import Step
from dsa110_assets.orchestration.specification import recipes
from dsa110_assets.orchestration.specification.spec import Asset

if TYPE_CHECKING:
    import pandas as pd

    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings


def _catalogue_files(archive: "Archive", settings: "Settings", partition: str) -> recipes.Ingredients:
    """The imported catalogues, which are files outside the archive. A catalogue counts as changed if its bytes have changed, not if only
    its modification time has."""
    facts = [f"{path}:{_content(path)}" if path.exists() else f"{path}:missing" for path in settings.catalogues]
    return recipes.Ingredients(facts={"catalogues": facts})


def _content(path: "Path") -> str:
    """A file's digest, read only once as long as its size and times are unchanged."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=64)
def _digest(path: "Path", *stamp: int) -> str:
    return files.digest(path)


@Asset(
    "source_catalog", grain="catalogue", kinds={"parquet"}, code_version="3", finder=_catalogue_files,
    shaping=("catalogue_frequencies_mhz",),
    rules=(
        Rule("coverage", "there are sources, and every position lies on the sky", ("n_sources", "n_invalid_positions"),
             judges.every(judges.at_least("n_sources", lambda _: 1), judges.none_of("n_invalid_positions")), hard=True),
    ),
)  # fmt: skip
def source_catalog(step: Step) -> Mapping[str, Any]:
    """Known sources: the configured catalogues, in their order of precedence, and the packaged VLA calibrators."""
    from dsa110_assets.sky import catalogues

    settings = step.settings
    imported = [read_configured(settings, path) for path in settings.catalogues]
    merged = catalogues.with_builtin(imported)
    merged.to_parquet(step.directory / "source_catalog.parquet")
    return {
        "n_sources": len(merged),
        "n_catalogues": len(imported) + 1,
        "n_repeats": sum(frame.attrs["n_repeats"] for frame in imported),
        "n_known_twice": sum(map(len, imported)) + len(catalogues.builtin()) - len(merged),
        "n_without_flux": int(merged["flux_jy"].isna().sum()),
        "n_invalid_positions": int((~merged["dec_deg"].between(-90, 90) | ~merged["ra_deg"].between(0, 360)).sum()),
    }


def read_configured(settings: "Settings", path: Path) -> "pd.DataFrame":
    """Read one of the configured catalogues with `catalogues.read_catalogue`. Raises ConfigurationError, with the remedy."""
    from dsa110_assets.sky import catalogues

    return catalogues.read_catalogue(path, frequency_hz=settings.catalogue_frequency_hz(path))


def _sources_and_own_list(archive: "Archive", settings: "Settings", _: str) -> recipes.Ingredients | None:
    """The source catalogue, and the digest of the user's own list of calibrators, if one is configured."""
    product = recipes.usable(archive, "source_catalog", None)
    if product is None:
        return None
    own_list = settings.calibrators
    return recipes.Ingredients(
        (product,), {} if own_list is None else {"own_calibrators": _content(own_list) if own_list.exists() else "missing"}
    )


@Asset(
    "calibrator_catalog", grain="catalogue", kinds={"parquet"}, code_version="2", inputs=("source_catalog",), finder=_sources_and_own_list,
    rules=(
        Rule("no_unknown_flux", "no calibrator without a known flux sets a flux scale", ("n_unknown_flux_used", "n_with_flux"),
             judges.every(judges.none_of("n_unknown_flux_used"), judges.at_least("n_with_flux", lambda _: 1)), hard=True),
    ),
)  # fmt: skip
def calibrator_catalog(step: Step) -> Mapping[str, Any]:
    """The VLA calibrator list and bright isolated sources of the imported catalogues, with their flux anchors.

    A calibrator without a flux near 20 cm never sets a flux scale.
    """
    import pandas as pd

    from dsa110_assets.calibration.transits import has_flux
    from dsa110_assets.sky import calibrator_catalog as catalog
    from dsa110_assets.sky.calibrators import LIST_NAME

    own_list = step.settings.calibrators
    known = catalog.of_sources(pd.read_parquet(step.input("source_catalog").path / "source_catalog.parquet"))
    known = known if own_list is None else catalog.with_own(catalog.read_own(own_list), known)
    usable = [c for c in known if has_flux(c)]
    catalog.to_frame(known).to_parquet(step.directory / calibrators.CATALOG_FILE)
    return {
        "n_calibrators": len(known),
        "n_with_flux": len(usable),
        "n_standards": sum(c.standard is not None for c in known),
        "n_of_catalogues": sum(c.catalogue != LIST_NAME for c in known),
        "n_unknown_flux_used": sum(not float(c.flux_jy(1.4e9)) > 0 for c in usable),
    }


@Asset(
    "sky_model", grain="catalogue", kinds={"parquet"}, code_version="2", inputs=("source_catalog",),
    rules=(
        Rule("coverage", "the model holds sources", ("n_sources", "n_left_out"), judges.at_least("n_sources", lambda _: 1), hard=True),
    ),
)  # fmt: skip
def sky_model(step: Step) -> Mapping[str, Any]:
    """Point sources with spectra, for calibration and for judging images: every known source that has a flux."""
    import pandas as pd

    from dsa110_assets.sky import model

    table = pd.read_parquet(step.input("source_catalog").path / "source_catalog.parquet")
    sky = model.from_frame(table[table["flux_jy"] > 0])
    sky.to_frame().to_parquet(step.directory / SKY_MODEL_FILE)
    return {
        "n_sources": len(sky),
        "n_left_out": len(table) - len(sky),
        "total_flux_jy": float(sky.flux_jy.sum()),
        "brightest_jy": float(sky.flux_jy.max(initial=0.0)),
    }


SKY_MODEL_FILE = "sky_model.parquet"


def read_sky_model(directory: Path) -> Any:
    """The sky model of a published `sky_model`."""
    from dsa110_assets.sky import model

    return model.read(directory / SKY_MODEL_FILE)
