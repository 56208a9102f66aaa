"""Association across 0 h, one to one, with names that stay (trap 27)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord

from dsa110_assets.photometry.association import (
    associate,
    merged_names,
    name_new,
    offsets_arcsec,
    source_name,
)

LIMITS = {"de_ruiter": 5.68, "systematic_arcsec": 1.0, "max_separation_arcsec": 15.0}


def frame(ra, dec, error=1.0):
    return pd.DataFrame({"ra_deg": ra, "dec_deg": dec, "ra_err_arcsec": error, "dec_err_arcsec": error})


def test_pairs_across_ra_zero_and_near_the_pole() -> None:
    """The association is the same wherever the field lies; offsets agree with astropy to a milliarcsecond."""
    rng = np.random.default_rng(0)
    for dec in (0.0, 16.0, 71.6):
        ra = (359.9 + rng.uniform(0, 0.2, 40)) % 360
        decs = dec + rng.uniform(-0.1, 0.1, 40)
        order = rng.permutation(40)
        east, north = rng.normal(0, 0.7, (2, 40))
        detections = frame((ra + east / 3600 / np.cos(np.deg2rad(decs))) % 360, decs + north / 3600)
        assert list(associate(detections.iloc[order], frame(ra, decs), **LIMITS)) == list(order)
        true_places, detected_places = SkyCoord(ra, decs, unit="deg"), SkyCoord(detections["ra_deg"], detections["dec_deg"], unit="deg")
        x, y = true_places.spherical_offsets_to(detected_places)
        ours = offsets_arcsec(ra, decs, detections["ra_deg"].to_numpy(), detections["dec_deg"].to_numpy())
        np.testing.assert_allclose(ours, [x.arcsec, y.arcsec], atol=1e-3)


def test_one_to_one_nearest_first() -> None:
    """Two detections near one source, and one detection near two: each source and detection is used once."""
    sources = frame([10.0, 20.0, 20.0 + 4 / 3600], [0.0, 0.0, 0.0], 0.0)
    detections = frame([10.0 + 2 / 3600, 10.0 + 0.5 / 3600, 20.0 + 1 / 3600], [0.0, 0.0, 0.0])
    assert list(associate(detections, sources, **LIMITS)) == [-1, 0, 1]


def test_de_ruiter_scales_with_the_errors_and_stays_within_the_beam() -> None:
    source = frame([10.0], [0.0], 0.0)
    at_8 = [10.0 + 8 / 3600]
    assert associate(frame(at_8, [0.0], 0.1), source, **LIMITS)[0] == -1
    assert associate(frame(at_8, [0.0], 1.5), source, **LIMITS)[0] == 0
    assert associate(frame([10.0 + 20 / 3600], [0.0], 30.0), source, **LIMITS)[0] == -1
    assert len(associate(frame([], []), source, **LIMITS)) == 0
    assert list(associate(source, frame([], []), **LIMITS)) == [-1]


@pytest.mark.parametrize(
    ("ra", "dec", "name"),
    [
        (188.694583, 16.272777, "DSA_J123446.6+161621"),
        (0.0, -0.00028, "DSA_J000000.0-000001"),
        (359.99999, 71.6, "DSA_J235959.9+713600"),
        (15.0, 16.0, "DSA_J010000.0+160000"),
    ],
)
def test_names_are_truncated_coordinates(ra, dec, name) -> None:
    assert source_name(ra, dec) == name


def test_names_do_not_repeat() -> None:
    names = name_new(np.array([15.0, 15.0, 15.0]), np.array([16.0] * 3), {"DSA_J010000.0+160000"})
    assert names == ["DSA_J010000.0+160000a", "DSA_J010000.0+160000b", "DSA_J010000.0+160000c"]


def test_one_discovery_in_two_mosaics_is_one_source_with_its_first_name() -> None:
    """Also across 0 h; two discoveries in one mosaic stay two sources."""
    rows = pd.DataFrame(
        {
            "source_id": ["DSA_J000000.0+1", "DSA_J235959.9+1", "DSA_Ja", "DSA_Jb"],
            "ra_deg": [0.0005, 359.9995, 50.0, 50.001],
            "dec_deg": [1.0] * 4,
            "mjd": [61001.0, 61000.0, 61000.0, 61000.0],
            "mosaic_id": ["m2", "m1", "m1", "m1"],
        }
    )
    mosaics = {name: {mosaic} for name, mosaic in zip(rows["source_id"], rows["mosaic_id"], strict=True)}
    renamed = merged_names(rows, 10.0, lambda names: {name: mosaics[name] for name in names})
    assert renamed == {"DSA_J000000.0+1": "DSA_J235959.9+1"}
