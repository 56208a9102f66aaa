"""Names: made from positions, and looked up as people write them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from dsa110_assets.errors import NotFoundError

T = TypeVar("T")


def look_up(name: str, tiers: Sequence[Sequence[tuple[str, T]]], what: str) -> T:
    """What a name means among labelled things: first the label that is the very name, in the first tier that has it.

    Else the one thing with a label that differs in case, blanks and underscores alone. The first tier has a label of
    everything. Raises NotFoundError: more than one is meant, or none; it lists them, or the nearest. `what` is the kind
    of thing, in the message.
    """
    own = {value: label for label, value in reversed(tiers[0])}
    labelled = [pair for tier in tiers for pair in tier]
    for fitting in (*([pair for pair in tier if pair[0] == name] for tier in tiers), _alike(name, labelled)):
        found = {value for _, value in fitting}
        if len(found) == 1:
            return found.pop()
        if found:
            there = some(sorted(own[value] for value in found))
            raise NotFoundError(f"{name!r} may be any of {len(found)} {what}s: {there}; write the one you mean as it stands here")
    by_plain = {plain(label): (label, value) for label, value in reversed(labelled)}
    near = [by_plain[key] for key in difflib.get_close_matches(plain(name), list(by_plain), n=3, cutoff=0.4)]
    shown = ", ".join(label if label == own[value] else f"{own[value]} ({label})" for label, value in near)
    hint = f"nearest: {shown}" if near else f"the first are {some(sorted(own.values()))}"
    raise NotFoundError(f"no {what} {name!r} among {len(own)}; {hint}")


def _alike(name: str, labelled: Sequence[tuple[str, T]]) -> list[tuple[str, T]]:
    wanted = plain(name)
    return [pair for pair in labelled if plain(pair[0]) == wanted]


def plain(name: str) -> str:
    """A name without what people leave out or add: case, blanks, underscores, and the J before a position."""
    return re.sub(r"^j(?=\d)", "", re.sub(r"[\s_]+", "", name).lower())


def some(names: Sequence[str], limit: int = 6) -> str:
    """The names, or the first of many."""
    return ", ".join(names) if len(names) <= limit else f"{', '.join(names[: limit - 1])} … {names[-1]}"


def unique(names: Iterable[str]) -> list[str]:
    """The names in their order; one that occurs again gets the first of '-2', '-3', ... that is free."""
    given = list(names)
    taken, count = set(given), dict.fromkeys(given, 0)
    out = []
    for name in given:
        count[name] += 1
        fresh = name
        while count[name] > 1 and (fresh := f"{name}-{count[name]}") in taken:
            count[name] += 1
        taken.add(fresh)
        out.append(fresh)
    return out


def position_name(prefix: str, ra_deg: float, dec_deg: float) -> str:
    """'NVSS J225357.7+160853': right ascension truncated to 0.1 s, declination to 1 arcsec, as the IAU asks.

    `ra_deg` 0..360, `dec_deg` -90..90, ICRS.
    """
    # positions that are whole in sexagesimal must not drop by one through rounding of the last bit
    tenths = int(ra_deg / 15 * 36000 + 1e-6) % (24 * 36000)
    arcsec = int(abs(dec_deg) * 3600 + 1e-6)
    ra = f"{tenths // 36000:02d}{tenths // 600 % 60:02d}{tenths % 600 / 10:04.1f}"
    dec = f"{'-' if dec_deg < 0 else '+'}{arcsec // 3600:02d}{arcsec // 60 % 60:02d}{arcsec % 60:02d}"
    return f"{prefix} J{ra}{dec}"
