"""The analyst's view of the archive, which `open_archive()` returns, in astropy's and pandas' types.

Everything returned carries units and the id of the product it came from; nothing is written. Dagster is
not imported: an analyst needs the archive and this package, not the pipeline's settings or database.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa110_assets import surroundings
from dsa110_assets.analyst_times import bound, moment
from dsa110_assets.errors import ConfigurationError, NotFoundError
from dsa110_assets.sky.names import look_up, some
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from astropy.coordinates import Angle
    from astropy.table import QTable, Table
    from astropy.timeseries import TimeSeries

    from dsa110_assets.analyst_times import Moment
    from dsa110_assets.analyst_views import Calibration, Image, Visibility
    from dsa110_assets.archive.light_curves import Nights
    from dsa110_assets.archive.product import LineageNode, Product
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.orchestration.specification.spec import Grain

ARCHIVE_VARIABLE, DATABASE_VARIABLE = "DSA110_ARCHIVE", "DSA110_DATABASE_URL"


def open_archive(path: str | Path | None = None, trial: str | None = None) -> AnalystArchive:
    """Open the archive at `path` (None: DSA110_ARCHIVE); with `trial`, that trial's products replace the science products.

    Raises ConfigurationError if there is no archive, and NotFoundError, which lists the existing trials, for an unknown trial.
    """
    named = str(path) if path is not None else os.environ.get(ARCHIVE_VARIABLE, "")
    if not named.strip():
        raise ConfigurationError(f"no archive named: set {ARCHIVE_VARIABLE}, or open_archive('/its/path')")
    try:
        root = surroundings.place(Path(named))
    except ValueError as error:
        raise ConfigurationError(f"no archive named: {error}") from None
    if not root.is_dir():
        origin = "" if path is not None else f" ({ARCHIVE_VARIABLE})"
        raise ConfigurationError(f"there is no archive at {root}{origin}: no such directory")
    from dsa110_assets.archive.store import Archive

    store = Archive(root, database_url=os.environ.get(DATABASE_VARIABLE, "").strip() or None)
    if trial is not None:
        from dsa110_assets.archive import trials

        store = trials.Trial(store, trials.definition(store, trial).name)
    return AnalystArchive(store)


class AnalystArchive:
    """Read access to everything published: see the methods; keys are UTC windows such as 2026-01-25T22:25."""

    def __init__(self, store: Archive) -> None:
        self.store = store
        self.root = Path(store.root)

    def __repr__(self) -> str:
        return f"<AnalystArchive {self.root}>"

    # -- products --

    def products(
        self,
        asset: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        state: str | None = "current",
    ) -> pd.DataFrame:
        """The products whose windows start from `since` to `until`, both included; a date means its whole day.

        `state` is current, superseded, rejected or None for all. Columns: product_id, asset, partition,
        version, path, size_bytes, created_at (UTC), state, run_id, code_version, digest, inputs, then the
        metadata (units in their names). Raises NotFoundError for an asset that does not exist.
        """
        import pandas as pd

        found = self.store.products(known_asset(self.store, asset), bound(since), bound(until), state)
        rows = [
            {
                "product_id": product.id, "asset": product.asset, "partition": product.partition,
                "version": product.version, "path": str(product.path), "size_bytes": product.size_bytes,
                "created_at": product.created_at, "state": product.state, "run_id": product.run_id,
                "code_version": product.code_version, "digest": product.digest, "inputs": product.inputs,
            }
            for product in found
        ]  # fmt: skip
        for row, product in zip(rows, found, strict=True):
            row.update({key: value for key, value in product.metadata.items() if key not in row})
        return pd.DataFrame(rows, columns=None if rows else list(PRODUCT_COLUMNS))

    def product(self, asset: str, key: Moment | Path) -> Product:
        """The current product of `asset` for a partition key or time, or the product with this id or path.

        Raises NotFoundError, which says what exists.
        """
        from dsa110_assets.orchestration.graph import specifications

        return self._product(asset, specifications()[asset].grain, key)

    def _product(self, asset: str, grain: Grain, key: Moment | Path) -> Product:
        if isinstance(key, Path) or (isinstance(key, str) and ("-v" in key or "/" in key)):
            product = self.store.find(key)
            if product.asset != asset:
                raise NotFoundError(f"{product.id} is a {product.asset}, not a {asset}")
            return product
        partition = _partition(grain, key)
        found = self.store.current(asset, partition)
        if found is None:
            raise NotFoundError(f"no {asset} for {partition}: {self._existing_partitions(asset, partition)}")
        return found

    def _existing_partitions(self, asset: str, partition: str) -> str:
        present = sorted(p.partition for p in self.store.products(asset) if p.partition)
        if not present:
            return f"the archive holds no {asset} at all"
        day = [key for key in present if key.startswith(partition[:10])]
        if day:
            return f"that night there are {len(day)}: {some(day)}"
        return f"there are {len(present)}, from {present[0]} to {present[-1]}"

    # -- images and visibilities --

    def image(self, key: Moment | Path) -> Image:
        """The 5-minute image of an observation window, product id or path. Raises NotFoundError."""
        return self._image("tile_image", "observation", key)

    def mosaic(self, key: Moment | Path) -> Image:
        """The mosaic of a UTC hour. Raises NotFoundError."""
        return self._image("hour_mosaic", "hour", key)

    def night(self, key: Moment | Path) -> Image:
        """The mosaic of a night (UTC day). Raises NotFoundError."""
        return self._image("night_mosaic", "night", key)

    def requested_mosaic(self, name: str) -> Image:
        """The mosaic requested under this name, which `dsa110 requested make` makes. Raises NotFoundError."""
        from dsa110_assets.archive import requested

        return self._image(requested.ASSET, "request", requested.find(self.store, name).partition)

    def requested_mosaics(self) -> pd.DataFrame:
        """All requests for mosaics, sorted by name: name, since, until (UTC), tiles, centre_deg, radius_deg, calibrator, tier, by,
        created_at (UTC), and product_id and path of the mosaic, None while it does not exist."""
        from dataclasses import asdict, fields

        import pandas as pd

        from dsa110_assets.archive import requested

        pairs = [(request, self.store.current(requested.ASSET, request.partition)) for request in requested.requests(self.store)]
        rows = [{**asdict(request), "product_id": p and p.id, "path": p and str(p.path)} for request, p in pairs]
        return pd.DataFrame(rows, columns=[*(field.name for field in fields(requested.Request)), "product_id", "path"])

    def _image(self, asset: str, grain: Grain, key: Moment | Path) -> Image:
        from dsa110_assets.analyst_views import Image

        return Image.of(self._product(asset, grain, key))

    def measurement_set(self, key: Moment | Path) -> Visibility:
        """The flagged, uncalibrated measurement set of an observation window. Raises NotFoundError."""
        return self._visibility("measurement_set", key)

    def calibrated_ms(self, key: Moment | Path) -> Visibility:
        """The calibrated, averaged measurement set of an observation window. Raises NotFoundError."""
        return self._visibility("calibrated_ms", key)

    def _visibility(self, asset: str, key: Moment | Path) -> Visibility:
        from dsa110_assets.analyst_views import Visibility

        return Visibility.of(self._product(asset, "observation", key))

    def caltables(self, at: Moment) -> Calibration:
        """The calibration in force at a time: the set with which an observation taken then would be calibrated now.

        Raises NotFoundError if the observation would have to wait; it says why and lists the existing sets.
        """
        from dsa110_assets.analyst_views import calibration_at

        return calibration_at(self.store, timegrid.datetime_to_mjd(moment(at)))

    # -- sources --

    def sources(self, ra: Any = None, dec: Any = None, radius: Any = None) -> Table:
        """All sources with a light curve, or those within `radius` of (ra, dec), nearest first.

        Angles are Quantities, plain numbers in degrees, or strings such as '12h30m49s' and '+12d23m'.
        Columns: source_id, ra, dec [deg], n_epochs, n_detected, flux, flux_rms [Jy], separation [arcsec].
        """
        from dsa110_assets import analyst_tables as tables

        region = cone(ra, dec, radius)
        table = tables.sources(*self._nights())
        return table if region is None else tables.within(table, *region)

    def light_curve(self, name: str) -> TimeSeries:
        """A source's light curve over all nights: time (of its transit), flux, error, limit, rms, flags, and each point's product.

        Errors are those of the last night's model. `error` is relative to the source's own mean and includes each epoch's systematic
        part; `absolute_error` is relative to its true flux, at the frequency `meta["frequency"]`.
        `name` is a source id; if no id is identical, the one that differs only in case, blanks and underscores is used.
        A non-detection is a row whose `flux` is the forced flux and `limit` the 5 sigma upper limit; `limit` is NaN
        where detected; `meta["left_out"]` are nights that cannot be read. Raises NotFoundError, which names the most similar source,
        or all that match.
        """
        from dsa110_assets import analyst_tables as tables

        nights, last = self._nights()
        rows = nights.of_sources([name], tables.READ)
        if rows.empty:
            rows = nights.of_sources([look_up(name, ([(source, source) for source in nights.names()],), "source")], tables.READ)
        return tables.light_curve(rows, nights, last)

    def spectrum(self, name: str, epoch: str | None = None) -> QTable:
        """A source's flux density in every subband, at its last epoch whose calibrated set is kept, or at `epoch`.

        It is fitted to the visibilities together with all catalogue sources around it (`photometry.subbands`), on the set's own flux
        scale, not normalised to the ensemble; this takes half a minute of a core at full scale. Columns: subband, frequency, low, high
        [Hz], flux, error [Jy], n_visibilities. `meta` has epoch, product_id (the set), response (of the primary beam at the source), and
        the power law through the points: index, index_err, level, level_err at the frequency pivot. Raises NotFoundError if no set is
        kept.
        """
        from dsa110_assets import analyst_spectra

        return analyst_spectra.spectrum(self.store, self.light_curve(name), epoch)

    def light_curves(self, names: Sequence[str]) -> Table:
        """The light curves of these source ids as one table, sorted by source and time: source_id, ra, dec, mjd, and the columns of
        `light_curve`. Raises NotFoundError for an unknown id."""
        from dsa110_assets import analyst_tables as tables

        nights, last = self._nights()
        rows = nights.of_sources(list(names), tables.READ)
        if absent := sorted(set(names) - set(rows["source_id"])):
            look_up(absent[0], ([(source, source) for source in nights.names()],), "source")
            raise NotFoundError(f"{absent[0]} is not the exact id of a source; `dsa110 sources` lists them")
        return tables.points(rows, last)

    def variables(self, max_false_discovery_rate: float = 0.01, night: Moment | None = None) -> Table:
        """Candidates of a night (default: the latest) with at most this false-discovery rate, most significant first."""
        from dsa110_assets import analyst_tables as tables

        if not 0 < max_false_discovery_rate <= 1:
            raise ConfigurationError(f"max_false_discovery_rate is {max_false_discovery_rate}; it is a fraction in (0, 1]")
        product = self._latest("variability") if night is None else self._product("variability", "night", night)
        return tables.variables(product, max_false_discovery_rate)

    def _latest(self, asset: str) -> Product:
        """The current product of the newest night. Raises NotFoundError."""
        found = self.store.newest(asset)
        if not found:
            raise self._no_product_error(asset)
        return found[0]

    def _nights(self) -> tuple[Nights, Product]:
        """The light curves of all nights, and the product of the last night, whose error model applies to them."""
        from dsa110_assets.archive.light_curves import Nights

        products = self.store.products("light_curves")
        if not products:
            raise self._no_product_error("light_curves")
        nights = Nights.to_read([product.path for product in products])
        if nights.left_out:
            named = ", ".join(product.id for product in products if product.path in nights.left_out)
            warnings.warn(
                f"left out, because the file is cut short or missing: {named}; run: dsa110 archive verify", UserWarning, stacklevel=3
            )
        return nights, products[-1]

    def _no_product_error(self, asset: str) -> NotFoundError:
        return NotFoundError(f"there is no {asset} yet: run `dsa110 process`, and see `dsa110 status`")

    # -- provenance --

    def lineage(self, product: Any) -> LineageNode:
        """The tree of products that a product was made from, down to the subband files: `.product`, `.children`, `.files()`.

        `product` is a product id, a path inside a product, or anything this archive returned.
        """
        named = getattr(product, "product_id", None) or getattr(product, "id", None)
        if named is None and hasattr(product, "meta"):
            named = product.meta.get("product_id")
        return self.store.lineage(self.store.find(str(named or product)).id)


PRODUCT_COLUMNS = (
    "product_id", "asset", "partition", "version", "path", "size_bytes", "created_at", "state", "run_id",
    "code_version", "digest", "inputs",
)  # fmt: skip


def _partition(grain: Grain, key: Moment) -> str:
    """The partition of this grain that contains the time `key`; for a request, the partition of the name `key`."""
    if grain == "request":
        from dsa110_assets.archive import naming

        return naming.named(str(key).removeprefix(naming.NAME_MARK))
    mjd = timegrid.datetime_to_mjd(moment(key))
    if grain == "night":
        return timegrid.night_key(mjd)
    return (timegrid.hour_key if grain == "hour" else timegrid.observation_key)(mjd + timegrid.ROUNDING_D)


def known_asset(store: Archive, asset: str | None) -> str | None:
    """Return `asset`. Raises NotFoundError, which lists the assets, for an unknown name. Dagster is imported only if it has no product."""
    if asset is not None and not store.newest(asset):
        from dsa110_assets.orchestration.graph import specifications

        if asset not in specifications():
            raise NotFoundError(f"there is no asset {asset!r}; there are {', '.join(specifications())}")
    return asset


def position(ra: Any, dec: Any) -> tuple[float, float]:
    """A position in degrees, from the forms that `AnalystArchive.sources` accepts. ConfigurationError if ra or dec is missing."""
    found = cone(ra, dec, 1.0)
    if found is None:
        raise ConfigurationError("a position needs both ra and dec")
    return found[0], found[1]


def cone(ra: Any, dec: Any, radius: Any) -> tuple[float, float, float] | None:
    """(ra, dec, radius) in degrees; None for the whole sky. ConfigurationError for an incomplete position."""
    if ra is None and dec is None and radius is None:
        return None
    if ra is None or dec is None:
        raise ConfigurationError("a position needs both ra and dec: sources(ra=..., dec=..., radius=...)")
    from astropy import units as u

    values = (
        _angle(ra, u.hourangle),
        _angle(dec, u.deg),
        _angle(radius if radius is not None else 0.05, u.deg),
    )
    if not (-90 <= values[1] <= 90 and 0 < values[2] <= 180):
        raise ConfigurationError(f"dec {values[1]:g} deg or radius {values[2]:g} deg is outside the sky")
    return values


def _angle(value: Any, sexagesimal_unit: Any) -> float:
    """The degrees of a Quantity, a number (degrees) or a string (a bare `12:30:49` is in `sexagesimal_unit`)."""
    from astropy import units as u
    from astropy.coordinates import Angle as AstropyAngle

    try:
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                pass
            try:
                angle: Angle = AstropyAngle(value)
            except u.UnitsError:
                angle = AstropyAngle(value, unit=sexagesimal_unit)
            return float(angle.to_value(u.deg))
        return float(u.Quantity(value, u.deg).to_value(u.deg))
    except (ValueError, TypeError, u.UnitsError) as error:
        raise ConfigurationError(f"{value!r} is not an angle: use degrees, a Quantity, or '12h30m49s'") from error
