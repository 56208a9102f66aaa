"""Names of sources: made from positions, and looked up as people write them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from dsa110_assets.errors import NotFoundError

T = TypeVar("T")


def look_up(name: str, tiers: Sequence[Sequence[tuple[str, T]]], what: str) -> T:
    """Return the item that a name means: the item whose label equals the name, in the first tier that has one.

    Otherwise it is the only item with a label that differs just in case, blanks and underscores. The first tier has a label
    for every item. Raises NotFoundError if the name fits several items, which it lists, or none, when it lists the nearest.
    `what` is the kind of item, for the message.
    """
    main_label = {value: label for label, value in reversed(tiers[0])}
    labelled = [pair for tier in tiers for pair in tier]
    for matches in (*([pair for pair in tier if pair[0] == name] for tier in tiers), _plain_matches(name, labelled)):
        values = {value for _, value in matches}
        if len(values) == 1:
            return values.pop()
        if values:
            listed = some(sorted(main_label[value] for value in values))
            raise NotFoundError(
                f"{name!r} may be any of {len(values)} {what}s: {listed}; write the name of the one you mean exactly as listed"
            )
    by_plain = {plain(label): (label, value) for label, value in reversed(labelled)}
    near = [by_plain[key] for key in difflib.get_close_matches(plain(name), list(by_plain), n=3, cutoff=0.4)]
    shown = ", ".join(label if label == main_label[value] else f"{main_label[value]} ({label})" for label, value in near)
    hint = f"nearest: {shown}" if near else f"the first are {some(sorted(main_label.values()))}"
    raise NotFoundError(f"no {what} {name!r} among {len(main_label)}; {hint}")


def _plain_matches(name: str, labelled: Sequence[tuple[str, T]]) -> list[tuple[str, T]]:
    plain_name = plain(name)
    return [pair for pair in labelled if plain(pair[0]) == plain_name]


def plain(name: str) -> str:
    """Return a name without case, blanks, underscores and the J before a position, which people leave out or add."""
    return re.sub(r"^j(?=\d)", "", re.sub(r"[\s_]+", "", name).lower())


def some(names: Sequence[str], limit: int = 6) -> str:
    """Return the names joined by commas; of more than `limit`, the first ones and the last."""
    return ", ".join(names) if len(names) <= limit else f"{', '.join(names[: limit - 1])} … {names[-1]}"


def unique(names: Iterable[str]) -> list[str]:
    """Return the names in their order; a repeated one gets the first of '-2', '-3', ... that is free."""
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
    """'NVSS J225357.7+160853': right ascension truncated to 0.1 s, declination to 1 arcsec, as the IAU requires.

    `ra_deg` 0..360, `dec_deg` -90..90, ICRS.
    """
    # a position that is exact in sexagesimal must not lose one unit through rounding of the last bit
    tenths = int(ra_deg / 15 * 36000 + 1e-6) % (24 * 36000)
    arcsec = int(abs(dec_deg) * 3600 + 1e-6)
    ra = f"{tenths // 36000:02d}{tenths // 600 % 60:02d}{tenths % 600 / 10:04.1f}"
    dec = f"{'-' if dec_deg < 0 else '+'}{arcsec // 3600:02d}{arcsec // 60 % 60:02d}{arcsec % 60:02d}"
    return f"{prefix} J{ra}{dec}"
