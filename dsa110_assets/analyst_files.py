"""Light curves and other tables as files that other tools understand, with the meaning, unit and time scale of each column."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.timeseries import TimeSeries

TABLE_FORMATS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".vot": "votable", ".xml": "votable"}
MJD_ORIGIN_JD = 2400000.5
_RADIO_BANDS_HZ = {"em.radio.750-1500MHz": (750e6, 1.5e9), "em.radio.1500-3000MHz": (1.5e9, 3e9)}
_BAND = "{band}"


class _Column(NamedTuple):
    """A column's description, and `ucd`, the IVOA's term (UCD1+) for its kind of quantity."""

    ucd: str
    description: str


_COLUMNS = {
    "mjd": _Column("time.epoch;meta.main", "transit of the source, as Modified Julian Date in UTC at the telescope"),
    "flux": _Column(f"phot.flux.density;{_BAND}", "flux density, on the scale shared by the reference sources of all nights"),
    "error": _Column(f"stat.error;phot.flux.density;{_BAND}", "1 sigma error of the flux about the source's own mean"),
    "limit": _Column(f"phot.flux.density;stat.max;{_BAND}", "5 sigma upper limit where not detected"),
    "rms": _Column(f"stat.stdev;phot.flux.density;{_BAND}", "noise of the mosaic at the source"),
    "raw_flux": _Column(f"phot.flux.density;{_BAND}", "flux density as measured, before normalising"),
    "raw_error": _Column(f"stat.error;phot.flux.density;{_BAND}", "1 sigma error of the raw flux"),
    "absolute_error": _Column(f"stat.error;phot.flux.density;{_BAND}", "1 sigma error of the flux about its true value"),
    "detected": _Column("meta.code", "whether the source was detected"),
    "flags": _Column("meta.code.qual", "quality bits; 0 is good"),
    "correction": _Column("arith.factor", "factor applied to the raw flux by normalising"),
    "correction_err": _Column("stat.error", "1 sigma error of the correction"),
    "spectral_index": _Column("spect.index", "spectral index alpha, flux density as frequency to the power of alpha"),
    "spectral_index_err": _Column("stat.error;spect.index", "1 sigma error of the spectral index"),
    "n_references": _Column("meta.number", "reference sources on which the correction is based"),
    "epoch": _Column("meta.id", "start of the mosaic's hour (UTC)"),
    "product_id": _Column("meta.id;meta.dataset", "mosaic the point was measured in"),
}
_OF_SOURCES = {
    "source_id": _Column("meta.id;meta.main", "source"),
    "ra": _Column("pos.eq.ra;meta.main", "right ascension (ICRS)"),
    "dec": _Column("pos.eq.dec;meta.main", "declination (ICRS)"),
    "n_epochs": _Column("meta.number;obs", "epochs at which its position was observed"),
    "n_detected": _Column("meta.number;obs", "epochs at which it was detected"),
    "flux": _Column(f"phot.flux.density;stat.mean;{_BAND}", "mean flux density"),
    "flux_rms": _Column(f"stat.stdev;phot.flux.density;{_BAND}", "scatter of the flux density"),
    "separation": _Column("pos.angDistance", "distance from the requested position"),
}


def write_light_curve(curve: TimeSeries, path: Path) -> None:
    """Write a light curve of `AnalystArchive.light_curve` as ECSV, FITS or VOTable 1.4, according to the suffix; replace an older file.

    Times are a column `mjd` [d], UTC; flux densities are in Jy. Raises KeyError for another suffix, OSError if it cannot be written.
    """
    table, kind = _plain(curve), TABLE_FORMATS[path.suffix]
    if kind == "votable":
        _votable(table, curve.meta).to_xml(str(path), tabledata_format="tabledata")
        return
    facts = curve.meta
    ascii_only = kind == "fits"  # astropy would leave out other characters, with a warning
    source = facts["source_id"].encode("ascii", "backslashreplace").decode() if ascii_only else facts["source_id"]
    table.meta = {  # FITS allows eight characters
        "SOURCE": source, "RA_DEG": facts["ra"].to_value("deg"), "DEC_DEG": facts["dec"].to_value("deg"),
        "PRODUCT": facts["product_id"], "RADESYS": "ICRS", "TIMESYS": "UTC",
    }  # fmt: skip
    if np.isfinite(facts["frequency"]):
        table.meta["FREQ_HZ"] = facts["frequency"].to_value("Hz")
    table.write(path, format=kind, overwrite=True)


def write_table(table: Table, path: Path, name: str, description: str) -> None:
    """Write a table with units as ECSV, FITS or VOTable 1.4, according to the suffix; replace an older file. The table's `meta` must
    have the product_id of its origin. Raises KeyError for another suffix, OSError if it cannot be written."""
    kind = TABLE_FORMATS[path.suffix]
    known = {**_COLUMNS, **_OF_SOURCES} if "n_epochs" in table.colnames else {**_OF_SOURCES, **_COLUMNS}
    output = table.copy()
    product_id, output.meta = output.meta["product_id"], {}
    for column in output.colnames:
        if column in known:
            output[column].info.description = known[column].description
    if kind == "votable":
        from astropy.io.votable import from_table

        document = from_table(output)
        first = document.get_first_table()
        first.name, first.ID, first.description = name, None, f"{description}, from product {product_id}"
        for field in first.fields:
            field.ID = field.name
            if field.name in known:
                field.ucd = known[field.name].ucd.replace(f";{_BAND}", "")
        document.to_xml(str(path), tabledata_format="tabledata")
        return
    if kind == "fits":
        for column in (c for c in output.colnames if output[c].dtype.kind in "OU"):
            output[column] = [str(value).encode("ascii", "backslashreplace").decode() for value in output[column]]
    output.meta = {"PRODUCT": product_id, "RADESYS": "ICRS", "TIMESYS": "UTC"}
    output.write(path, format=kind, overwrite=True)


def _plain(curve: TimeSeries) -> Table:
    """The curve's columns with units and descriptions, times as a plain column."""
    from astropy.table import QTable

    table = QTable({"mjd": curve.time.utc.mjd, **{name: curve[name] for name in curve.colnames if name != "time"}})
    table["mjd"].info.unit = "d"
    for name in table.colnames:
        table[name].info.description = _COLUMNS[name].description
    return table


def _votable(table: Table, facts: dict[str, Any]) -> Any:
    """A VOTable document of one table, with its time scale in a TIMESYS and its position in a COOSYS."""
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import CooSys, Param, TimeSys

    document = from_table(table)
    resource, output = document.resources[0], document.get_first_table()
    output.name, output.ID = "light_curve", None
    output.description = f"Light curve of {facts['source_id']} by the DSA-110 continuum survey, from product {facts['product_id']}"
    scale = {"timescale": "UTC", "refposition": "TOPOCENTER", "timeorigin": MJD_ORIGIN_JD}
    resource.time_systems.append(TimeSys(ID="TIMESYS", **scale, config={"version_1_4_or_later": True}))
    resource.coordinate_systems.append(CooSys(ID="COOSYS", system="ICRS", epoch="J2000.0"))
    frequency_hz = facts["frequency"].to_value("Hz")
    band = _band(frequency_hz)
    for field in output.fields:
        field.ucd = _COLUMNS[field.name].ucd.format(band=band)
        field.ID = field.name
    output.get_field_by_id("mjd").ref = "TIMESYS"
    text, degrees = {"datatype": "unicodeChar", "arraysize": "*"}, {"datatype": "double", "unit": "deg", "ref": "COOSYS"}
    params = [
        ("source_id", facts["source_id"], "meta.id;meta.main", text),
        ("light_curves", facts["product_id"], "meta.id;meta.dataset", text),
        ("ra", facts["ra"].to_value("deg"), "pos.eq.ra;meta.main", degrees),
        ("dec", facts["dec"].to_value("deg"), "pos.eq.dec;meta.main", degrees),
    ]
    if np.isfinite(frequency_hz):
        params.append(("frequency", frequency_hz, "em.freq", {"datatype": "double", "unit": "Hz"}))
    for name, value, ucd, form in params:
        output.params.append(Param(document, ID=f"param_{name}", name=name, value=value, ucd=ucd, **form))
    return document


def _band(frequency_hz: float) -> str:
    """The UCD of the radio band that contains a frequency."""
    return next((ucd for ucd, (low, high) in _RADIO_BANDS_HZ.items() if low <= frequency_hz < high), "em.radio")
