"""Faults of the sky against vectors in the Earth's frame and against their definitions, in the written files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import astropy.units as u
import erfa
import numpy as np
import pytest
from astropy.coordinates import CIRS, EarthLocation, SkyCoord
from astropy.time import Time
from numpy.typing import NDArray

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.simulator import schedule, sky, sky_faults
from dsa110_assets.simulator.options import FixedSource, SimulationOptions, parse_fault, perfect
from dsa110_assets.simulator.simulate import simulate
from dsa110_assets.telescope import astrometry
from dsa110_assets_tests.simulator.conftest import Run, Written

C = 299792458.0
# 0.16 degrees from the pointing at 22:25, in channels of 30 kHz: 2.6 km smear over 0.002 of a turn within a channel and
# over 0.03 within an integration
POINT = FixedSource("s", 343.12, 16.25, 10.0, -0.7)
SILENT = perfect(start="2026-01-25T22:25:00", groups=1, antennas=24, channels=384, subbands=1, integrations=2, fixed_sources=(POINT,))
PLACE = SkyCoord(POINT.ra_deg * u.deg, POINT.dec_deg * u.deg)
STRIP = SimulationOptions(start="2026-01-26T04:45:00", groups=2, antennas=3, channels=1, subbands=1, noise_scale=0)
"""3C138, 0521+166 of the VLA list, transits in this strip."""


def phases(run: Run, places: SkyCoord, about: SkyCoord) -> NDArray[np.complex128]:
    """Phasors (time, row, channel, place) of places relative to that of `about`, from vectors in ITRF."""
    site = EarthLocation.from_geodetic(-118.2830 * u.deg, 37.2334051 * u.deg, 1188.0519 * u.m)
    baselines = run.positions_m[run.station2 - 1] - run.positions_m[run.station1 - 1]
    phasors = []
    for mjd in run.times_mjd:
        time = Time(mjd, format="mjd", scale="utc", location=site)
        turned = erfa.era00(time.ut1.jd1, time.ut1.jd2)
        vectors = []
        for place in (places, about):
            cirs = place.transform_to(CIRS(obstime=time, location=site))
            longitude, dec = cirs.ra.to_value(u.rad) - turned, cirs.dec.to_value(u.rad)
            vectors.append(np.stack([np.cos(dec) * np.cos(longitude), np.cos(dec) * np.sin(longitude), np.sin(dec)], -1))
        delay = baselines @ (vectors[0] - vectors[1]).T / C
        phasors.append(np.exp(2j * np.pi * delay[:, None, :] * run.frequencies_hz[:, None]))
    return np.array(phasors)


def strip(*faults: str, previous: dict | None = None) -> tuple[sky.SimulatedSky, sky.SimulatedSky, list[dict]]:
    """The 3C138 strip's sky without and with faults, and the parameters that the faults chose."""
    options = replace(STRIP, faults=tuple(map(parse_fault, faults)))
    groups = schedule.schedule(options)
    plain = sky.build_sky(options, groups)
    changed, chosen = sky_faults.apply(plain, options, groups, previous)
    return plain, changed, [chosen[f] for f in options.faults if f in chosen]


@pytest.mark.parametrize(("major", "minor", "pa_deg"), [(30.0, 20.0, 30.0), (60.0, 0.0, -50.0), (20.0, 40.0, 0.0)])
def test_a_gaussian_is_the_sum_of_its_parts(written: Written, major: float, minor: float, pa_deg: float) -> None:
    """Against points on a grid over the Gaussian, weighted by its brightness; the position angle is on the sky."""
    options = replace(SILENT, antennas=96, integrations=1)
    point = written(options)
    shape = {"major_arcsec": major, "minor_arcsec": minor, "pa_deg": pa_deg}
    run = written(options, fixed_sources=(replace(POINT, **shape),))
    length = np.linalg.norm(run.positions_m[run.station2 - 1] - run.positions_m[run.station1 - 1], axis=1)
    rows = np.argsort(length)[[0, 150, 600, 1500, 2500, 3500, 4300, 4655]]  # an autocorrelation to 2.6 km
    part = replace(run, data=run.data[:, :, rows], station1=run.station1[rows], station2=run.station2[rows])
    channels = [0, 383]
    part = replace(part, data=part.data[..., channels, :], frequencies_hz=run.frequencies_hz[channels])
    # a trapezium over +-6 sigma in steps of 0.25 sigma: its error is exp(-2 (pi / 0.25)^2), the cut 2e-9
    steps = np.linspace(-6, 6, 49)
    x, y = (np.ravel(a) for a in np.meshgrid(steps, steps))
    along, across = (a * size / np.sqrt(8 * np.log(2)) for a, size in ((x, major), (y, minor)))
    weight = np.exp(-(x**2 + y**2) / 2) / np.sum(np.exp(-(x**2 + y**2) / 2))
    places = PLACE.directional_offset_by((np.arctan2(across, along) + np.deg2rad(pa_deg)) * u.rad, np.hypot(along, across) * u.arcsec)
    expected = phases(part, places, PLACE) @ weight
    ratio = part.data[0][..., 0] / point.data[0][:, rows][:, :, channels, 0]
    # The transform neglects the sky's curvature over the Gaussian, a phase of pi w sigma^2 at one sigma: 2e-4 for
    # w = 4400 wavelengths and 60 arcsec. It also neglects smearing, sinc(0.03), which changes over the Gaussian by 3e-4
    # at 2.6 km, where the visibility is practically zero.
    np.testing.assert_allclose(ratio, expected, atol=2.2e-4)
    assert np.min(np.abs(ratio)) < 0.1
    assert ratio[0, 0, 0] == pytest.approx(1.0, abs=1e-6)
    record = next(s for s in run.truth["sources"] if s["name"] == "s")
    assert record["major_arcsec"] == max(major, minor)
    assert record["pa_deg"] == (pa_deg if major >= minor else pa_deg + 90)


def test_a_gaussian_on_the_meridian_is_the_published_transform(written: Written) -> None:
    """exp[-(pi theta q)^2 / (4 ln 2)] with q from uvw in the header, at the phase centre, where the axes of uvw are the sky's."""
    group = schedule.schedule(SILENT)[0]
    ra, dec = astrometry.meridian_icrs_rad([group.times_mjd[0]], np.deg2rad(SILENT.dec_deg))[0]
    angle = float(np.rad2deg(astrometry.frame_angle_rad(ra, dec, group.times_mjd[0])))
    point = FixedSource("c", float(np.rad2deg(ra)), float(np.rad2deg(dec)), 1.0)
    # the header's axes are those of date: the position angle is given relative to them
    gaussian = replace(point, major_arcsec=40.0, minor_arcsec=25.0, pa_deg=30.0 - angle)
    plain, run = (written(SILENT, fixed_sources=(s,)) for s in (point, gaussian))
    ratio = (run.data / plain.data)[0, 0, ..., 0]
    positions = astrometry.apparent_uvw_m(run.positions_m, 0.0, np.deg2rad(SILENT.dec_deg))[0]
    u_m, v_m, _ = (positions[run.station2 - 1] - positions[run.station1 - 1]).T
    wavelengths = run.frequencies_hz / C
    sin, cos = np.sin(np.deg2rad(30)), np.cos(np.deg2rad(30))
    exponent = sum(
        (np.pi * np.deg2rad(theta / 3600) * q[:, None] * wavelengths) ** 2 / (4 * np.log(2))
        for theta, q in ((40.0, u_m * sin + v_m * cos), (25.0, u_m * cos - v_m * sin))
    )
    # aberration magnifies the sky by at most v / c = 1e-4, which the simulator includes and this formula does not. This
    # changes an exponent x by 2e-4 x, and x exp(-x) is at most 0.37
    np.testing.assert_allclose(ratio, np.exp(-exponent), atol=7.4e-5)
    assert exponent.max() > 0.5


def test_a_calibrators_flux_differs_from_the_catalogue_by_the_factor(written: Written) -> None:
    clean, run = written(SILENT), written(SILENT, "calibrator_flux:*:calibrator=s,factor=1.15")
    cross = ~run.auto  # autocorrelations include the system's power
    np.testing.assert_allclose((run.data / clean.data)[:, :, cross], 1.15, rtol=5e-7)  # complex64
    (source,) = run.truth["sources"]
    assert source["flux_jy"] == pytest.approx(11.5)
    assert source["listed"] == {"name": "s", "ra_deg": POINT.ra_deg, "dec_deg": POINT.dec_deg, "flux_jy": 10.0}
    assert source["light_curve"] == [] or source["light_curve"][0][1] == pytest.approx(11.5)
    assert run.catalogue() == clean.catalogue()
    (fault,) = run.truth["faults"]
    observations = [g["observation"] for g in run.truth["groups"]]
    assert fault == {
        "kind": "calibrator_flux", "groups": "*", "factor": 1.15, "calibrator": "s", "observations": observations,
    }  # fmt: skip


def test_the_brightest_calibrator_is_used_unless_one_is_named() -> None:
    frequencies = np.array([1.32e9, 1.49e9])
    for text in ("calibrator_flux:*:factor=2", "calibrator_flux:*:factor=2,calibrator=3C138"):
        plain, changed, (chosen,) = strip(text)
        assert chosen == {"calibrator": "0521+166"}
        i = plain.model.names.index("0521+166")
        ratio = changed.model.flux_at(frequencies) / plain.model.flux_at(frequencies)
        # the standard's polynomial is scaled too, and nothing else
        np.testing.assert_allclose(ratio[i], 2.0, rtol=1e-12)
        np.testing.assert_array_equal(np.delete(ratio, i, axis=0), 1.0)
    with pytest.raises(ConfigurationError, match=r"calibrator=3C286 is not in the sky; the brightest there: 0521\+166"):
        strip("calibrator_flux:*:calibrator=3C286")
    with pytest.raises(ConfigurationError, match="no calibrator; name a source"):
        simulate(Path("nowhere"), replace(SILENT, faults=(parse_fault("calibrator_flux:*"),)))


def test_a_double_has_the_listed_centroid_and_total(written: Written) -> None:
    clean = written(SILENT)
    run = written(SILENT, "calibrator_double:*:calibrator=s,arcsec=25,ratio=3,pa_deg=70")
    first, second = sorted(run.truth["sources"], key=lambda s: s["name"])
    assert (first["name"], second["name"]) == ("s A", "s B")
    assert (first["flux_jy"], second["flux_jy"]) == (pytest.approx(7.5), pytest.approx(2.5))
    a, b = (SkyCoord(s["ra_deg"] * u.deg, s["dec_deg"] * u.deg) for s in (first, second))
    assert b.separation(a).arcsec == pytest.approx(25, abs=1e-6)
    assert b.position_angle(a).deg == pytest.approx(70, abs=0.01)  # meridians converge by 25 arcsec x tan(dec)
    assert PLACE.separation(a).arcsec == pytest.approx(25 / 4, abs=1e-6)
    expected = phases(run, SkyCoord([a, b]), PLACE) @ np.array([0.75, 0.25])
    ratio = (run.data / clean.data)[0, ..., 0]
    # the beam (FWHM 2.55 deg here) falls by 8 ln 2 x 0.16 / 2.55^2 = 0.136 per degree: by 7e-4 over 19 arcsec for a
    # quarter of the flux, by 2.4e-4 over 6 arcsec for the rest
    np.testing.assert_allclose(ratio[:, ~run.auto], expected[:, ~run.auto], atol=3.6e-4)
    assert np.min(np.abs(ratio)) < 0.9
    assert run.catalogue() == clean.catalogue()


def test_an_offset_calibrator_is_moved_by_the_given_offset(written: Written) -> None:
    clean, run = written(SILENT), written(SILENT, "calibrator_offset:*:calibrator=s,arcsec=8,pa_deg=200")
    (source,) = run.truth["sources"]
    position = SkyCoord(source["ra_deg"] * u.deg, source["dec_deg"] * u.deg)
    assert PLACE.separation(position).arcsec == pytest.approx(8, abs=1e-6)
    assert PLACE.position_angle(position).deg == pytest.approx(200, abs=1e-3)
    ratio = (run.data / clean.data)[0, ..., 0]
    expected = phases(run, SkyCoord([position]), PLACE)[..., 0]
    np.testing.assert_allclose(ratio / np.abs(ratio), expected, atol=1e-5)
    np.testing.assert_allclose(np.abs(ratio), 1, atol=4e-4)  # the beam over 8 arcsec
    assert run.catalogue() == clean.catalogue()


def test_a_resolved_calibrator_keeps_its_flux(written: Written) -> None:
    clean = written(SILENT)
    run = written(SILENT, "calibrator_size:*:calibrator=s,major_arcsec=30,minor_arcsec=20,pa_deg=30")
    same = written(SILENT, fixed_sources=(replace(POINT, major_arcsec=30.0, minor_arcsec=20.0, pa_deg=30.0),))
    np.testing.assert_array_equal(run.data, same.data)
    np.testing.assert_array_equal(run.data[:, :, run.auto], clean.data[:, :, clean.auto])
    (source,) = run.truth["sources"]
    assert (source["flux_jy"], source["major_arcsec"]) == (10.0, 30.0)
    assert "listed" not in source  # a catalogue has positions and total fluxes, which are right
    assert run.catalogue() == clean.catalogue()


def test_faults_of_one_calibrator_combine(written: Written) -> None:
    faults = ["calibrator_double:*:calibrator=s", "calibrator_offset:*:calibrator=s", "calibrator_flux:*:calibrator=s"]
    run = written(SILENT, *faults, "calibrator_size:*:calibrator=s")
    fluxes = [s["flux_jy"] for s in run.truth["sources"]]
    assert fluxes == pytest.approx([5.75, 5.75])
    assert [s["major_arcsec"] for s in run.truth["sources"]] == [20, 20]
    assert run.catalogue() == written(SILENT).catalogue()
    assert len(run.truth["faults"]) == 4
    with pytest.raises(ConfigurationError, match="once per calibrator"):
        written(SILENT, faults[0], faults[0] + ",arcsec=3")


def test_a_resolved_source_is_added_where_it_is_wanted(written: Written) -> None:
    where = f"ra_deg={POINT.ra_deg},dec_deg={POINT.dec_deg}"
    run = written(SILENT, f"resolved_source:*:{where}", fixed_sources=())
    shape = {"major_arcsec": 30.0, "minor_arcsec": 20.0, "pa_deg": 30.0}
    same = written(SILENT, fixed_sources=(replace(POINT, flux_jy=2.0, **shape),))
    np.testing.assert_array_equal(run.data, same.data)
    (source,) = run.truth["sources"]
    assert source["kind"] == "constant"
    assert float(run.catalogue()[source["name"]]["flux_jy"]) == 2.0
    hidden = written(SILENT, f"resolved_source:*:{where},catalogued=no", fixed_sources=())
    np.testing.assert_array_equal(run.data, hidden.data)
    assert hidden.catalogue() == {}
    assert hidden.truth["sources"][0]["listed"] is None
    assert (run.truth["faults"][0]["name"], run.truth["faults"][0]["flux_jy"]) == (source["name"], 2.0)


def test_without_a_position_a_source_is_near_the_middle_of_the_track() -> None:
    plain, changed, (chosen, other) = strip("resolved_source:*", "resolved_source:*:flux_jy=1")
    groups = schedule.schedule(STRIP)
    (middle,) = astrometry.meridian_icrs_rad([groups[1].mjd_mid], np.deg2rad(STRIP.dec_deg))
    position = np.deg2rad([chosen["ra_deg"], chosen["dec_deg"]])
    assert astrometry.separation_deg(*position, *middle) == pytest.approx(0.3, abs=1e-9)
    separation_deg = astrometry.separation_deg(*position, plain.model.ra_rad, plain.model.dec_rad)
    assert separation_deg.min() > 0.05
    assert other["name"] != chosen["name"]
    assert changed.model.names[:-2] == plain.model.names


def test_polarisation_is_i_plus_and_minus_q(written: Written) -> None:
    sources = tuple(
        FixedSource(f"p{k}", 342.6 + 0.2 * k, 16.0 + 0.1 * k, 1.0 + k) for k in range(6)
    )  # simulated separately, each source gives its own visibilities
    clean = written(SILENT, fixed_sources=sources)
    run = written(SILENT, "polarised:*:fraction=0.05", fixed_sources=sources)
    fractions = {s["name"]: s["stokes_q_fraction"] for s in run.truth["sources"]}
    assert {abs(f) for f in fractions.values()} == {0.05}
    assert len(set(fractions.values())) == 2  # both signs
    assert all(s["stokes_q_jy"] == s["flux_jy"] * s["stokes_q_fraction"] for s in run.truth["sources"])
    separate = [written(SILENT, fixed_sources=(s,)).data[..., 0] for s in sources]
    q = sum(fractions[s.name] * v for s, v in zip(sources, separate, strict=True))
    # seven complex64 values of up to 21 Jy
    cross = ~run.auto
    for p, sign in ((0, 1), (1, -1)):
        np.testing.assert_allclose(run.data[..., p][:, :, cross], (clean.data[..., p] + sign * q)[:, :, cross], atol=8 * 2**-24 * 21)
    plus = written(SILENT, "polarised:*:fraction=0.1,sign=+", fixed_sources=sources)
    # against rounding where the sources cancel to less than 1 Jy
    np.testing.assert_allclose(plus.data[:, :, cross], clean.data[:, :, cross] * [1.1, 0.9], atol=2**-22 * 21)
    swapped = written(SILENT, "polarised:*:fraction=0.1,sign=-", "swapped_feeds:*:antenna=12+48", fixed_sources=sources)
    pair = swapped.with_any(12) & swapped.with_any(48)
    np.testing.assert_allclose(swapped.data[:, :, pair], plus.data[:, :, pair], rtol=1e-6)


def test_a_fixed_source_may_be_polarised(written: Written) -> None:
    clean, run = written(SILENT), written(SILENT, fixed_sources=(replace(POINT, stokes_q_fraction=-0.2),))
    ratio = (run.data / clean.data)[:, :, ~run.auto]
    np.testing.assert_allclose(ratio, np.broadcast_to([0.8, 1.2], ratio.shape), rtol=5e-7)


def test_random_parts_of_the_sky_do_not_depend_on_its_faults() -> None:
    plain, changed, _ = strip("calibrator_flux:*", "calibrator_double:*", "polarised:*", "resolved_source:*")
    before, after = (dict(zip(s.model.names, zip(*places(s), strict=True), strict=True)) for s in (plain, changed))
    assert set(after) - set(before) >= {"0521+166 A", "0521+166 B"}
    assert set(before) - set(after) == {"0521+166"}
    assert all(after[name] == before[name] for name in set(before) & set(after))
    assert changed.kinds.count("flare") == changed.kinds.count("ese") == 1


def places(made: sky.SimulatedSky) -> tuple[list[float], ...]:
    return tuple(list(map(float, a)) for a in (made.model.ra_rad, made.model.dec_rad, made.model.flux_jy))


def test_a_second_call_sees_the_same_faulty_sky(written: Written, tmp_path: Path) -> None:
    # here the simulator adds a synthetic calibrator, which the second call takes from the truth of the first
    faults = tuple(map(parse_fault, ("calibrator_flux:*:factor=1.2", "calibrator_double:*", "resolved_source:*")))
    options = replace(STRIP, start="2026-01-26T07:30:00", dec_deg=71.6, variables=False, faults=faults)
    once = simulate(tmp_path / "a", options)
    twice = simulate(tmp_path / "a", replace(options, start="2026-01-27T07:41:04.09"))
    bare = [{k: v for k, v in s.items() if k != "light_curve"} for s in once["sources"]]
    second_sources = {s["name"]: {k: v for k, v in s.items() if k != "light_curve"} for s in twice["sources"]}
    assert [second_sources[s["name"]] for s in bare if s.get("synthetic")] == [s for s in bare if s.get("synthetic")]
    assert sum(s["flux_jy"] for s in bare if s.get("synthetic")) == pytest.approx(9.6)
    assert [f for s, f in zip(twice["groups"], twice["faults"], strict=False)]
    assert {k: v for f in twice["faults"] for k, v in f.items() if f["kind"] == "resolved_source"}["observations"] == [
        g["observation"] for g in twice["groups"]
    ]
    with pytest.raises(ConfigurationError, match="other faults of the sky"):
        simulate(tmp_path / "a", replace(options, faults=faults[:1]))
