"""Tiles, windows and cutouts compared with the pixels they are made of, and requests that the viewer refuses."""

from __future__ import annotations

import io
from urllib.parse import quote

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from PIL import Image

from dsa110_assets.errors import NotFoundError
from dsa110_assets.portal import gallery, viewer
from dsa110_assets.portal.app import create_app
from dsa110_assets.settings import load
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.conftest import Get, ask

TILE = "tile_image-20260125T2205-v1"
MOSAIC = "hour_mosaic-20260125T2200-v1"


@pytest.mark.parametrize("level", [0, 1, 3])
def test_a_window_is_the_mean_of_its_pixels_that_are_not_blank(level: int) -> None:
    """Compared with the mean of the finite pixels of every block, also at the image's edge, to 1e-6 for float32 sums of 64 values."""
    data = np.random.default_rng(3).normal(size=(300, 530)).astype(np.float32)
    data[:20, :33] = np.nan
    step, side = 1 << level, viewer.TILE << level
    for y in range(-(-300 // side)):
        for x in range(-(-530 // side)):
            got = viewer.window(data, level, x, y)
            part = data[y * side : (y + 1) * side, x * side : (x + 1) * side]
            assert got.shape == tuple(-(-length // step) for length in part.shape)
            for row in range(0, got.shape[0], 7):
                for column in range(got.shape[1]):
                    block = part[row * step : (row + 1) * step, column * step : (column + 1) * step]
                    expected = block[np.isfinite(block)].mean() if np.isfinite(block).any() else np.nan
                    assert got[row, column] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_there_is_no_tile_outside_the_image() -> None:
    with pytest.raises(NotFoundError, match="no tile 1, 0 at level 1"):
        viewer.window(np.zeros((300, 300), np.float32), 1, 1, 0)


@pytest.mark.parametrize("stretch", viewer.STRETCHES)
def test_levels_rise_from_low_to_high_and_are_0_where_blank(stretch: str) -> None:
    got = viewer.levels(np.array([np.nan, -5.0, -1.0, 0.0, 1.0, 3.0, 9.0]), -1.0, 3.0, stretch)
    assert (got[0], got[1], got[2], got[5], got[6]) == (0, 1, 1, 255, 255)
    assert 1 < got[3] < got[4] < 255
    # a quarter of the range, by the formula of each stretch
    quarter = {"linear": 0.25, "sqrt": 0.5, "asinh": np.arcsinh(2.5) / np.arcsinh(10), "log": np.log(251) / np.log(1001)}[stretch]
    assert got[3] == 1 + round(254 * quarter)


def test_a_tile_has_north_up_and_the_source_at_its_place(get: Get) -> None:
    answer = get(f"/view/{TILE}/tile.png?low=-0.006&high=0.03&stretch=linear")
    assert answer.headers["content-type"] == "image/png"
    picture = np.asarray(Image.open(io.BytesIO(answer.body)))
    assert picture.shape == (made.SIDE, made.SIDE)
    assert (picture[::-1][:4, :4] == 0).all(), "the blank corner lies in the south: the last rows of the picture"
    rows, columns = np.nonzero(picture == 255)
    assert (rows.tolist(), columns.tolist()) == ([made.SIDE - 1 - made.SIDE // 2], [made.SIDE // 2])


def test_positions_are_astropys(get: Get) -> None:
    wcs = WCS(made.header())
    for x, y in ((0, 0), (10.25, 50.5), (made.SIDE // 2, made.SIDE // 2)):
        position = get(f"/view/{TILE}/at.json?x={x}&y={y}").json
        expected = wcs.pixel_to_world(x, y)
        assert (position["ra_deg"], position["dec_deg"]) == pytest.approx((expected.ra.deg, expected.dec.deg), abs=1e-10)
        assert SkyCoord(position["text"].replace("\N{NO-BREAK SPACE}", " ")).separation(expected).arcsec < 0.1  # 0.01 s of RA, 0.1 arcsec
        back = get(f"/view/{TILE}/place.json?ra={float(expected.ra.deg)!r}&dec={float(expected.dec.deg)!r}").json
        assert (back["x"], back["y"], back["inside"]) == (pytest.approx(x, abs=1e-6), pytest.approx(y, abs=1e-6), True)
    assert get(f"/view/{TILE}/at.json?x=32&y=32").json["value"] == pytest.approx(made.PEAK_JY)
    assert get(f"/view/{TILE}/at.json?x=1&y=1").json["value"] is None, "blank"
    assert get(f"/view/{TILE}/at.json?x=-30&y=1").json["value"] is None, "beside the image"
    assert not get(f"/view/{TILE}/place.json?ra=200&dec=16").json["inside"]


def test_a_cutout_shows_the_source_in_its_middle(get: Get) -> None:
    """In 20 arcmin with pixels of 36 arcsec, the pixel of the source is 4.8 of the 160 pixels wide, and black."""
    picture = np.asarray(Image.open(io.BytesIO(get(f"/cutout/{MOSAIC}.png?ra={made.RA_DEG}&dec={made.DEC_DEG}&size=20").body)))
    assert picture.shape == (viewer.CUTOUT, viewer.CUTOUT)
    rows, columns = np.nonzero(picture == 0)
    assert (rows.mean(), columns.mean()) == (pytest.approx(79.5, abs=1), pytest.approx(79.5, abs=1))
    assert 4 <= np.ptp(rows) + 1 <= 6
    assert get(f"/cutout/{MOSAIC}.png?ra=120&dec=16").status == 404


def test_the_viewer_marks_sources_of_catalogue_and_hour(get: Get) -> None:
    (first, *_) = get(f"/view/{MOSAIC}/overlay.json?kind=catalogue").json["marks"]
    assert (first["name"], first["x"], first["jy"]) == (next(iter(made.SOURCES)), pytest.approx(made.SIDE / 2), 0.5)
    measured = get(f"/view/{TILE}/overlay.json?kind=measurements").json["marks"]
    assert {one["name"] for one in measured} == set(made.SOURCES), "a tile has its hour's"
    text = get(f"/view/{MOSAIC}/sources.reg").text
    assert text.startswith("# Region file format: DS9\nicrs\ncircle(40.000000,16.270000")


@pytest.mark.parametrize(
    ("url", "status"),
    [
        (f"/view/{TILE}?file=../../archive.json", 404),
        (f"/view/{TILE}/tile.png?file=preview.png", 404),
        (f"/view/{TILE}/tile.png?file=%2Fetc%2Fpasswd.fits", 404),
        (f"/view/{TILE}/tile.png?level=9", 400),
        (f"/view/{TILE}/tile.png?x=5", 404),
        (f"/view/{TILE}/tile.png?low=1&high=1", 400),
        (f"/view/{TILE}/tile.png?low=nan", 400),
        (f"/view/{TILE}/tile.png?stretch=exp", 400),
        (f"/view/{TILE}/overlay.json?kind=x", 400),
        (f"/view/{TILE}/place.json?ra=40", 400),
        (f"/view/{TILE}/place.json?ra=40&dec=91", 400),
        ("/view/night_report-20260125-v1", 404),
        ("/view/tile_image-20260125T2205-v9", 404),
        (f"/view/{TILE}?ra=x&dec=y", 400),
        ("/gallery?asset=caltables", 400), ("/gallery?since=x", 404), ("/gallery?ra=1", 400), ("/gallery?max_rms=x", 400),
        ("/timeline?since=2020-01-01&until=2026-01-01", 400), ("/timeline?since=2026-01-27&until=2026-01-25", 400),
        ("/timeline?colour=x", 400), ("/timeline?state=x", 400), ("/timeline?since=x", 404), ("/trends/x.json", 404),
        ("/observations/2026-01-25T23:00", 404), ("/observations/x", 404), ("/calibration/x/y", 404), ("/calibration/trends/x.json", 404),
        ("/candidates?kind=x", 400), ("/candidates?verdict=x", 400), ("/candidates?night=x", 404),
    ],
)  # fmt: skip
def test_invalid_requests_are_refused_with_a_sentence(get: Get, url: str, status: int) -> None:
    answer = get(url)
    assert answer.status == status, answer.text[:300]
    if ".json" in url.partition("?")[0]:
        assert answer.json["detail"]


def test_carta_is_linked_at_the_configured_address(small: made.SmallArchive, no_settings_of_this_machine: None) -> None:
    configured = load(archive=small.root, inbox=small.inbox, carta_url="http://carta.example:3002/")
    text = ask(create_app(small.root, inbox=small.inbox, settings=configured), f"/view/{TILE}").text
    path = small.products[TILE].path
    assert f'href="http://carta.example:3002/?folder={quote(str(path))}&amp;file=image.fits"' in text
    assert "CARTA" not in ask(create_app(small.root, inbox=small.inbox), f"/view/{TILE}").text


def test_a_gallery_of_a_source_shows_its_position(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    positions: list[tuple[float, float]] = []
    monkeypatch.setattr(gallery, "_holds", lambda product, ra, dec: not positions.append((ra, dec)))
    ra, dec, _ = made.SOURCES[made.FAINT]
    assert 'data-choice="tile"' in get(f"/gallery?source={quote(made.FAINT)}").text
    assert positions == [pytest.approx((ra, dec))] * len(positions) != []
    assert get("/gallery?source=nobody").status == 404


def test_a_page_embeds_carta_and_no_other_site(small: made.SmallArchive, no_settings_of_this_machine: None) -> None:
    configured = load(archive=small.root, inbox=small.inbox, carta_url="http://carta.example:3002/")
    app = create_app(small.root, inbox=small.inbox, settings=configured)
    page = ask(app, f"/carta/{TILE}?file=image.fits")
    folder = quote(str(small.products[TILE].path))
    assert f'<iframe src="http://carta.example:3002/?folder={folder}&amp;file=image.fits"' in page.text
    assert page.headers["content-security-policy"].endswith("; frame-src http://carta.example:3002")
    assert ask(app, f"/carta/{TILE}?file=../../archive.json").status == 404
    assert "DSA110_CARTA_URL" in ask(create_app(small.root, inbox=small.inbox), f"/carta/{TILE}").text
