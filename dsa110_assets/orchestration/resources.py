"""What every step needs from outside: the settings, the archive and the thresholds, found when first used."""

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings
    from dsa110_assets.thresholds import Thresholds


IN_FORCE = ".thresholds-in-force.json"
"""In the archive: the last good limits, for runs that start while the file is wrong."""


class Platform:
    """The resource `platform`: nothing is read, opened or made before a step asks for it.

    Without `settings` they come from the environment. A wrong or missing setting raises ConfigurationError,
    naming the variable, in the run that needs it.
    """

    def __init__(self, settings: "Settings | None" = None) -> None:
        self._given = settings

    @cached_property
    def settings(self) -> "Settings":
        """The settings: those given, else those of the environment."""
        from dsa110_assets import settings

        return self._given or settings.load()

    @cached_property
    def archive(self) -> "Archive":
        """The archive, made on its first use."""
        from dsa110_assets.archive.store import Archive

        return Archive.create(self.settings.archive, self.settings.database_url)

    @property
    def thresholds(self) -> "Thresholds":
        """The thresholds as they are now: the file is read again when it has changed."""
        from dsa110_assets.thresholds import load_thresholds

        return load_thresholds(self.settings.thresholds_path, self.settings.archive / IN_FORCE)
