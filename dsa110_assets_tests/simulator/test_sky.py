"""The simulated sky: one sky per seed, realistic counts, variables that can be found, calibrators that
transit."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import TETE, EarthLocation, SkyCoord
from astropy.time import Time

from dsa110_assets.simulator import light_curves, population, schedule, sky
from dsa110_assets.simulator.options import SimulationOptions
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.telescope import site

OPTIONS = SimulationOptions(start="2026-01-25T22:00:00", groups=12, nights=3)
TINY = SimulationOptions(start="2026-01-26T04:45:00", groups=2, antennas=3, channels=1, subbands=1, noise_scale=0)


def by_kind(truth: dict[str, Any], kind: str) -> dict[str, Any]:
    (source,) = [s for s in truth["sources"] if s["kind"] == kind]
    return source


def test_the_sky_is_fixed_to_icrs_not_to_the_run() -> None:
    early = sky.build_sky(replace(OPTIONS, variables=False), schedule.schedule(OPTIONS))
    later = replace(OPTIONS, start="2026-01-25T22:40:00", dec_deg=17.5, variables=False)
    moved = sky.build_sky(later, schedule.schedule(later))
    common = set(early.model.names) & set(moved.model.names)
    assert len(common) > 300
    first, second = (dict(zip(s.model.names, s.model.flux_jy, strict=True)) for s in (early, moved))
    assert all(first[name] == second[name] for name in common)
    other = sky.build_sky(replace(OPTIONS, seed=2, variables=False), schedule.schedule(OPTIONS))
    listed = {n for n, k in zip(early.model.names, early.kinds, strict=True) if k == "calibrator"}
    assert set(early.model.names) & set(other.model.names) == listed


def test_cells_tile_the_sphere_uniformly_with_the_published_counts() -> None:
    everywhere = [(row, k) for row in range(180) for k in range(population._cells_in_row(row))]
    o = SimulationOptions(flux_min_jy=0.5, flux_max_jy=5.0)
    whole = population.population(o, everywhere)
    area = 4 * np.pi * (180 / np.pi) ** 2
    for flux in (0.5, 1.0, 2.0):
        expected = area * (population.counts_per_deg2(flux) - population.counts_per_deg2(5.0))
        assert np.sum(whole.flux_jy >= flux) == pytest.approx(expected, abs=4 * np.sqrt(expected))
    # uniform: z = sin(dec) and RA flat to 4 sigma in ten bins each
    for value in (np.sin(whole.dec_rad) / 2 + 0.5, whole.ra_rad / (2 * np.pi)):
        counts, _ = np.histogram(value, bins=10, range=(0, 1))
        assert np.all(np.abs(counts - len(whole) / 10) < 4 * np.sqrt(len(whole) / 10))
    # 10 to 25 sources above 100 mJy in the 6 square degrees of the main beam
    assert 8 < 5.8 * population.counts_per_deg2(0.1) < 25


@pytest.mark.parametrize(("ra", "dec"), [(0.1, 16.3), (359.95, -5.0), (180.0, 71.6), (10.0, 89.5)])
def test_no_cell_within_the_radius_is_missed(ra: float, dec: float) -> None:
    cells = set(population.cells_near(np.deg2rad([ra]), np.deg2rad([dec]), 3.0))
    rng = np.random.default_rng(0)
    centre = SkyCoord(ra * u.deg, dec * u.deg)
    around = centre.directional_offset_by(rng.uniform(0, 360, 500) * u.deg, 3.0 * np.sqrt(rng.uniform(size=500)) * u.deg)
    for place in around:
        row = population._row(place.dec.deg)
        assert (row, int(place.ra.deg / 360 * population._cells_in_row(row))) in cells


def test_variables_are_bright_lonely_and_inside_the_strip() -> None:
    location = EarthLocation.from_geodetic(site.LONGITUDE_DEG, site.LATITUDE_DEG, site.ALTITUDE_M)
    for seed in range(3):
        o = replace(OPTIONS, seed=seed)
        groups = schedule.schedule(o)
        made = sky.build_sky(o, groups)
        places = SkyCoord(made.model.ra_rad * u.rad, made.model.dec_rad * u.rad)
        for kind in ("flare", "ese"):
            i = made.kinds.index(kind)
            assert 0.5 <= made.model.flux_jy[i] <= 1.5
            distance = np.sort(places[i].separation(places).arcmin)[1]
            assert distance > 5
            night = [g for g in groups if g.night_index == 0]
            (mjd,) = sky.observed_transits(made.model.select([i]), night)
            apparent = places[i].transform_to(TETE(obstime=Time(mjd, format="mjd"), location=location))
            assert abs(apparent.dec.deg - o.dec_deg) < 0.7
            lst = Time(mjd, format="mjd", location=location).sidereal_time("apparent").deg
            assert apparent.ra.deg == pytest.approx(lst, abs=1e-4)


def test_light_curves_flare_on_one_night_and_dip_on_half() -> None:
    for nights, dipped in ((3, 1), (4, 2), (7, 3), (10, 5)):
        at_transit = 100.0 + np.arange(nights) * 86164.0905 / 86400
        flare = light_curves.flare(100.0, nights).factor(at_transit)
        assert np.argmax(flare) == nights // 2
        assert flare.max() == pytest.approx(2.5)
        assert np.sum(flare > 1.5) <= 2
        assert flare[0] == pytest.approx(1.0, abs=0.01)
        dip = light_curves.dip(100.0, nights).factor(at_transit)
        assert np.sum(dip < 0.6) == dipped
        assert np.sum(np.abs(dip - 1) < 0.01) == nights - dipped


def test_several_calls_into_one_directory_add_up_to_one_run(tmp_path: Path) -> None:
    together = simulate(tmp_path / "together", replace(TINY, nights=3))
    separate = {}
    for night in range(3):
        start = ["2026-01-26T04:45:00", "2026-01-27T04:41:04.090", "2026-01-28T04:37:08.181"][night]
        separate = simulate(tmp_path / "apart", replace(TINY, start=start, nights=1))
    assert len(separate["groups"]) == len(together["groups"]) == 6
    for kind in ("flare", "ese"):
        from_one_call, from_several = by_kind(together, kind), by_kind(separate, kind)
        assert from_one_call["name"] == from_several["name"]
        assert len(from_one_call["light_curve"]) == 3
        np.testing.assert_allclose(from_one_call["light_curve"], from_several["light_curve"], rtol=1e-6)
        np.testing.assert_allclose(np.ptp(np.array(from_one_call["light_curve"])[:, 1]) > 0.3 * from_one_call["flux_jy"], True)
    again = simulate(tmp_path / "apart", replace(TINY, nights=1))  # existing groups are not added twice
    assert len(again["groups"]) == 6
    assert sorted(g["mjd_start"] for g in again["groups"]) == [g["mjd_start"] for g in again["groups"]]


def test_3c138_transits_with_its_flux_on_the_scale(tmp_path: Path) -> None:
    truth = simulate(tmp_path, TINY)
    assert "0521+166" in truth["calibration"]["2026-01-26"]
    standard = next(s for s in truth["sources"] if s["name"] == "0521+166")
    # GMST at 0 h is 8.34 h: apparent RA 5 h 22.7 m is on this meridian at 04:53.8 UTC. And Perley-Butler at
    # 1.4 GHz is 8.564 Jy (8.55 at 1.405)
    assert standard["light_curve"][0][0] % 1 == pytest.approx((4 + 53.8 / 60) / 24, abs=0.2 / 1440)
    assert standard["flux_jy"] == pytest.approx(8.564, abs=0.001)
    with (tmp_path / "catalogue.csv").open() as handle:
        rows = {row["name"]: row for row in csv.DictReader(handle)}
    assert len(rows) == len(truth["sources"])
    flare = by_kind(truth, "flare")
    assert float(rows[flare["name"]]["flux_jy"]) == pytest.approx(flare["flux_jy"], abs=1e-6)  # the quiescent flux
    assert float(rows["0521+166"]["spectral_index"]) == pytest.approx(-0.544, abs=0.001)


def test_3c454_transits_at_2226(tmp_path: Path) -> None:
    made = sky.build_sky(replace(OPTIONS, nights=1), schedule.schedule(OPTIONS))
    assert made.note == "transits of 2253+161"
    i = made.model.names.index("2253+161")
    (mjd,) = sky.observed_transits(made.model.select([i]), [g for g in schedule.schedule(OPTIONS) if g.night_index == 0])
    assert mjd % 1 * 24 == pytest.approx(22 + 26.9 / 60, abs=1.5 / 60)


def test_a_synthetic_calibrator_is_added_if_none_transits(tmp_path: Path) -> None:
    o = replace(TINY, start="2026-01-26T07:30:00", dec_deg=71.6)
    truth = simulate(tmp_path, o)
    assert "synthetic SIM J" in truth["calibration"]["2026-01-26"]
    (added,) = [s for s in truth["sources"] if s.get("synthetic")]
    assert added["flux_jy"] == 8.0
    assert len(added["light_curve"]) == 1
    again = simulate(tmp_path, replace(o, start="2026-01-27T07:26:04.09"))
    assert [s["name"] for s in again["sources"] if s.get("synthetic")] == [added["name"]]
    none = sky.build_sky(replace(o, calibrator="none"), schedule.schedule(o))
    assert added["name"] not in none.model.names
