"""Names made from positions."""

from __future__ import annotations


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
