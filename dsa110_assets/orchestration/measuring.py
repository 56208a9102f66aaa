"""Tables of measurements: which sources are known by an hour, and what measurements say about themselves."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from dsa110_assets.archive.product import Product

MEASUREMENTS, LIGHT_CURVES, VARIABILITY = (
    "source_measurements.parquet",
    "light_curves.parquet",
    "variability.parquet",
)
COMPARED_SNR = 20.0
"""Sources above this are compared with the catalogue: their own noise is below 5 %."""
EXPECTED_SNR = 10.0
INJECTED_ROWS = 200_000
"""Light-curve points the false-alarm rate is measured on: enough sources for it, and no more however long the history."""


def known_sources(catalogue: "Product", earlier: "Sequence[Product]") -> "pd.DataFrame":
    """The catalogue and everything earlier hours discovered, under the name it was first given, with the first size found."""
    import pandas as pd

    known = pd.read_parquet(catalogue.path / "source_catalog.parquet")
    found = [pd.read_parquet(p.path / MEASUREMENTS, filters=[("kind", "==", "blind")]) for p in earlier]
    if not found:
        return known
    columns = ["source_id", "ra_deg", "dec_deg", "ra_err_arcsec", "dec_err_arcsec"]
    new = pd.concat([table[[*columns, "mjd"]] for table in found]).sort_values("mjd", kind="stable").drop_duplicates("source_id")
    return _with_sizes(pd.concat([known, new[columns]], ignore_index=True), [p.path / MEASUREMENTS for p in earlier])


def _with_sizes(known: "pd.DataFrame", earlier: "Sequence[Path]") -> "pd.DataFrame":
    """Known sources with the deconvolved size, and its offset from their position, that an earlier hour first gave them.

    Every later hour measures with the same size: a light curve then has no step where a source is called resolved or not.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    from dsa110_assets.photometry.blind import SIZE_COLUMNS
    from dsa110_assets.photometry.forced import OFFSETS, SIZE

    columns = ["source_id", *SIZE_COLUMNS, *OFFSETS]
    sized = [
        pd.read_parquet(path, columns=[*columns, "mjd"], filters=[(SIZE, ">", 0)]) for path in earlier if SIZE in pq.read_schema(path).names
    ]
    if not sized:
        return known
    first = pd.concat(sized).sort_values("mjd", kind="stable").drop_duplicates("source_id")
    return known.drop(columns=[name for name in columns[1:] if name in known]).merge(first[columns], on="source_id", how="left")


def measurement_figures(rows: "pd.DataFrame", false_detections: int) -> dict[str, Any]:
    """How the hour's measurements compare with the catalogue: flux ratio, completeness, false detections.

    NaN (left out of the record) where nothing can be compared.
    """
    import numpy as np

    flux, catalogue = rows["flux_jy"].to_numpy(float), rows["catalogue_flux_jy"].to_numpy(float)
    rms, detected = rows["rms_jy"].to_numpy(float), rows["detected"].to_numpy(bool)
    clean = np.isfinite(flux) & np.isfinite(catalogue) & (rows["quality"].to_numpy(int) == 0)
    compared = clean & (flux > COMPARED_SNR * rms)
    expected = np.isfinite(catalogue) & np.isfinite(rms) & (catalogue > EXPECTED_SNR * rms)
    ratio = flux[compared] / catalogue[compared]
    n_detected = int(detected.sum())
    return {
        "n_sources": len(rows),
        "n_detected": n_detected,
        "n_limits": int(len(rows) - n_detected),
        "n_new": int((rows["kind"] == "blind").sum()),
        "n_compared": int(compared.sum()),
        "flux_ratio": float(np.median(ratio)) if ratio.size else float("nan"),
        "flux_ratio_scatter": float(1.4826 * np.median(np.abs(ratio - np.median(ratio)))) if ratio.size else float("nan"),
        "n_expected": int(expected.sum()),
        "completeness": float(detected[expected].mean()) if expected.any() else float("nan"),
        "n_false_detections": false_detections,
        "false_detection_rate": false_detections / max(n_detected, 1),
        "median_rms_jy": float(np.nanmedian(rms)) if len(rows) else float("nan"),
    }


def negative_detections(mosaic: Path, noise: Path, options: Any) -> int:
    """Sources found on the mosaic's negative, where there are none: each is a false detection."""
    from dsa110_assets.imaging import fits
    from dsa110_assets.photometry import blind

    image, header = fits.read_plane(mosaic)
    sigma, _ = fits.read_plane(noise)
    return len(blind.find_sources(-image, sigma, header, options))


def written(parts: "Iterable[pd.DataFrame]", path: Path) -> "Iterator[pd.DataFrame]":
    """The same tables, each a row group of a new Parquet file once it is asked for; the file is whole after the last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    try:
        for rows in parts:
            table = pa.Table.from_pandas(rows, preserve_index=False)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            yield rows
    finally:
        if writer is not None:
            writer.close()


def false_alarm_figures(rate: float, n_tested: int, max_false_discovery_rate: float, trials: int = 5) -> dict[str, Any]:
    """The measured false-alarm rate against what the false-discovery rate allows.

    With no true variable, Benjamini-Hochberg lets a night have any false candidate at most that often, which is
    that rate over the sources tested; one false alarm in all trials is always allowed, or no small sky could pass.
    """
    if not n_tested or rate != rate:
        return {"n_injected": 0}
    allowed = max(max_false_discovery_rate / n_tested, 1 / (trials * n_tested))
    return {"n_injected": trials * n_tested, "false_alarm_ratio": rate / allowed}
