"""Names as people write them: an exact match if there is one, otherwise the only name that matches loosely."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsa110_assets.errors import NotFoundError
from dsa110_assets.portal import overview
from dsa110_assets.sky import calibrators
from dsa110_assets.sky.names import look_up, unique

SOURCES = ["PSR J0024-7204A", "PSR J0024-7204a", "S 11", "S1 1", "NVSS J052024-161200"]


def find(name: str) -> str:
    return look_up(name, ([(source, source) for source in SOURCES],), "source")


@pytest.mark.parametrize("name", SOURCES)
def test_a_name_as_written_finds_its_source(name: str) -> None:
    assert find(name) == name


@pytest.mark.parametrize("name", ["nvss j052024-161200", "NVSS_J052024-161200", " NVSSJ052024-161200"])
def test_case_blanks_and_underscores_are_ignored_in_unambiguous_names(name: str) -> None:
    assert find(name) == "NVSS J052024-161200"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("S11", ["S 11", "S1 1"]), ("s_11", ["S 11", "S1 1"]), ("psr j0024-7204a", SOURCES[:2]), ("PSRJ0024-7204A", SOURCES[:2])],
)
def test_ambiguous_names_are_refused_naming_all_candidates(name: str, meant: list[str]) -> None:
    with pytest.raises(NotFoundError) as refused:
        find(name)
    assert all(one in str(refused.value) for one in meant)
    assert "NVSS" not in str(refused.value)


def test_an_alias_shared_by_many_calibrators_is_refused() -> None:
    """CJ2 is the alias of 135 calibrators; formerly the first of them was returned."""
    for alias in ("CJ2", "JVAS", "cj2"):
        with pytest.raises(NotFoundError, match=r"may be any of \d+ calibrators: 00"):
            calibrators.find(alias)


def test_catalogue_calibrators_are_found_by_case_insensitive_names() -> None:
    from_catalogue = replace(
        calibrators.find("3C286"), name="NVSS J052024-161200", alias=None, standard=None, flux_20cm_jy=3.0, catalogue="NVSS"
    )
    all_calibrators = [*calibrators.load(), from_catalogue]
    (row, *_) = overview.transits_of_night("2026-01-25", None, "nvss j052024-161200", all_calibrators)
    assert row.calibrator == from_catalogue.name
    with pytest.raises(NotFoundError, match="may be any of 2 calibrators"):
        overview.transits_of_night(
            "2026-01-25", None, "nvss j052024-161200", [*all_calibrators, replace(from_catalogue, name=from_catalogue.name.lower() + " ")]
        )


def test_an_exact_name_has_precedence_over_an_alias() -> None:
    named = replace(calibrators.find("3C48"), name="3C286", alias=None, standard=None)
    assert calibrators.find("3C286", [*calibrators.load(), named]) is named


def test_names_are_made_unique_whatever_they_are() -> None:
    assert unique(["A", "A", "A-2", "A", "B"]) == ["A", "A-3", "A-2", "A-4", "B"]
    assert unique(["A", "A"]) == ["A", "A-2"]
