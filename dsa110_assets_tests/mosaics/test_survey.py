"""The HiPS of all nights: the weighted mean of the nights, the same whenever and however often it is updated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mocpy import MOC
from reproject.hips import hips_as_dask_array

from dsa110_assets.errors import BadDataError
from dsa110_assets.imaging.fits import read_plane, write_image
from dsa110_assets.mosaics.survey import Night, write_survey
from dsa110_assets_tests.mosaics.test_sky_tiles import REQUIRED, properties_of
from dsa110_assets_tests.mosaics.tiles import tile_header

pytestmark = pytest.mark.row(40, cases="stops, damages and withdrawals put right")

SIGMAS = {"a": 0.01, "b": 0.02, "c": 0.01, "far": 0.01}
LEVELS = {"a": 1.0, "b": 2.0, "c": 5.0, "far": 3.0}
CENTRES = {"a": (0.0, 16.0), "b": (0.3, 16.0), "c": (359.7, 16.0), "far": (9.0, 16.0)}


@pytest.fixture
def nights(tmp_path: Path) -> dict[str, Night]:
    """Flat mosaics of different brightness and noise, of which three overlap in part."""
    made = {}
    for number, name in enumerate(CENTRES):
        header = tile_header(*CENTRES[name], 256)
        header["BANDWID"], header["MJD-OBS"], header["MJD-END"] = 187.5e6, 61065.0 + number, 61065.5 + number
        header["DATE-OBS"], header["DATE-END"] = f"2026-01-2{5 + number}T00:00:00", f"2026-01-2{5 + number}T12:00:00"
        paths = [tmp_path / f"{name}-{kind}.fits" for kind in ("mosaic", "noise")]
        for path, value in zip(paths, (LEVELS[name], SIGMAS[name]), strict=True):
            write_image(np.full((256, 256), value), header, path)
        made[name] = Night(f"night_mosaic-2026012{5 + number}-v1", *paths)
    return made


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def value_at(directory: Path, ra: float, dec: float, name: str = "hips") -> float:
    array, wcs = hips_as_dask_array(str(directory / name))
    x, y = (round(float(value)) for value in wcs.wcs_world2pix(ra, dec, 0))
    return float(array.blocks[y // 512, x // 512].compute()[y % 512, x % 512])  # only whole tiles can be read


def test_the_survey_is_the_weighted_mean_of_the_nights(nights: dict[str, Night], tmp_path: Path) -> None:
    out = tmp_path / "survey"
    figures = write_survey(list(nights.values()), out)
    assert figures["nights"] == 4
    shares = {name: 1 / sigma**2 for name, sigma in SIGMAS.items()}
    for ra, observing in ((0.0, ["a", "b", "c"]), (0.5, ["b"]), (0.25, ["a", "b"]), (359.5, ["c"]), (9.0, ["far"])):
        total = sum(shares[name] for name in observing)
        assert value_at(out, ra, 16.0) == pytest.approx(sum(LEVELS[name] * shares[name] for name in observing) / total, rel=1e-5)
        assert value_at(out, ra, 16.0, "weights") == pytest.approx(total, rel=1e-5)
    for name in ("hips", "weights"):
        fields = properties_of(out / name)
        assert [key for key in REQUIRED if not fields.get(key)] == []
        assert fields["hips_tile_format"] == "fits"
        assert fields["prov_progenitor"].split() == [night.product_id for night in nights.values()]
        assert (fields["t_min"], fields["t_max"], fields["hips_release_date"]) == (
            "61065.000000",
            "61068.500000",
            "2026-01-28T12:00Z",
        )
    assert properties_of(out / "hips")["creator_did"] != properties_of(out / "weights")["creator_did"]
    moc = MOC.from_fits(out / "hips" / "Moc.fits")
    assert moc.sky_fraction == pytest.approx(figures["sky_area_deg2"] / 41252.96125)
    orders = sorted(int(path.name[6:]) for path in (out / "hips").glob("Norder*"))
    assert orders == list(range(3, int(figures["hips_order"]) + 1))


def test_night_by_night_is_as_all_at_once(nights: dict[str, Night], tmp_path: Path) -> None:
    write_survey(list(nights.values()), tmp_path / "at once")
    for upto in range(1, 5):
        write_survey(list(nights.values())[:upto], tmp_path / "in turn")
    once, turn = contents(tmp_path / "at once"), contents(tmp_path / "in turn")
    assert set(once) == set(turn)
    for name in once:
        if "Npix" in name:
            values = [read_plane(tmp_path / place / name)[0] for place in ("at once", "in turn")]
            np.testing.assert_allclose(*values, rtol=3e-7)
    assert write_survey(list(nights.values()), tmp_path / "in turn")["tiles_changed"] == 0
    assert contents(tmp_path / "in turn") == turn


def test_a_removed_night_leaves_no_trace(nights: dict[str, Night], tmp_path: Path) -> None:
    write_survey(list(nights.values()), tmp_path / "survey")
    write_survey([nights["a"]], tmp_path / "survey")
    write_survey([nights["a"]], tmp_path / "alone")
    assert contents(tmp_path / "survey") == contents(tmp_path / "alone")


def test_interrupted_and_damaged_survey_tiles_are_repaired(nights: dict[str, Night], tmp_path: Path) -> None:
    """A tile's image is written but its weights are not; another tile is truncated."""
    out = tmp_path / "survey"
    first, later = [nights["a"], nights["far"]], [nights["a"], nights["b"], nights["far"]]
    figures = write_survey(first, out)
    before = contents(out)
    write_survey(later, out)
    tiles = {name: read_plane(out / name)[0] for name in contents(out) if "Npix" in name}
    finest = f"Norder{int(figures['hips_order'])}/"
    old = next(name for name in before if name.startswith(f"weights/{finest}") and before[name] != (out / name).read_bytes())
    damaged = next(name for name in tiles if name.startswith(f"hips/{finest}") and Path(name).name != Path(old).name)
    (out / old).write_bytes(before[old])
    (out / damaged).write_bytes((out / damaged).read_bytes()[:5000])
    assert write_survey(later, out)["tiles_changed"] == 2
    for name, tile in tiles.items():
        np.testing.assert_allclose(read_plane(out / name)[0], tile, rtol=3e-7)


def test_refusals(nights: dict[str, Night], tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="at least one night"):
        write_survey([], tmp_path / "survey")
    (tmp_path / "survey" / "hips" / "Norder9").mkdir(parents=True)
    with pytest.raises(BadDataError, match=r"order 9.*into a new directory"):
        write_survey([nights["a"]], tmp_path / "survey")
