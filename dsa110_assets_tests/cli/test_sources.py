"""`dsa110 sources`, `variables` and `judge`, compared with the contents of the small archive."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from dsa110_assets.portal.app import create_app
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.portal.conftest import ask
from dsa110_assets_tests.portal.small_archive import FAINT, NIGHTS, SOURCES, SmallArchive

BRIGHT = next(name for name in SOURCES if name != FAINT)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", [BRIGHT, FAINT]),
        ("--sort flux", [BRIGHT, FAINT]),
        ("--sort scatter", [FAINT, BRIGHT]),  # detected once a night, and 1 mJy otherwise; the other is constant
        ("--sort flux --limit 1", [BRIGHT]),
        ("--min-flux-jy 0.3", [BRIGHT]),
        ("--max-flux-jy 0.3", [FAINT]),
        ("--min-flux-jy 0.7", []),
        ("--ra 40.25 --dec 16.3333 --radius 1arcmin", [FAINT]),
        ("--ra 2h41m00s --dec +16d20m00s --radius 0.5", [FAINT, BRIGHT]),  # nearest first
        ("--ra 40.25 --dec 16.3333 --radius 0.5 --sort name", [BRIGHT, FAINT]),
        ("--ra 10 --dec -5", []),
    ],
)
def test_sources_are_selected_and_sorted(dsa110: Run, options: str, expected: list[str]) -> None:
    done = dsa110("sources", *options.split(), "--json")
    assert done.status == 0, done.err
    assert [row["source_id"] for row in done.json["sources"]] == expected
    assert done.json["product_id"] == "light_curves-20260126-v1"
    for row in done.json["sources"]:
        ra, dec, flux = SOURCES[row["source_id"]]
        seen_jy = (flux + 0.001) / 2 if row["source_id"] == FAINT else flux
        assert (row["ra_deg"], row["dec_deg"], row["n_epochs"]) == (ra, dec, 4)
        assert row["flux_jy"] == pytest.approx(seen_jy, rel=1e-6)  # stored as float32
    plain = dsa110("sources", *options.split())
    assert plain.status == 0
    assert [name for name in (BRIGHT, FAINT) if name in plain.out] == sorted(expected)


def test_judgements_of_a_person_are_kept_and_shown_with_the_source(dsa110: Run, own: SmallArchive) -> None:
    done = dsa110("judge", FAINT, "real", "--name", "A. Observer", "--note", "<b>twice</b>", on=own)
    assert (done.status, done.out.strip()) == (0, f"{FAINT}: real, says A. Observer")
    app = create_app(own.root, inbox=own.inbox)
    for page in (f"/sources/{quote(FAINT)}", "/candidates", "/candidates?verdict=real"):
        text = ask(app, page).text
        assert "&lt;b&gt;twice&lt;/b&gt;" in text
        assert "A. Observer" in text
    assert FAINT not in ask(app, "/candidates?verdict=artefact").text
    table = ask(app, "/candidates.csv").text
    assert f"{FAINT}," in table
    assert "A. Observer: real (<b>twice</b>)" in table
    refused = dsa110("judge", FAINT, "perhaps", "--name", "A", on=own)
    assert refused.status == 1
    assert "choose of real, artefact, unsure" in refused.err


def test_variables_of_a_rate_and_a_night(dsa110: Run) -> None:
    """The archive's candidates have q = 1e-6 and q = 0.4."""
    found = dsa110("variables", "--json").json
    assert [row["source_id"] for row in found["candidates"]] == [FAINT]
    assert found["product_id"] == "variability-20260126-v1"
    first = dsa110("variables", "--night", NIGHTS[0], "--max-false-discovery-rate", "0.5", "--json").json
    assert [row["source_id"] for row in first["candidates"]] == [FAINT, BRIGHT]
    assert first["product_id"] == "variability-20260125-v1"
    assert "flare" in dsa110("variables").out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sources --sort colour", "--sort colour: choose from name, flux"),
        ("sources --sort separation", "separation needs --ra and --dec"),
        ("sources --ra 40", "a position needs both ra and dec"),
        ("sources --ra 40 --dec far", "'far' is not an angle"),
        ("sources --min-flux-jy 2 --max-flux-jy 1", "exchange them"),
        ("variables --max-false-discovery-rate 2", "a fraction in (0, 1]"),
        ("variables --night 2026-01-27", "no variability for 2026-01-27"),
    ],
)
def test_impossible_requests_are_refused_in_one_sentence(dsa110: Run, command: str, words: str) -> None:
    done = dsa110(*command.split())
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert words in done.err
