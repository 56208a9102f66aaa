"""Every command has help with an example, pure JSON, sentences instead of tracebacks, and correct exit statuses."""

from __future__ import annotations

import csv
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from astropy.table import QTable

from dsa110_assets.archive.store import Archive
from dsa110_assets_tests.cli.conftest import Run
from dsa110_assets_tests.portal import small_archive as made
from dsa110_assets_tests.portal.small_archive import SmallArchive

TILE = "tile_image-20260125T2205-v1"
COMMANDS = (
    "simulate", "process", "up", "groups", "transits", "products", "lightcurve", "lineage", "status",
    "sources", "variables", "checks", "runs", "queue", "watch", "drain", "services", "report", "spectrum",
    "export sources", "export light-curves", "export images", "export moc", "export hips",
    "doctor", "settings", "thresholds", "backfill", "calibration list", "calibration show", "calibration reject",
    "calibration active",
    "calibration restore", "calibration retire", "calibration extend", "calibration compare", "calibration import",
    "calibration scan", "calibration solve", "archive verify", "archive reindex", "archive backup", "archive restore",
    "archive retain", "archive pin", "archive unpin", "archive survey",
    "convert", "image", "calibrate", "apply", "photometry", "mosaic",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(bare: Run, command: str) -> None:
    done = bare(*command.split(), "--help")
    assert done.status == 0
    assert f"Example: dsa110 {command}" in " ".join(done.out.split())


def test_help_is_fast() -> None:
    """Help takes less than 1 s of CPU in the best of three runs, even on a busy machine."""
    command = [
        sys.executable,
        "-c",
        "import sys; from dsa110_assets.cli import main; sys.exit(main(['--help']))",
    ]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
    assert min(seconds) < 1.0
    assert "lightcurve" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from dsa110_assets.cli.app import build; build()\n"
        "heavy = {'numpy', 'pandas', 'astropy', 'dagster', 'duckdb', 'sqlalchemy', 'matplotlib'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "products", "products --asset tile_image --since 2026-01-25 --until 2026-01-25", "status", "settings",
        "groups", "calibration list", "calibration show caltables-20260125-v1", "archive verify",
        "calibration active --at 2026-01-25T22:05", f"lineage {TILE}", "archive retain --dry-run",
        "transits --date 2026-01-25", "transits --date 2026-01-25 --calibrator 3C286",
    ],
)  # fmt: skip
def test_json_is_all_there_is_on_stdout(dsa110: Run, command: str) -> None:
    done = dsa110(*command.split(), "--json")
    assert done.status == 0, done.err
    assert done.json
    plain = dsa110(*command.split())
    assert plain.status == 0
    assert plain.out.strip()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("products --asset tile_images", "tile_image, hour_mosaic"),
        ("lightcurve NVSS_J024001+161612", "NVSS J024000+161612"),
        ("lineage tile_image-20260125T2205-v7", "there is tile_image-20260125T2205-v1"),
        ("lineage tile_image-20260131T2205-v1", "no version of tile_image 2026-01-31T22:05"),
        ("lineage /etc/passwd", "neither a product id"),
        ("calibration show nothing", "caltables-20260126-v1/3C138"),
        ("calibration show 3C138", "names 2 sets"),
        ("transits --date 2026-01-25 --calibrator 3C2866", "1331+305 (3C286)"),
        ("archive pin light_curves-20260125-v9", "light_curves-20260125-v1"),
        ("archive restore", "no backup"),
        ("archive survey nowhere", "there is no night_mosaic"),
        ("groups /nowhere", "/nowhere: no such directory"),
        ("simulate /proc/nothing --groups 1", "cannot write"),
        ("simulate out --channels 7", "must divide 384"),
        ("simulate out --fault nonsense:0:0", "missing_subband"),
        ("simulate out --fault power_loss:3:antenna=12,db=x", "db=x: write a number from 0 to 60"),
        ("process --through nothing", "tile_image"),
    ],
)
def test_user_errors_are_one_sentence_naming_what_exists(dsa110: Run, command: str, words: str) -> None:
    done = dsa110(*command.split())
    assert done.status == 1
    assert done.out == ""
    assert done.err.startswith("dsa110: ")
    assert done.err.count("\n") == 1
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("transits --date 2026-01-35", "2026-01-25"), ("transits --date 12345", "MJD"),
        ("transits", "--date"),
        ("products --since yesterday", "'yesterday'"), ("products --state odd", "superseded"),
        ("backfill --nights 2026-01-26..2026-01-25", "ends before it starts"), ("frobnicate", "frobnicate"),
        ("backfill --nights 2026-01-26T04:00..2026-01-26T05:00", "process --since T1 --until T2"),
        ("backfill --nights 2026-01-25..2026-01-26T05:00", "write 2026-01-26"), ("backfill --nights 61066.5", "write 2026-01-26"),
        ("transits --date 2026-01-26T04:00", "a night is a whole UTC day"),
        ("products --frobnicate", "--frobnicate"), ("lightcurve", "SOURCE"),
        ("simulate out --groups 0", "--groups"),
        ("simulate out --start noon", "noon"), ("calibration active --at never", "never"),
    ],
)  # fmt: skip
def test_mistyped_commands_exit_with_2(dsa110: Run, command: str, words: str) -> None:
    done = dsa110(*command.split())
    assert done.status == 2
    assert done.out == ""
    assert words.lower() in done.err.lower()
    assert "--help" in done.err
    assert done.err.count("\n") == 1


def test_missing_settings_name_the_variable(bare: Run, tmp_path: Path) -> None:
    assert "DSA110_ARCHIVE" in bare("products").err
    assert "DSA110_INBOX" in bare("status").err
    done = bare("products", DSA110_ARCHIVE=tmp_path / "nowhere")
    assert (done.status, "nowhere" in done.err) == (1, True)
    done = bare("settings", DSA110_INBOX=tmp_path, DSA110_ARCHIVE=tmp_path / "a", DSA110_MIN_SUBBANDS="40")
    assert done.status == 1
    assert "DSA110_MIN_SUBBANDS" in done.err
    assert list(tmp_path.glob("nowhere")) == []


def test_faults_leave_their_traceback_in_the_log(bare: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dsa110_assets import analyst

    def broken(**_: object) -> None:
        raise ZeroDivisionError("a fault\nof ours")

    monkeypatch.setattr(analyst, "open_archive", broken)
    done = bare("products")
    assert done.status == 70
    assert done.err.count("\n") == 1
    assert "ZeroDivisionError: a fault of ours" in done.err
    log = (tmp_path / "state" / "dsa110" / "dsa110.log").read_text()
    assert "Traceback" in log
    assert "in broken" in log


def test_sigterm_ends_a_command_with_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A stop by a service manager between two runs of Dagster is reported like Ctrl-C, and the old handler is restored."""
    from dsa110_assets.cli import app

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(app, "build", lambda: lambda **_: os.kill(os.getpid(), signal.SIGTERM))
    assert app.run(["process"]) == 130
    assert capsys.readouterr().err.startswith("dsa110: interrupted; what was published stays")
    assert signal.getsignal(signal.SIGTERM) == before


def test_progress_without_a_terminal_goes_on_after_the_first_phase(capsys: pytest.CaptureFixture[str]) -> None:
    """With phases of different length, as in `dsa110 process`, each is reported in tenths."""
    from dsa110_assets.cli import console

    with console.progress_bar("looking") as bar:
        for total in (1, 30):
            for done in range(total + 1):
                bar(done, total, f"phase of {total}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["phase of 1: 0 of 1", "phase of 1: 1 of 1", "phase of 30: 0 of 30"]
    assert len(lines) == 2 + 11


def test_progress_shows_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Each of 30 items takes 10 min: after 3 items 27 are left, 4.5 h. The next phase counts from its own beginning."""
    from dsa110_assets.cli import console

    now_s = [0.0]
    bar = console._TenthLines("making", lambda: now_s[0])
    for moment_s, done, total in ((0, 0, 30), (1800, 3, 30), (18000, 30, 30), (18000, 0, 10), (19200, 2, 10)):
        now_s[0] = moment_s
        bar(done, total)
    assert capsys.readouterr().err.splitlines() == [
        "making: 0 of 30", "making: 3 of 30, about 4.5 h left", "making: 30 of 30", "making: 0 of 10", "making: 2 of 10, about 1.3 h left",
    ]  # fmt: skip


def test_a_closed_pipe_is_not_reported_as_a_fault(small: SmallArchive) -> None:
    """`dsa110 products | true`: no traceback."""
    code = 'from dsa110_assets.cli import main; raise SystemExit(main(["products"]))'
    done = subprocess.run(
        ["/bin/bash", "-c", '"$0" -c "$1" | true', sys.executable, code], capture_output=True,
        env={**os.environ, **small.environment},
        text=True, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "fault" not in done.stderr


def test_identifiers_are_never_cut(dsa110: Run) -> None:
    assert "source_measurements-20260126T2200-v1" in dsa110("products").out


def test_light_curve_is_written_in_each_format(dsa110: Run, tmp_path: Path) -> None:
    for suffix in ("csv", "ecsv", "fits", "vot", "parquet", "json"):
        out = tmp_path / f"curve.{suffix}"
        assert dsa110("lightcurve", made.FAINT, "--out", out).status == 0
        assert out.stat().st_size > 100
    with (tmp_path / "curve.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [float(row["flux_jy"]) for row in rows] == [0.1, 0.001, 0.1, 0.001]
    table = QTable.read(tmp_path / "curve.ecsv", format="ascii.ecsv")
    assert str(table["flux"].unit) == "Jy"
    assert list(table["detected"]) == [True, False, True, False]
    done = dsa110("lightcurve", made.FAINT, "--out", tmp_path / "curve.doc")
    assert (done.status, ".ecsv" in done.err) == (1, True)


def test_lineage_reaches_the_files(dsa110: Run) -> None:
    done = dsa110("lineage", TILE)
    for name in ("calibrated_ms-20260125T2205-v1", "caltables-20260125-v1", "2026-01-25T22:05:00_sb01.hdf5"):
        assert name in done.out
    assert done.out.count("2026-01-25T22:05:00_sb01.hdf5") == 1  # shared ancestors are shown once
    lines = done.out.splitlines()
    assert lines[:3] == [TILE, "└── calibrated_ms-20260125T2205-v1", "    ├── measurement_set-20260125T2205-v1"]
    assert "    └── caltables-20260125-v1" in lines
    assert lines[-1] == "        └── measurement_set-20260125T2205-v1 (as above)"


def test_transits_agree_with_the_sidereal_clock(dsa110: Run) -> None:
    """3C286 transits when the apparent sidereal time is its apparent right ascension: 13 h 32 m 21 s in 2026.

    Greenwich mean sidereal time at 2026-01-25T00:00 UTC is 8.2805 h (IAU 1982), the site lies at 118.2817 W,
    and the day gains 1.0027379: (13.5392 - 8.2805 + 7.8854) / 1.0027379 = 13.108 h UTC, to some seconds.
    """
    rows = dsa110("transits", "--date", "2026-01-25", "--calibrator", "3C286", "--json").json
    assert len(rows) == 1
    hour = (rows[0]["mjd"] % 1) * 24
    assert hour == pytest.approx(13.108, abs=0.02)
    assert rows[0]["dec_offset_deg"] == pytest.approx(30.509 - made.DEC_DEG, abs=0.2)  # precession since 2000


def test_verify_finds_a_flipped_bit(bare: Run, own: SmallArchive) -> None:
    assert bare("archive", "verify", on=own).status == 0
    path = own.products[TILE].path / "image.fits"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    done = bare("archive", "verify", "--json", on=own)
    assert done.status == 1
    assert [row["product_id"] for row in done.json["damaged"]] == [TILE]


def test_rejecting_a_table_names_exactly_what_was_made_with_it(bare: Run, own: SmallArchive) -> None:
    done = bare("calibration", "reject", "caltables-20260125-v1", "--reason", "swapped", on=own)
    assert done.status == 0
    named = {line.strip() for line in done.out.splitlines() if line.startswith("  ")}
    assert {"calibrated_ms-20260125T2205-v1", TILE, "light_curves-20260126-v1"} <= named
    assert not any("measurement_set" in name or "20260126T22" in name for name in named)
    assert [row["status"] for row in bare("calibration", "list", "--json", on=own).json] == [
        "rejected",
        "active",
    ]
    assert bare("calibration", "restore", "caltables-20260125-v1", on=own).status == 0
    assert {row["status"] for row in bare("calibration", "list", "--json", on=own).json} == {"active"}


@pytest.mark.row(54, cases="definitions that agree")
def test_both_sets_in_force_are_named(bare: Run, own: SmallArchive) -> None:
    """The nearest set comes first, and the second is named only if gains are interpolated."""
    later, command = made.later_transit(own), ("calibration", "active", "--at", "2026-01-26T22:10")
    assert bare(*command, "--json", on=own).json["interpolated_with"] == []
    assert "caltables-20260126-v1" not in bare(*command, on=own).out
    on = {"on": own, "DSA110_CHOOSE__INTERPOLATE": "true"}
    active = bare(*command, "--json", **on).json
    (other,) = active["interpolated_with"]
    assert (active["set_id"], other["set_id"]) == (later, "caltables-20260126-v1/3C138")
    # 6 h before one set, 6 h 5 min after the other
    assert (active["weight"], other["weight"]) == pytest.approx((365 / 725, 360 / 725), abs=1e-6)
    assert (active["age_h"], other["age_h"]) == pytest.approx((-6, 6 + 5 / 60), abs=1e-6)
    lines = bare(*command, **on).out.splitlines()
    assert [line.split()[0] for line in lines if "weight 0.50" in line] == [active["set_id"], other["set_id"]]
    assert "interpolated with caltables-20260126-v1/3C138" in " ".join(bare("status", **on).out.split())


def test_backup_and_restore_bring_the_index_back(bare: Run, own: SmallArchive, tmp_path: Path) -> None:
    assert bare("archive", "backup", tmp_path / "backups", on=own).status == 0
    (own.root / "index.sqlite").unlink()
    done = bare("products", on=own)
    assert done.status == 1
    assert "reindex" in done.err
    assert bare("archive", "restore", tmp_path / "backups", on=own).status == 0
    assert len(bare("products", "--json", on=own).json) == 29
    (own.root / "index.sqlite").unlink()
    assert bare("archive", "reindex", on=own).status == 0
    assert len(bare("products", "--json", on=own).json) == 29


def test_products_are_pinned_and_unpinned_by_command(bare: Run, own: SmallArchive) -> None:
    assert bare("archive", "pin", "light_curves-20260125-v1", "--reason", "paper", on=own).status == 0
    with Archive(own.root) as archive:
        assert archive.get("light_curves-20260125-v1").pinned
    assert bare("archive", "unpin", "light_curves-20260125-v1", on=own).status == 0
    with Archive(own.root) as archive:
        assert not archive.get("light_curves-20260125-v1").pinned


def test_retention_rehearsal_changes_nothing(bare: Run, own: SmallArchive) -> None:
    (own.root / "thresholds.toml").write_text("[retention_days]\ntile_image = 0\n")
    rows = bare("archive", "retain", "--dry-run", "--json", on=own).json["decisions"]
    assert {row["product_id"] for row in rows if row["remove"]} == {i for i in own.products if "tile_image" in i}
    assert len(bare("products", "--json", on=own).json) == 29
    assert bare("archive", "retain", on=own).status == 0
    assert len(bare("products", "--json", on=own).json) == 25
    assert bare("lineage", "hour_mosaic-20260125T2200-v1", on=own).status == 0


def test_quarantined_files_are_listed_and_released(bare: Run, own: SmallArchive) -> None:
    rows = bare("status", "--json", on=own).json["quarantined"]
    path = own.inbox / "2026-01-26T23:00:00_sb00.hdf5"
    assert rows[0]["paths"] == [str(path)]
    files = bare("groups", "--json", on=own).json["files"]
    assert {"path": str(path), "state": "quarantined"}.items() <= next(f for f in files if f["path"] == str(path)).items()
    done = bare("groups", "--release", path, on=own)
    assert (done.status, "the file is empty" in done.out) == (0, True)
    assert bare("status", "--json", on=own).json["quarantined"] == []
    assert bare("groups", "--release", path, on=own).status == 1
