"""A source listed more than once, in one catalogue or in catalogues of different resolution, is in the sky once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dsa110_assets.sky import catalogues, model

N = 200
RADIUS_ARCSEC = 15.0


def sky(seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"name": [f"S{i}" for i in range(N)], "ra_deg": rng.uniform(100, 110, N), "dec_deg": rng.uniform(15, 17, N)})
    return frame.assign(flux_jy=rng.uniform(0.05, 1, N))


def moved(frame: pd.DataFrame, east_arcsec: float = 0.0, north_arcsec: float = 0.0, suffix: str = "b", share: float = 1.0) -> pd.DataFrame:
    east = east_arcsec / 3600 / np.cos(np.deg2rad(frame["dec_deg"]))
    return frame.assign(
        name=frame["name"] + suffix, ra_deg=frame["ra_deg"] + east, dec_deg=frame["dec_deg"] + north_arcsec / 3600,
        flux_jy=frame["flux_jy"] * share,
    )  # fmt: skip


def read(folder: Path, name: str, *frames: pd.DataFrame) -> pd.DataFrame:
    pd.concat(frames).to_csv(folder / f"{name}.csv", index=False)
    return catalogues.read_catalogue(folder / f"{name}.csv")


def total_jy(*frames: pd.DataFrame) -> float:
    merged = catalogues.merge(list(frames), [str(frame["catalogue"].iloc[0]) for frame in frames], RADIUS_ARCSEC)
    return float(model.from_frame(merged).flux_at(1.4e9).sum())


@pytest.mark.parametrize("apart_arcsec", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("share", [1.0, 0.8])
def test_two_releases_in_one_file_count_once(tmp_path: Path, apart_arcsec: float, share: float) -> None:
    frame = read(tmp_path, "both", sky(), moved(sky(), 0.6 * apart_arcsec, 0.8 * apart_arcsec, share=share))
    assert (len(frame), frame.attrs["n_repeats"]) == (N, N)
    assert list(frame["name"]) == list(sky()["name"])
    assert total_jy(frame) == pytest.approx(sky()["flux_jy"].sum())


def test_a_repeated_entry_with_a_flux_replaces_one_without(tmp_path: Path) -> None:
    frame = read(tmp_path, "both", sky().assign(flux_jy=np.nan), moved(sky(), 0.5))
    assert list(frame["name"]) == list(sky()["name"] + "b")


def test_the_middle_one_of_three_close_entries_is_a_repeat(tmp_path: Path) -> None:
    """Entries are 2 arcsec apart: the middle one repeats the first, and the last is 4 arcsec from the first."""
    first = sky().head(1)
    frame = read(tmp_path, "three", first, moved(first, 2.0, suffix="b"), moved(first, 4.0, suffix="c"))
    assert list(frame["name"]) == ["S0", "S0c"]


def test_repeats_are_found_within_the_surveys_beam(tmp_path: Path) -> None:
    """5 arcsec apart: impossible in NVSS (45 arcsec), two components in FIRST."""
    assert len(read(tmp_path, "nvss", sky(), moved(sky(), 5.0))) == N
    assert len(read(tmp_path, "first", sky(), moved(sky(), 5.0))) == 2 * N


@pytest.mark.parametrize("order", [("nvss", "first"), ("first", "nvss"), ("coarse", "fine"), ("fine", "coarse")])
def test_a_double_blended_in_another_catalogue_counts_once(tmp_path: Path, order: tuple[str, str]) -> None:
    """Two lobes 20 and 30 arcsec on either side have 60 and 40 % of the flux; the other catalogue has one entry at their centroid, beyond
    the matching radius."""
    lobes = (moved(sky(), 20, suffix="e", share=0.6), moved(sky(), -30, suffix="w", share=0.4))
    frames = [read(tmp_path, name, *([sky()] if name in ("nvss", "coarse") else lobes)) for name in order]
    assert total_jy(*frames) == pytest.approx(sky()["flux_jy"].sum(), rel=0.01)


def test_sources_blended_in_a_coarse_survey_are_not_added(tmp_path: Path) -> None:
    nvss, first = read(tmp_path, "nvss", sky()), read(tmp_path, "first", sky(), moved(sky(), 30.0, share=0.1))
    assert total_jy(nvss, first) == pytest.approx(sky()["flux_jy"].sum())


def test_two_files_of_one_name_are_two_catalogues(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    frames = [read(tmp_path, "list", sky()), read(tmp_path / "a", "list", moved(sky(), 4.0))]
    assert total_jy(*frames) == pytest.approx(sky()["flux_jy"].sum())


def test_real_neighbours_are_kept(tmp_path: Path) -> None:
    near, far = read(tmp_path, "near", moved(sky(), 4.0)), read(tmp_path, "far", sky())
    assert len(read(tmp_path, "pairs", sky(), moved(sky(), 4.0))) == 2 * N
    assert total_jy(far, near) == pytest.approx(sky()["flux_jy"].sum())  # two catalogues: one source
    assert total_jy(far, read(tmp_path, "beside", moved(sky(), 60.0))) == pytest.approx(2 * sky()["flux_jy"].sum())
    # within a beam but brighter than the blended source: it is another source, or has flared
    assert total_jy(read(tmp_path, "nvss", sky()), read(tmp_path, "first", moved(sky(), 30.0, share=3))) > 3 * sky()["flux_jy"].sum()


def test_steep_low_frequency_sources_are_recognised_as_repeats(tmp_path: Path) -> None:
    nvss, tgss = read(tmp_path, "nvss", sky()), read(tmp_path, "tgss", moved(sky(), 6.0, share=(147.5 / 1400) ** -0.9))
    assert total_jy(nvss, tgss) == pytest.approx(sky()["flux_jy"].sum())
    assert total_jy(tgss, nvss) == pytest.approx(sky()["flux_jy"].sum() * (147.5 / 1400) ** -0.2)
