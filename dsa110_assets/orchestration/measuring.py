"""Tables of measurements: which sources are known by an hour, and what measurements say about themselves."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from dsa110_assets.archive.product import Product
    from dsa110_assets.mosaics.coadd import TileInput
    from dsa110_assets.photometry.options import EnsembleOptions
    from dsa110_assets.photometry.past import Past

MEASUREMENTS, VARIABILITY = "source_measurements.parquet", "variability.parquet"
TILES = "tiles.parquet"
"""An hour's tiles and what was said of them; bit k of a measurement's `tiles` is its row k."""
POINTS = "points.parquet"
"""Of a tile: its bright points with their spectral indices."""
LEAST_SHARE = 0.01
"""A tile with less of a place's weight is not named there."""
SUSPECT_SHARE = 0.1
"""A suspect tile that was published is off by some 10 % at most: a tenth of the weight makes that 1 %."""
MOST_CHANCE_DETECTIONS = 1
"""Noise alone gives one negative detection at 5 sigma in ten hours (3e-7 of some 3e5 beams), two in 200."""
ARTEFACT_MARGIN = 1.5
"""New sources so much brighter than the brightest negative are none of their kind."""
SAME_FREQUENCY = 0.002
"""Fluxes at frequencies that differ by less differ by 0.14 % for an index of -0.7: an epoch's history is compared as it is."""
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
    """How the hour's measurements compare with the catalogue: flux ratio with its error, completeness, false detections.

    Sources are chosen by what the catalogue expects of them, not by the flux that is to be compared. A suspect tile's rows
    count too: the hour is asked as a whole. NaN (left out of the record) where nothing can be compared.
    """
    import numpy as np

    flux, catalogue = rows["flux_jy"].to_numpy(float), rows["catalogue_flux_jy"].to_numpy(float)
    rms, detected = rows["rms_jy"].to_numpy(float), rows["detected"].to_numpy(bool)
    clean = np.isfinite(flux) & np.isfinite(catalogue) & (_but_tiles(rows) == 0)
    compared = clean & (catalogue > COMPARED_SNR * rms)
    expected = np.isfinite(catalogue) & np.isfinite(rms) & (catalogue > EXPECTED_SNR * rms)
    n_detected = int(detected.sum())
    return {
        "n_sources": len(rows),
        "n_detected": n_detected,
        "n_limits": int(len(rows) - n_detected),
        "n_new": int((rows["kind"] == "blind").sum()),
        "n_compared": int(compared.sum()),
        **_ratio("flux_ratio", flux[compared] / catalogue[compared], rows["flux_err_jy"].to_numpy(float)[compared] / catalogue[compared]),
        "n_expected": int(expected.sum()),
        "completeness": float(detected[expected].mean()) if expected.any() else float("nan"),
        "n_false_detections": false_detections,
        "false_detection_rate": false_detections / max(n_detected, 1),
        "median_rms_jy": float(np.nanmedian(rms)) if len(rows) else float("nan"),
    }


def _ratio(name: str, values: Any, errors: Any) -> dict[str, float]:
    from dsa110_assets.imaging import reference

    found = reference.robust_mean(values, errors, reference.PRIOR_FLUX_SCATTER)
    return {name: found.value, f"{name}_error": found.error, f"{name}_scatter": found.scatter}


def _but_tiles(rows: "pd.DataFrame") -> Any:
    from dsa110_assets.photometry.quality import Quality

    return rows["quality"].to_numpy("int64") & ~int(Quality.TILE_SUSPECT)


def history_figures(rows: "pd.DataFrame", earlier: "Sequence[Product]") -> dict[str, Any]:
    """The hour's fluxes over those of the same sources in earlier hours, whose median counts: history_flux_ratio, its error
    and scatter, and history_count.

    Sources whose earlier fluxes are above 20 sigma, at the same frequency, with no quality bit but those of tiles now, and none
    then.
    """
    import numpy as np
    import pandas as pd

    columns = ["source_id", "flux_jy", "flux_err_jy", "frequency_hz"]
    clean = [("quality", "==", 0), ("source_id", "in", sorted(rows["source_id"]))]
    past = [pd.read_parquet(p.path / MEASUREMENTS, columns=columns, filters=clean) for p in earlier] if len(rows) else []
    if not past:
        return {"history_count": 0, **_ratio("history_flux_ratio", np.empty(0), np.empty(0))}
    at_hz = float(rows["frequency_hz"].iloc[0])
    then = pd.concat(past)
    then = then[(then["frequency_hz"] - at_hz).abs() <= SAME_FREQUENCY * at_hz].groupby("source_id")
    then = then.agg(flux=("flux_jy", "median"), error=("flux_err_jy", "median"), n=("flux_jy", "size"))
    then = then[then["flux"] > COMPARED_SNR * then["error"]]
    now = rows[np.isfinite(rows["flux_jy"]) & (_but_tiles(rows) == 0)].set_index("source_id").join(then, how="inner")
    ratio = (now["flux_jy"] / now["flux"]).to_numpy(float)
    error = np.hypot(now["flux_err_jy"], 1.2533 * now["error"] / np.sqrt(now["n"])).to_numpy(float) / now["flux"].to_numpy(float)
    return {"history_count": len(now), **_ratio("history_flux_ratio", ratio, error)}


def tile_table(tiles: "Sequence[Product]", mosaic: "Product") -> "pd.DataFrame":
    """What is known of each tile of a mosaic, in the order of `tiles`; `suspicion` is '' if nothing speaks against it."""
    import pandas as pd

    told = ("partition", "mjd_start", "mjd_end", "caltable_set", "anchor", "rms_over_radiometer", "flux_ratio", "flux_ratio_error")
    scales, suspects = mosaic.metadata.get("tile_scales", {}), mosaic.metadata.get("suspects", {})
    rows = [
        {
            "product_id": tile.id,
            **{name: {"partition": tile.partition, **tile.metadata}.get(name) for name in told},
            "divided_by": scales.get(tile.id, 1.0),
            "antennas_lost": ", ".join(tile.metadata.get("antennas_lost", ())),
            "suspicion": suspects.get(tile.id, ""),
        }
        for tile in tiles
    ]
    return pd.DataFrame(rows)


def with_tiles(rows: "pd.DataFrame", inputs: "Sequence[TileInput]", table: "pd.DataFrame", pb_cutoff: float) -> "pd.DataFrame":
    """The rows with `tiles`, in whose bit k stands whether row k of `table` was used, and TILE_SUSPECT where suspect ones
    have a tenth of the weight. Of a tile whose files are gone nobody knows the share: if it is suspect, every row is.
    """
    import numpy as np

    from dsa110_assets.mosaics import shares
    from dsa110_assets.photometry.quality import Quality

    ra, dec = (rows[name].to_numpy(float) for name in ("ra_deg", "dec_deg"))
    share = shares.tile_shares(inputs, ra, dec, pb_cutoff)
    suspect = (table["suspicion"] != "").to_numpy()
    doubtful = ~(np.where(np.isnan(share), 1.0, share)[suspect].sum(axis=0) <= SUSPECT_SHARE)
    bits = (1 << np.arange(len(inputs), dtype=np.int64))[:, None]
    quality = rows["quality"].to_numpy(np.int64) | np.where(doubtful, int(Quality.TILE_SUSPECT), 0)
    return rows.assign(tiles=np.where(share >= LEAST_SHARE, bits, 0).sum(axis=0), quality=quality)


def with_spectra(rows: "pd.DataFrame", tiles: "Sequence[Product]", mosaic: "Product") -> "pd.DataFrame":
    """The rows with spectral_index and spectral_index_err, from the bright points of the mosaic's tiles within half its beam;
    NaN where none tells. Tiles whose files are gone tell nothing.
    """
    import pandas as pd

    from dsa110_assets.imaging.fits import read_header
    from dsa110_assets.photometry.indices import source_indices

    _, beam = read_header(mosaic.path / "mosaic.fits")
    tables = (pd.read_parquet(path) for tile in tiles if (path := tile.path / POINTS).exists())
    ra, dec = (rows[name].to_numpy(float) for name in ("ra_deg", "dec_deg"))
    index, error = source_indices(tables, ra, dec, beam.bmin_deg / 2)
    return rows.assign(spectral_index=index, spectral_index_err=error)


def suspect_figures(rows: "pd.DataFrame", table: "pd.DataFrame") -> dict[str, Any]:
    """How many tiles are suspect, which and why, and how many rows that and doubtful discoveries touch."""
    from dsa110_assets.photometry.quality import Quality

    suspect = table[table["suspicion"] != ""]
    quality = rows["quality"].to_numpy("int64")
    return {
        "n_suspect_tiles": len(suspect),
        "suspect_tiles": [f"{one.product_id}: {one.suspicion}" for one in suspect.itertuples()],
        "n_suspect_rows": int(((quality & int(Quality.TILE_SUSPECT)) != 0).sum()),
        "n_doubtful_new": int(((quality & int(Quality.DOUBTFUL_NEW)) != 0).sum()),
    }


def with_doubts(rows: "pd.DataFrame", negative_snr: "NDArray[np.float64]", most_false: float) -> "pd.DataFrame":
    """The rows with DOUBTFUL_NEW where new sources are no brighter than what the hour's negative image shows, if it shows
    more than chance does: as many are expected among the new ones, and more than `most_false` of those are too many.
    """
    import numpy as np

    from dsa110_assets.photometry.quality import Quality

    new, n_false = (rows["kind"] == "blind").to_numpy(), negative_snr.size
    high = n_false > MOST_CHANCE_DETECTIONS and n_false > most_false * int(new.sum())
    like_them = rows["snr"].to_numpy(float) <= ARTEFACT_MARGIN * negative_snr.max(initial=0.0)
    return rows.assign(quality=rows["quality"].to_numpy(np.int64) | np.where(high & new & like_them, int(Quality.DOUBTFUL_NEW), 0))


def common_frequency_hz(measurements: "Sequence[Product]") -> float:
    """The median frequency the hours' fluxes are at; NaN if none says."""
    import numpy as np

    known = [float(p.metadata["frequency_hz"]) for p in measurements if p.metadata.get("frequency_hz")]
    return float(np.median(known)) if known else float("nan")


def negative_detections(mosaic: Path, noise: Path, options: Any) -> "NDArray[np.float64]":
    """Signal-to-noise (n,) of the sources found on the mosaic's negative, where there are none: each is a false detection."""
    import numpy as np

    from dsa110_assets.imaging import fits
    from dsa110_assets.photometry import blind

    image, header = fits.read_plane(mosaic)
    sigma, _ = fits.read_plane(noise)
    return np.asarray(blind.find_sources(-image, sigma, header, options)["snr"], np.float64)


def past_of(earlier: "Sequence[Product]", options: "EnsembleOptions") -> "tuple[Past, pd.DataFrame | None]":
    """What the night before left for the next, and the source_id and mjd of its rows; without such a night nothing."""
    import pandas as pd

    from dsa110_assets.photometry import nightrows
    from dsa110_assets.photometry.past import Past

    if not earlier:
        return Past.nothing(options), None
    folder = earlier[-1].path
    return Past.read(folder), pd.read_parquet(folder / nightrows.FILE, columns=["source_id", "mjd"])


def false_alarm_figures(rate: float, n_tested: int, max_false_discovery_rate: float, trials: int = 5) -> dict[str, Any]:
    """The measured false-alarm rate against what the false-discovery rate allows.

    With no true variable, Benjamini-Hochberg lets a night have any false candidate at most that often, which is
    that rate over the sources tested; one false alarm in all trials is always allowed, or no small sky could pass.
    """
    if not n_tested or rate != rate:
        return {"n_injected": 0, "false_alarm_ratio": float("nan")}
    allowed = max(max_false_discovery_rate / n_tested, 1 / (trials * n_tested))
    return {"n_injected": trials * n_tested, "false_alarm_ratio": rate / allowed}
