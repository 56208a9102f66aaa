"""Instrumental faults, followed from the files to an image: fluxes are right, or the observation's checks say why not.

A calibrator's observation is solved once; the observation after it is simulated again with each fault, calibrated with
those tables, compared with the sky, and imaged. All of this uses the platform's own functions and rules, without Dagster.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsa110_assets.calibration.gains import Gains
from dsa110_assets.sky import model
from dsa110_assets_tests.end_to_end.later_observation import (
    CORRECTED,
    FLAGGED,
    INTERFERENCE,
    STATION,
    WRONG_CALIBRATORS,
    Seen,
    judged,
    seen,
    solved,
)  # fmt: skip

pytestmark = pytest.mark.slow
MOST_OFF, MOST_NOISE = 0.02, 1.35
"""The largest allowed flux error, and the largest noise over the radiometer's: that is 1.16 on the healthy instrument, beside a source of
7 Jy."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Gains, ...], model.SkyModel]:
    """The tables of a healthy transit, and the catalogue."""
    solution, sky = solved(tmp_path_factory.mktemp("transit"))
    return solution.tables, sky


def assert_right(found: Seen) -> None:
    assert found.ratio == pytest.approx(1, abs=MOST_OFF), found
    assert found.worst == pytest.approx(1, abs=3 * MOST_OFF), found  # a single source has 2 % of noise at 50 sigma
    assert found.noise < MOST_NOISE, found
    assert not found.excluded


def test_a_healthy_observation_has_no_lost_receptors(tables, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = seen(tmp_path, tables, ())
    assert_right(result)
    assert result.failed == {}
    assert result.figures["receptors_lost"] == []


@pytest.mark.parametrize("faults", CORRECTED.values(), ids=list(CORRECTED))
def test_correctable_faults_are_corrected(tables, tmp_path: Path, faults: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    result = seen(tmp_path, tables, faults)
    assert_right(result)
    assert result.figures["receptors_lost"] == []


@pytest.mark.parametrize("faults", FLAGGED.values(), ids=list(FLAGGED))
def test_receptors_without_sky_are_flagged(tables, tmp_path: Path, faults: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    result = seen(tmp_path, tables, faults)
    assert_right(result)
    receptors = [f"{STATION}X"] if "receptor=x" in faults[0] else [f"{STATION}X", f"{STATION}Y"]
    assert result.figures["receptors_lost"] == receptors
    assert all(name in result.failed["antennas"] for name in receptors)


def test_an_observation_with_half_the_array_deaf_is_excluded(tables, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Twelve of 24 antennas are deaf: the observation is excluded, and they are reported."""
    names = "12+2+48+87+29+20+73+68+31+76+35+8"
    result = seen(tmp_path, tables, (f"deaf_antenna:0:antenna={names}",))
    assert result.excluded
    assert result.figures["n_antennas_lost"] >= 11  # some of the twelve are dead already
    assert "enough_antennas" in result.failed
    json.dumps(result.figures)


@pytest.mark.parametrize("faults", INTERFERENCE.values(), ids=list(INTERFERENCE))
def test_wide_interference_is_flagged(tables, tmp_path: Path, faults: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    result = seen(tmp_path, tables, faults)
    assert_right(result)
    assert result.figures["receptors_lost"] == []


def test_fluxes_are_right_with_polarisation_and_unequal_noise(tmp_path: Path) -> None:
    """Stokes I is (XX + YY) / 2. The calibrator's polarisation of 5 % goes into the tables, and makes XX and YY of all other sources
    unequal."""
    faults = ("polarised:*:fraction=0.05", "receptor_noise:0:ratio=1.5")
    (tmp_path / "transit").mkdir()
    (tmp_path / "later").mkdir()
    solution, sky = solved(tmp_path / "transit", faults)
    assert_right(seen(tmp_path / "later", (solution.tables, sky), faults))


@pytest.mark.parametrize(("fault", "expected"), WRONG_CALIBRATORS.values(), ids=list(WRONG_CALIBRATORS))
def test_a_calibrator_that_is_not_as_listed_is_refused_or_harmless(tmp_path: Path, fault: str, expected: str) -> None:
    """The calibrator is refused by name, or the observation after it is right nevertheless."""
    problems, result = judged(tmp_path, fault)
    if "refused" in expected and problems:
        assert all("0521+166" in problem for problem in problems)
        return
    assert problems == []
    assert "right" in expected
    assert result is not None
    assert not result.excluded
    assert result.ratio == pytest.approx(1, abs=MOST_OFF)
    if "size" not in fault and "double" not in fault:
        assert_right(result)  # CLEAN residuals of a resolved 7 Jy source in the same field shift the faintest sources
