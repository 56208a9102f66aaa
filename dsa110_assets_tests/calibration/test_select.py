"""Choice of calibration: the nearest in both directions, never across strips or antenna sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from dsa110_assets.calibration.select import CaltableSet, ChooseOptions, choose
from dsa110_assets.errors import WaitingError

ANTENNAS = frozenset({"1", "2", "103"})
MJD = 61065.9


def a_set(set_id, mid_mjd, **changes):
    first = CaltableSet(
        set_id,
        (Path(f"{set_id}.b"),),
        mid_mjd,
        mid_mjd - 0.5,
        mid_mjd + 0.5,
        16.27,
        ANTENNAS,
        "3C138",
        "PB17:3C138",
        "active",
    )
    return replace(first, **changes)


def chosen(*sets, mjd=MJD, dec=16.27, antennas=ANTENNAS, **more):
    return choose(sets, mjd, dec, antennas, ChooseOptions(), **more)


def between(*sets, mjd=MJD, dec=16.27, antennas=ANTENNAS):
    """The ids of the sets that gains are interpolated between, nearest first, or of the single set used."""
    choice = choose(sets, mjd, dec, antennas, ChooseOptions(interpolate=True))
    return [one.set_id for one in choice.sets]


def test_nearest_in_both_directions():
    """Trap 18: a table solved after the observation is as good as one before it."""
    before, after = a_set("before", MJD - 0.2), a_set("after", MJD + 0.1)
    choice = chosen(before, after)
    assert (choice.nearest.set_id, choice.fallback) == ("after", False)
    assert choice.weights == (1.0,)
    assert choice.age_h == pytest.approx(2.4)
    assert "after the observation" in choice.reason
    assert chosen(before, after, mjd=MJD - 0.15).nearest is before
    assert chosen(before).nearest is before
    assert chosen(after).nearest is after


def test_another_strip_is_never_borrowed():
    """Trap 17: a fresh table of another declination is not used, even if there is no other."""
    with pytest.raises(WaitingError, match="declination strip"):
        chosen(a_set("other", MJD, dec_deg=33.0))
    with pytest.raises(WaitingError, match="declination strip"):
        chosen(a_set("other", MJD, dec_deg=16.80))
    assert chosen(a_set("near", MJD, dec_deg=16.70)).nearest.set_id == "near"
    with pytest.raises(ValueError, match="max_dec_offset_deg"):
        TypeAdapter(ChooseOptions).validate_python({"max_dec_offset_deg": 5.0})


def test_the_antennas_must_be_covered():
    """A set that lacks one of the observation's antennas is refused; additional antennas are allowed."""
    with pytest.raises(WaitingError, match="antennas"):
        chosen(a_set("small", MJD), antennas=ANTENNAS | {"104"})
    assert chosen(a_set("large", MJD, antennas=ANTENNAS | {"104"})).nearest.set_id == "large"


def test_rejected_sets_are_passed_over():
    good = a_set("good", MJD - 0.3)
    assert chosen(a_set("bad", MJD, status="rejected"), good).nearest is good
    with pytest.raises(WaitingError, match="1 with status rejected"):
        chosen(a_set("bad", MJD, status="rejected"))


def test_fallback_to_the_last_good_set_is_marked_and_limited():
    """Outside every validity the last known good set is used, marked as such; beyond 30 days none is."""
    old = a_set("old", MJD - 3)
    choice = chosen(old)
    assert choice.fallback
    assert "last known good" in choice.reason
    with pytest.raises(WaitingError, match="30 days"):
        chosen(a_set("older", MJD - 31))
    with pytest.raises(WaitingError, match="none registered"):
        chosen()


def test_a_valid_set_has_precedence_over_a_nearer_invalid_one():
    narrow = a_set("narrow", MJD - 0.1, valid_end_mjd=MJD - 0.05)
    wide = a_set("wide", MJD - 0.4)
    assert chosen(narrow, wide).nearest is wide


def test_waits_for_a_transit_that_is_due():
    """Last known good is not used while a nearer transit is still to be solved; a valid set is."""
    old = a_set("old", MJD - 3)
    with pytest.raises(WaitingError, match="waiting for its calibration"):
        chosen(old, due_transit_mjd=MJD + 0.5)
    assert chosen(old, due_transit_mjd=MJD + 4).fallback
    assert not chosen(a_set("fresh", MJD - 0.3), due_transit_mjd=MJD + 0.1).fallback


def test_ties_are_broken_the_same_way_every_time():
    twins = [a_set("b", MJD - 0.1), a_set("a", MJD - 0.1)]
    assert chosen(*twins).nearest.set_id == chosen(*reversed(twins)).nearest.set_id == "a"


def test_two_transits_around_an_observation_share_it_by_distance():
    before, after = a_set("before", MJD - 0.1), a_set("after", MJD + 0.3)
    choice = choose([after, before], MJD, 16.27, ANTENNAS, ChooseOptions(interpolate=True))
    assert choice.sets == (before, after)
    assert choice.weights == pytest.approx((0.75, 0.25))
    assert choice.age_h == pytest.approx(2.4)
    assert [one.set_id for one, _ in choice.in_time_order] == ["before", "after"]
    assert "interpolated with after (3C138, PB17:3C138), 7.2 h after the observation; weights 0.75 and 0.25" in choice.reason
    assert between(before, after, a_set("later", MJD + 0.4), a_set("earlier", MJD - 0.2), mjd=MJD + 0.25) == ["after", "before"]
    assert between(before) == ["before"]
    assert between(before, a_set("earlier", MJD - 0.2)) == ["before"]


def test_a_calibrators_next_transit_comes_after_a_sidereal_day():
    """At the calibrator's next transit its set is no longer valid, and the next set is not yet; but between them one of the two always
    is."""
    day = 0.99727
    before, after = a_set("before", MJD - 0.2), a_set("after", MJD - 0.2 + day)
    assert between(before, after) == ["before", "after"]
    assert between(before, after, mjd=MJD + 0.7) == ["after", "before"]
    assert between(before, a_set("after next", MJD - 0.2 + 2 * day)) == ["before"]


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "rejected"}, {"dec_deg": 33.0}, {"antennas": frozenset({"1"})}, {"valid_start_mjd": MJD + 0.25},
        {"valid_start_mjd": MJD + 0.3, "valid_end_mjd": MJD + 0.3},
    ],
)  # fmt: skip
def test_only_applicable_sets_are_used_for_interpolation(changes):
    """A set whose validity was shortened by a standard's, to its own moment or to where the standard's ends, is not used either."""
    before = a_set("before", MJD - 0.1, valid_end_mjd=MJD + 0.25)
    assert between(before, a_set("after", MJD + 0.3, **changes)) == ["before"]


def test_neither_a_fallback_nor_the_transit_itself_is_interpolated():
    old, older = a_set("old", MJD + 3), a_set("older", MJD - 3.5)
    assert between(old, older) == ["old"]
    own, other = a_set("own", MJD + 150 / 86400), a_set("other", MJD - 0.2)
    assert between(own, other) == ["own"]
    assert between(own, other, mjd=MJD - 160 / 86400) == ["own", "other"]


def test_a_set_is_not_used_where_it_is_retired():
    """From the first moment of the span to just before its end; a farther set serves there, and without one it waits."""
    near, far = a_set("near", MJD, retired=((MJD - 1.0, MJD + 0.1),)), a_set("far", MJD - 0.4)
    for mjd, expected in ((MJD - 0.05, "far"), (MJD + 0.0999, "far"), (MJD + 0.1, "near")):
        assert chosen(near, far, mjd=mjd).nearest.set_id == expected
    with pytest.raises(WaitingError, match="1 retired for that time"):
        chosen(near, mjd=MJD)
