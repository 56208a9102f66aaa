"""The context of every resource of the API: the archive, the settings if there are any, and the platform behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, HTTPException, Request

from dsa110_assets.portal.v1.limits import Limiter
from dsa110_assets.portal.v1.tokens import Keys

if TYPE_CHECKING:
    from dsa110_assets.analyst import AnalystArchive
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.portal.overview import Look
    from dsa110_assets.settings import Settings
    from dsa110_assets.thresholds import Thresholds

STARTS, TRIES = 30, 10
"""Limits per minute: orders that start work, by all users together, and wrong tokens from one address."""


@dataclass(frozen=True)
class Context:
    """The context of one portal: without `settings` only the archive is known; without `keys` nothing may be changed."""

    archive: AnalystArchive
    inbox: Path | None = None
    look: Look | None = None
    settings: Settings | None = None
    keys: Keys | None = None
    starts: Limiter = field(default_factory=lambda: Limiter(STARTS, 60.0))
    tries: Limiter = field(default_factory=lambda: Limiter(TRIES, 60.0))

    @property
    def store(self) -> Archive:
        """The archive's products."""
        return self.archive.store

    def require_settings(self) -> Settings:
        """The platform's settings. Answers 503 where this portal was started without them."""
        if self.settings is None:
            raise HTTPException(503, "this portal was started with an archive only: start it with the platform's settings (`dsa110 up`)")
        return self.settings

    @property
    def history(self) -> Path:
        """The directory of Dagster's history, if there is any."""
        return self.settings.home_path if self.settings else self.archive.root / "dagster"

    def home(self) -> Path:
        """Dagster's home, of a platform that has been started before. Answers 503, with what to do, if this portal cannot use it."""
        from dsa110_assets.orchestration.running import instance

        home = self.require_settings().home_path
        if not (home / "dagster.yaml").is_file():
            raise HTTPException(
                503, f"there is no Dagster in {home}: start the platform (`dsa110 up`), or give this portal its DAGSTER_HOME"
            )
        if (refused := instance.not_writable(home)) is not None:
            raise HTTPException(503, f"{refused} cannot be written by this portal: run it as the platform's user")
        return home

    def thresholds(self) -> Thresholds:
        """The thresholds in force."""
        from dsa110_assets.thresholds import load_thresholds

        return load_thresholds(*self.threshold_files())

    @property
    def limits(self) -> Thresholds:
        """The thresholds in force, or the defaults if there are no settings that locate them."""
        from dsa110_assets.thresholds import Thresholds

        return self.thresholds() if self.settings else Thresholds()

    def threshold_files(self) -> tuple[Path, Path]:
        """The paths of the thresholds file and of the copy of the last good one."""
        from dsa110_assets.orchestration.resources import IN_FORCE

        return self.require_settings().thresholds_path, self.archive.root / IN_FORCE


def _of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Portal = Annotated[Context, Depends(_of)]
