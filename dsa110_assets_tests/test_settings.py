"""Settings: defaults from the options of the stages, one sentence for each mistake, and no secret printed."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from dsa110_assets import settings
from dsa110_assets.errors import ConfigurationError
from dsa110_assets.imaging.options import ImagingOptions


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """An environment with only the two required settings."""
    for name in [n for n in os.environ if n.startswith("DSA110_")] + ["DAGSTER_HOME"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DSA110_INBOX", str(tmp_path / "inbox"))
    monkeypatch.setenv("DSA110_ARCHIVE", str(tmp_path / "archive"))


def test_inbox_and_archive_are_enough(tmp_path):
    loaded = settings.load()
    assert (loaded.inbox, loaded.archive) == (tmp_path / "inbox", tmp_path / "archive")
    assert loaded.imaging == ImagingOptions()
    assert (loaded.subbands, loaded.min_subbands, loaded.host, loaded.port) == (16, 14, "127.0.0.1", 3000)
    assert loaded.group_wait_s == pytest.approx(618.5, abs=0.05)  # two groups of 309.24 s
    assert loaded.thresholds_path == tmp_path / "archive" / "thresholds.toml"
    assert loaded.database_url is None


def test_every_nested_default_is_the_stages_own():
    loaded = settings.load()
    nested = {name: type(getattr(loaded, name)) for name in type(loaded).model_fields}
    stages = {name: kind for name, kind in nested.items() if dataclasses.is_dataclass(kind)}
    assert {
        "flagging",
        "solve",
        "choose",
        "imaging",
        "coadd",
        "photometry",
        "ensemble",
        "variability",
    } <= stages.keys()
    for name, kind in stages.items():
        assert getattr(loaded, name) == kind()


def test_the_environment_is_typed_and_arguments_have_precedence(monkeypatch, tmp_path):
    monkeypatch.setenv("DSA110_IMAGING__ROBUST", "-0.5")
    monkeypatch.setenv("DSA110_PHOTOMETRY__SUBTRACT_BACKGROUND", "false")
    monkeypatch.setenv("DSA110_SOLVE__REFANT_CHAIN", "[3, 4]")
    monkeypatch.setenv("DSA110_PORT", "8080")
    monkeypatch.setenv("DSA110_START", "2025-12-01")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    loaded = settings.load(port=8081, inbox=tmp_path / "elsewhere", host=None)
    assert (loaded.imaging.robust, loaded.solve.refant_chain) == (-0.5, (3, 4))
    assert loaded.photometry.subtract_background is False
    assert (loaded.port, loaded.inbox, loaded.host) == (8081, tmp_path / "elsewhere", "127.0.0.1")
    assert loaded.start.isoformat() == "2025-12-01"
    assert loaded.dagster_home == tmp_path / "home"
    with pytest.raises(ValueError, match="frozen"):
        loaded.port = 1


@pytest.mark.parametrize("text", ["/a.csv{}/b.fits", '["/a.csv", "/b.fits"]'])
def test_catalogues_are_a_path_list_or_json(monkeypatch, text):
    monkeypatch.setenv("DSA110_CATALOGUES", text.replace("{}", os.pathsep))
    assert settings.load().catalogues == (Path("/a.csv"), Path("/b.fits"))


def test_catalogue_frequencies_are_set_by_file_name(monkeypatch):
    monkeypatch.setenv("DSA110_CATALOGUES", f"/a/deep.csv{os.pathsep}/b/deep.csv{os.pathsep}/b/nvss.fits")
    monkeypatch.setenv("DSA110_CATALOGUE_FREQUENCIES_MHZ", '{"deep.csv": 943.5, "/b/deep.csv": 1280}')
    loaded = settings.load()
    assert [loaded.catalogue_frequency_hz(path) for path in loaded.catalogues] == [943.5e6, 1280e6, None]
    (row,) = [row for row in settings.describe(loaded) if row.name == "DSA110_CATALOGUE_FREQUENCIES_MHZ"]
    assert row.value == '{"deep.csv": 943.5, "/b/deep.csv": 1280.0}'
    monkeypatch.setenv("DSA110_CATALOGUE_FREQUENCIES_MHZ", '{"deeep.csv": 943.5}')
    with pytest.raises(ConfigurationError, match=r"'deeep.csv', which is not among DSA110_CATALOGUES .*deep.csv"):
        settings.load()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("DSA110_CATALOGUE_FREQUENCIES_MHZ", '{"a.csv": 1.4}', "DSA110_CATALOGUE_FREQUENCIES_MHZ"),
        ("DSA110_CATALOGUE_FREQUENCIES_MHZ", "1400", "DSA110_CATALOGUE_FREQUENCIES_MHZ"),
        ("DSA110_CATALOGUE_FREQUENCIES_MHZ", "{a: 1400", "DSA110_CATALOGUE_FREQUENCIES_MHZ"),
        ("DSA110_PORT", "many", "DSA110_PORT='many' is refused: input should be a valid integer"),
        (
            "DSA110_PORT",
            "70000",
            "DSA110_PORT='70000' is refused: input should be less than or equal to 65535",
        ),
        ("DSA110_GROUP_WAIT_S", "nan", "DSA110_GROUP_WAIT_S='nan' is refused"),
        ("DSA110_IMAGING__ROBUST", "3", "DSA110_IMAGING__ROBUST='3' is refused"),
        ("DSA110_IMAGING__WEIGHTING", "heavy", "should be 'natural', 'uniform' or 'briggs'"),
        (
            "DSA110_IMAGING__ROBUTS",
            "1",
            "DSA110_IMAGING__ROBUTS='1': there is no such setting; did you mean DSA110_IMAGING__ROBUST?",
        ),
        ("DSA110_INBOXX", "/x", "did you mean DSA110_INBOX?"),
        ("DSA110_START", "soon", "DSA110_START='soon' is refused"),
        ("DSA110_MIN_SUBBANDS", "16", None),
        ("DSA110_SUBBANDS", "4", "DSA110_MIN_SUBBANDS=14 exceeds DSA110_SUBBANDS=4; lower it"),
        ("DSA110_SOLVE_ENGINE", "magic", "DSA110_SOLVE_ENGINE='magic' is refused"),
        ("DSA110_CATALOGUES", "[1", "DSA110_CATALOGUES"),
        ("DSA110_ARCHIVE", "~nosuchuser/archive", "there is no account of that name; write the whole path"),
        ("DSA110_INBOX", "/data/\udcff/inbox", "/data/?/inbox: its name is not UTF-8; rename it"),
        ("DSA110_CATALOGUES", "/data/a.csv:~nosuchuser/b.csv", "~nosuchuser/b.csv: there is no account"),
    ],
)
def test_a_mistake_is_one_sentence_naming_variable_and_value(monkeypatch, name, value, sentence):
    monkeypatch.setenv(name, value)
    if sentence is None:
        settings.load()
        return
    with pytest.raises(ConfigurationError) as caught:
        settings.load()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("blank", ["", " \t"])
@pytest.mark.parametrize("name", sorted(settings._variables()))
@pytest.mark.row(50, cases="blank settings that change nothing")
def test_a_blank_variable_counts_as_unset(monkeypatch, name, blank):
    """Blank variables come from NAME= in an environment file or ${NAME:-} in a compose file. A blank path must not mean the current
    directory."""
    monkeypatch.delenv(name, raising=False)
    unset = what_is_loaded()
    monkeypatch.setenv(name, blank)
    assert what_is_loaded() == unset


def what_is_loaded():
    """All settings and the names of those given, or the error message."""
    try:
        loaded = settings.load()
        return loaded, loaded.model_fields_set
    except ConfigurationError as error:
        return str(error)


@pytest.mark.parametrize("name", ["DSA110_INBOX", "DSA110_ARCHIVE"])
@pytest.mark.row(50)
def test_a_blank_directory_counts_as_unset(monkeypatch, name):
    monkeypatch.setenv(name, "")
    with pytest.raises(ConfigurationError, match=f"{name} is not set"):
        settings.load()


def test_a_blank_variable_keeps_the_default_season_start(monkeypatch):
    from dsa110_assets.orchestration.specification import season

    monkeypatch.setenv("DSA110_START", "")
    assert season.season_start() == str(settings.load().start)


@pytest.mark.parametrize(
    "address", ["hooks.example/hidden", "ftp://hooks.example/hidden", "https://hooks.example/hid den", "https://hööks/hidden"]
)
def test_an_invalid_heartbeat_address_is_refused_and_not_shown(monkeypatch, address):
    monkeypatch.setenv("DSA110_HEARTBEAT_URL", address)
    with pytest.raises(ConfigurationError, match="begins with http:// or https://") as caught:
        settings.load()
    assert "hid" not in str(caught.value)


def test_channels_are_read_from_json_and_their_urls_are_never_shown(monkeypatch):
    channels = '{"ops": {"url": "slack://hidden/a", "quiet": "22:00-06:00"}, "pager": {"url": "https://hidden", "severity": "critical"}}'
    monkeypatch.setenv("DSA110_ALERT_CHANNELS", channels)
    loaded = settings.load()
    ops, pager = loaded.alert_channels.values()
    assert (ops.severity, ops.quiet, ops.topics, pager.severity) == ("warning", "22:00-06:00", (), "critical")
    assert ops.url.get_secret_value() == "slack://hidden/a"
    assert "hidden" not in f"{loaded!r} {loaded} {settings.describe(loaded)}"


@pytest.mark.parametrize(
    "channels",
    [
        "hidden",
        '{"ops": {"url": "hidden"}}',
        '{"ops": {"url": "https://hid den"}}',
        '{"ops": {"url": "https://hidden", "severity": "hidden"}}',
        '{"ops": {"url": "https://hidden", "quiet": "hidden"}}',
        '{"ops": {"url": "https://hidden", "topics": ["hidden"]}}',
        '{"ops": {"urls": "https://hidden"}}',
        '{"Hidden Name": {"url": "https://hidden"}}',
    ],
)
def test_invalid_channels_are_refused_and_not_shown(monkeypatch, channels):
    monkeypatch.setenv("DSA110_ALERT_CHANNELS", channels)
    with pytest.raises(ConfigurationError, match="DSA110_ALERT_CHANNELS") as caught:
        settings.load()
    assert "hid" not in str(caught.value)


def test_links_lead_to_the_portal_as_people_reach_it():
    assert settings.load(host="127.0.0.1", portal_port=3001).portal_address == "http://127.0.0.1:3001"
    assert settings.load(portal_url="https://dsa110.example/").portal_address == "https://dsa110.example"


def test_hosts_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("DSA110_HOSTS", "dsa110.example, other.example")
    loaded = settings.load()
    assert loaded.hosts == ("dsa110.example", "other.example")
    assert {row.name: row.value for row in settings.describe(loaded)}["DSA110_HOSTS"] == "dsa110.example,other.example"


def test_a_missing_setting_is_named(monkeypatch):
    monkeypatch.delenv("DSA110_INBOX")
    with pytest.raises(ConfigurationError, match="DSA110_INBOX is not set: it names the directory where"):
        settings.load()


@pytest.mark.parametrize(("inbox", "archive"), [("a", "a"), ("a/b", "a"), ("a", "a/b")])
def test_inbox_and_archive_must_lie_apart(monkeypatch, tmp_path, inbox, archive):
    monkeypatch.setenv("DSA110_INBOX", str(tmp_path / inbox))
    monkeypatch.setenv("DSA110_ARCHIVE", str(tmp_path / archive))
    with pytest.raises(ConfigurationError, match="overlap; choose two separate directories"):
        settings.load()


def test_describe_lists_everything_with_source_limits_and_help(monkeypatch):
    monkeypatch.setenv("DSA110_IMAGING__ROBUST", "0")
    rows = {row.name: row for row in settings.describe(settings.load(port=1234))}
    expected = sum(
        len(dataclasses.fields(field.annotation)) if dataclasses.is_dataclass(field.annotation) else 1
        for field in settings.Settings.model_fields.values()
    )
    assert len(rows) == expected
    assert all(row.help and row.kind for row in rows.values())
    robust = rows["DSA110_IMAGING__ROBUST"]
    assert (robust.value, robust.source, robust.kind, robust.limits) == (
        "0.0",
        "environment",
        "float",
        "≥ -2, ≤ 2",
    )
    assert (rows["DSA110_PORT"].source, rows["DSA110_HOST"].source) == ("argument", "default")
    assert rows["DSA110_READER_ENGINE"].limits == "direct | pyuvdata"
    assert rows["DSA110_INBOX"].source == "environment"


def test_secrets_are_not_printed(monkeypatch):
    monkeypatch.setenv("DSA110_DATABASE_URL", "postgresql://me:hidden1@host/name")
    monkeypatch.setenv("DSA110_HEARTBEAT_URL", "https://hooks.example/hidden2")
    loaded = settings.load()
    assert loaded.database_url == "postgresql://me:hidden1@host/name"
    assert "hidden" not in f"{loaded!r} {loaded} {settings.describe(loaded)}"
    assert {r.value for r in settings.describe(loaded) if r.name in ("DSA110_DATABASE_URL", "DSA110_HEARTBEAT_URL")} == {"********"}


def test_every_option_has_help_and_a_type_the_table_can_show():
    for field in settings.Settings.model_fields.values():
        if dataclasses.is_dataclass(field.annotation):
            hints = get_type_hints(field.annotation, include_extras=True)
            for part in dataclasses.fields(field.annotation):
                notes = [getattr(note, "description", None) for note in getattr(hints[part.name], "__metadata__", ())]
                assert any(notes), f"{field.annotation.__name__}.{part.name} has no help"


def test_loading_touches_no_disk_and_makes_nothing(tmp_path):
    assert settings.load().archive.exists() is False
    assert list(tmp_path.iterdir()) == []


def test_the_season_start_is_a_constant():
    code = "from dsa110_assets import settings; print(settings.Settings.model_fields['start'].default)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2025-01-01"
