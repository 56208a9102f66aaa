"""Kinds of interference in a small array: the shares that our flagger and AOFlagger catch and lose of the same data.

24 antennas, 8 channels of 1.46 MHz per subband, one group in which an 8.6 Jy calibrator drifts through. Each row has one kind
of interference and no other fault (the simulator's fault of that name, with its defaults unless the row says otherwise).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from common import Contender, Data, Row, compare

ALWAYS = "start_s=0,duration_s=400"
KINDS = {
    "none": "",
    "none, a 20 Jy source": "20 Jy",
    "satellite, 3 Jy": "satellite:*:power_jy=3",
    "satellite, 100 Jy": "satellite:*",
    "satellite, 1000 Jy": "satellite:*:power_jy=1000",
    "low satellite (0.3 deg/s), 1000 Jy": "satellite:*:power_jy=1000,rate_deg_s=0.3",
    "wide, 200 s, 1 Jy": "wide_rfi:*:power_jy=1",
    "wide, 200 s, 100 Jy": "wide_rfi:*",
    "wide, always, 0.3 Jy": f"wide_rfi:*:power_jy=0.3,{ALWAYS}",
    "wide, always, 0.6 Jy": f"wide_rfi:*:power_jy=0.6,{ALWAYS}",
    "wide, always, 1 Jy": f"wide_rfi:*:power_jy=1,{ALWAYS}",
    "wide, always, 3 Jy": f"wide_rfi:*:power_jy=3,{ALWAYS}",
    "wide, always, 100 Jy": f"wide_rfi:*:{ALWAYS}",
    "radar": "radar:*",
    "hopping": "hopping:*",
    "comb": "comb:*",
    "tones and bursts": "tones",
    "satellite, 100 Jy, and a comb": "satellite:* comb:*",
    "satellite, 100 Jy, tones and bursts": "satellite:* tones",
    "wide, 200 s, 100 Jy, tones and bursts": "wide_rfi:* tones",
}


def rows(data: Data, repeats: int) -> list[Row]:
    out = []
    for name, text in KINDS.items():
        arguments = {"text": text, "folder": str(data.scratch)}
        out += compare(
            [
                Contender(f"flagging: {name}", "dsa110_assets", judge, arguments | {"engine": "own"}, "flagging alone", most=1),
                Contender(
                    f"flagging: {name}", "aoflagger", judge, arguments | {"engine": "aoflagger"}, "flagging alone",
                    peer=True, most=1,
                ),
            ],
            repeats,
        )  # fmt: skip
    return out


def judge(text: str, folder: str, engine: str) -> dict[str, Any]:
    """Percentage of samples caught (of those with more than 1 sigma of interference) and lost (of those without any), and noise.

    Noise: rms of the dirty image of unflagged noise and interference, calibrated with the true gains, over the rms of the
    noise alone with the same flags. The ratio before flagging is returned as well.
    """
    import tempfile
    import time

    import numpy as np

    from dsa110_assets.simulator import receiver
    from dsa110_assets.simulator.options import FixedSource, SimulationOptions, parse_fault
    from dsa110_assets.simulator.schedule import schedule
    from dsa110_assets.simulator.simulate import simulate
    from dsa110_assets.telescope import astrometry, band
    from dsa110_assets.visibilities import flagging, reader
    from dsa110_assets.visibilities.options import FlaggingOptions
    from dsa110_assets_tests.visibilities import contamination

    plain = SimulationOptions(
        start="2026-01-26T04:52:00", groups=1, antennas=24, channels=8, seed=3, rfi_tones=0, rfi_bursts=0.0, dead_receptors=0,
        dead_antennas=0,
    )  # fmt: skip
    group = schedule(plain)[0]
    options = plain
    if text == "20 Jy":
        ra, dec = np.rad2deg(astrometry.meridian_icrs_rad([group.mjd_mid], np.deg2rad(plain.dec_deg))[0])
        options = replace(plain, fixed_sources=(FixedSource("bright", float(ra) + 0.3, float(dec) + 0.2, 20.0),))
    elif text:
        kinds = text.split()
        options = replace(plain, faults=tuple(parse_fault(kind) for kind in kinds if kind != "tones"))
        if "tones" in kinds:
            options = replace(options, rfi_tones=2, rfi_bursts=3.0)

    def observed(what: SimulationOptions) -> Any:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            simulate(Path(place), what)
            return reader.read_group({int(path.stem[-2:]): path for path in Path(place).glob("*.hdf5")})

    vis = observed(options)
    noise = observed(replace(plain, population=False, variables=False, calibrator="none"))
    gains, truth = contamination.gains(plain, group), contamination.visibilities(options, group)
    chosen = FlaggingOptions(engine=engine)  # type: ignore[arg-type]
    flagging.flag(noise, chosen)
    began = time.perf_counter()
    flagged, _ = flagging.flag(vis, chosen)
    took = time.perf_counter() - began
    cross = ~vis.is_auto
    bad, amplitude = flagged.flags[:, cross].any(axis=-1), np.abs(truth[:, cross])
    strong = amplitude > receiver.noise_sigma_jy(plain.sefd_jy, band.channel_width_hz(plain.channels))
    use, everything = ~flagged.flags & cross[:, None, None], np.broadcast_to(cross[:, None, None], flagged.flags.shape)
    alone, both = noise.data / gains, noise.data / gains + truth[..., None]
    figures = {"wall_s": took}
    if strong.any():
        figures["caught %"] = 100 * float(bad[strong].mean())
    figures["clean lost %"] = 100 * float(bad[amplitude == 0].mean())
    figures["noise"] = _rms(noise, both, use) / _rms(noise, alone, use)
    figures["noise unflagged"] = _rms(noise, both, everything) / _rms(noise, alone, everything)
    return figures


def _rms(frame: Any, data: Any, use: Any) -> float:
    """Rms, up to a constant factor, of a dirty Stokes I image with natural weights and 256 pixels of 40 arcsec a side."""
    import numpy as np
    from ducc0 import wgridder

    from dsa110_assets.visibilities import phasing

    phased = phasing.to_common_centre(replace(frame, data=np.ascontiguousarray(data)))
    good = use.all(axis=-1)
    values = np.where(good, phased.data.mean(axis=-1), 0).astype(np.complex64)
    n, pixel = values.shape[0] * values.shape[1], np.deg2rad(40 / 3600)
    image = wgridder.vis2dirty(
        uvw=phased.uvw_m.reshape(n, 3), freq=phased.frequencies_hz, vis=values.reshape(n, -1), npix_x=256, npix_y=256,
        pixsize_x=pixel, pixsize_y=pixel, epsilon=1e-4, do_wgridding=False,
    )  # fmt: skip
    return float(image.std() / np.count_nonzero(good))
