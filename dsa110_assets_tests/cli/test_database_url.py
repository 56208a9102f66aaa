"""Database URLs that are not read as intended: one sentence, without any part of the password."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dsa110_assets.archive.index import Index, normalise_url
from dsa110_assets.archive.store import Archive
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.orchestration.running.instance import prepare_home
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.portal.small_archive import SmallArchive

pytestmark = pytest.mark.row(50, cases="URLs and names that show no password")

WRONG = (
    "postgresql://me:alpha7@bravo7@127.0.0.1:1/name", "postgresql+psycopg2://me:@bravo7@h/name", "postgresql://me:alpha7/bravo7@x@h/name",
    "postgresql://me:alpha7@bravo7/charlie7@h/name", "postgresql://me:alpha7@h:bravo7/name", "postgresql://me:alpha7@127.0.0.1:port/name",
    "postgresql://me:alpha7%bravo7@h/name", "postgresql://me:alpha7%@h/name", "mysql://me:alpha7@bravo7@h/name", "postgresql:me:alpha7",
    "alpha7", "postgresql://me:alpha7@bravo7?charlie7@h/name", "oracle://me:alpha7@h/name",
)  # fmt: skip
SECRETS = ("alpha7", "bravo7", "charlie7")


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="DSA110_DATABASE_URL") as caught:
        normalise_url(url)
    assert not any(word in str(caught.value) for word in SECRETS)


@pytest.mark.parametrize(
    ("command", "url"), [("doctor", WRONG[0]), *((command, url) for command in ("products", "status") for url in WRONG)]
)
def test_no_command_shows_the_password(bare: Run, small: SmallArchive, tmp_path: Path, command: str, url: str) -> None:
    done = bare(command, on=small, DSA110_DATABASE_URL=url, DAGSTER_HOME=tmp_path / "home")
    assert done.status == 1
    assert not any(word in done.out + done.err for word in SECRETS)
    assert not (tmp_path / "state").exists()


def test_the_error_explains_how_to_encode_the_password() -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded \\(@ is %40\\)"):
        normalise_url(WRONG[0])
    assert normalise_url("postgresql://me:al%40pha7@h/name").password == "al@pha7"


def test_a_password_among_the_options_is_not_shown() -> None:
    url = normalise_url("postgresql://h/name?user=me&password=alpha7")
    assert "alpha7" not in Index(url, "x").where


def test_dagsters_url_is_named_by_its_own_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_PG_URL", WRONG[0])
    with pytest.raises(ConfigurationError, match="DAGSTER_PG_URL") as caught:
        prepare_home(tmp_path / "home")
    assert not any(word in str(caught.value) for word in SECRETS)


@pytest.mark.postgres
def test_the_password_may_be_set_outside_the_url(tmp_path: Path, postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in compose: there no character of the password is special."""
    assert "PGPASSWORD" not in os.environ
    monkeypatch.setenv("PGPASSWORD", "p@ss:/?#%w")
    Archive.create(tmp_path / "archive", postgres_database).close()


def test_an_error_about_a_mistyped_name_shows_no_secret(bare: Run, small: SmallArchive) -> None:
    for name in ("DSA110_DATABSE_URL", "DSA110_DATABASEURL", "DSA110_TOKENS", "DSA110_PG_PASSWORD", "DSA110_ALERT_CHANNEL"):
        done = bare("status", on=small, **{name: "postgresql://me:alpha7@h/name"})
        assert done.status == 1
        assert "alpha7" not in done.err
        assert name in done.err
        os.environ.pop(name)
