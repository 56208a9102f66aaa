"""Releases side by side in `/opt/dsa110/releases/VERSION-DIGEST`; the link `current` points to the one in service.

A release is a virtual environment with the package, its systemd units and the `workspace.yaml` that points to its own code server.
It is complete once it has its mark. Only the standard library is needed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).resolve().parents[1]
PLACE, UNITS = "/opt/dsa110", "/etc/systemd/system"
PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "ops/runbook.md", "dsa110_assets")
"""The files and directories that the package is built from."""
MARK = "installed-from"
"""The file written last into a release: it names the sources the release was made from."""


class Refused(Exception):
    """Something outside this program is not as required; the message says what to do."""


def run(command: Sequence[str | Path], **options: object) -> str:
    """The output of a command. Raises Refused if the program does not exist, or with its last line of errors if it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    except FileNotFoundError:
        raise Refused(f"there is no program {words[0]}; install it, and run this again") from None
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise Refused(f"{' '.join(words)} failed: {told[-1] if told else f'status {done.returncode}'}")
    return str(done.stdout)


@dataclass(frozen=True)
class Releases:
    """The releases below `root`, which is / or a directory used in its place."""

    root: Path

    @property
    def place(self) -> Path:
        """The directory of the links and the releases."""
        return self.root / PLACE.lstrip("/")

    def of(self, name: str) -> Path:
        """A release's directory."""
        return self.place / "releases" / name

    def is_whole(self, name: str) -> bool:
        """Whether a release was installed completely."""
        return (self.of(name) / MARK).is_file()

    def all(self) -> list[str]:
        """The names of the complete releases, the one installed last at the end."""
        marks = sorted(self.place.glob(f"releases/*/{MARK}"), key=lambda mark: mark.stat().st_mtime)
        return [mark.parent.name for mark in marks]

    def linked(self, link: str) -> str | None:
        """The release that the link `current` or `previous` points to; None if it points to no complete release."""
        path = self.place / link
        name = Path(os.readlink(path)).name if path.is_symlink() else ""
        return name if name and self.is_whole(name) else None

    def install(self, name: str) -> None:
        """Make a release of the sources beside this file. A partial one left by an earlier attempt is made again from scratch."""
        place = self.of(name)
        if self.is_whole(name):
            return
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        run([sys.executable, "-m", "venv", place])
        pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        with TemporaryDirectory(prefix="dsa110-release-") as clean:  # leaves out what earlier builds left beside the sources
            for part in PACKAGED:
                source, target = REPOSITORY / part, Path(clean, part)
                target.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
            run([*pip, "--constraint", REPOSITORY / "ops" / "constraints.txt", clean])
        units = REPOSITORY / "ops" / "systemd"
        (place / "units").mkdir()
        for unit in (*units.glob("*.service"), *units.glob("*.target")):
            shutil.copyfile(unit, place / "units" / unit.name)
        shutil.copyfile(REPOSITORY / "ops" / "smoke.py", place / "smoke.py")
        workspace = (units / "workspace.yaml").read_text(encoding="utf-8").replace("RELEASE", name)
        (place / "workspace.yaml").write_text(workspace, encoding="utf-8")
        draft = place / f".{MARK}"
        draft.write_text(digest_of_sources() + "\n", encoding="utf-8")
        draft.replace(place / MARK)

    def switch(self, name: str, before: str | None = None) -> None:
        """Point `current` at a release, atomically, and `previous` at the one before; without `before`, remove `previous`."""
        for link, target in (("previous", before), ("current", name)):
            draft = self.place / f".{link}.new"
            draft.unlink(missing_ok=True)
            if target is None:
                (self.place / link).unlink(missing_ok=True)
            else:
                draft.symlink_to(Path("releases", target))
                draft.replace(self.place / link)

    def renew_units(self, name: str, instead_of: str | None = None) -> list[str]:
        """Copy a release's units into systemd's directory and remove those only `instead_of` has; return the names of changed units."""
        target, changed = self.root / UNITS.lstrip("/"), []
        for unit in sorted((self.of(instead_of) / "units").iterdir()) if instead_of else ():
            if (target / unit.name).is_file() and not (self.of(name) / "units" / unit.name).exists():
                (target / unit.name).unlink()
                changed.append(unit.name)
        for unit in sorted((self.of(name) / "units").iterdir()):
            there = target / unit.name
            if not there.is_file() or there.read_bytes() != unit.read_bytes():
                draft = there.with_name(f".{unit.name}.new")
                shutil.copyfile(unit, draft)
                draft.replace(there)
                changed.append(unit.name)
        return changed

    def old(self, keep: int) -> list[str]:
        """The releases that are no longer needed: all but the last `keep`, the current one and the one before."""
        needed = {*self.all()[-keep:], self.linked("current"), self.linked("previous")}
        return [name for name in self.all() if name not in needed]

    def remove(self, name: str) -> None:
        """Remove a release, its mark first, so that a partly removed one never counts as complete."""
        (self.of(name) / MARK).unlink(missing_ok=True)
        shutil.rmtree(self.of(name))


def digest_of_sources() -> str:
    """SHA-256 of the sources, in hexadecimal."""
    told = hashlib.sha256()
    named = [REPOSITORY / name for name in ("pyproject.toml", "ops/constraints.txt", "ops/runbook.md", "ops/smoke.py")]
    for path in [*named, *sorted((REPOSITORY / "ops" / "systemd").iterdir()), *sorted((REPOSITORY / "dsa110_assets").rglob("*"))]:
        if path.is_file() and "__pycache__" not in path.parts:
            told.update(str(path.relative_to(REPOSITORY)).encode() + path.read_bytes())
    return told.hexdigest()


def name_of_sources() -> str:
    """The name of the release made from the sources beside this file: the version and the first 8 digits of their digest."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        version = str(tomllib.load(file)["project"]["version"])
    plain = "".join(letter if letter.isalnum() or letter in "._" else "." for letter in version)
    return f"{plain}-{digest_of_sources()[:8]}"
