"""The resources of every step: the settings, the archive and the thresholds, loaded when first used."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dsa110_assets.archive.store import Archive
    from dsa110_assets.settings import Settings
    from dsa110_assets.thresholds import Thresholds


IN_FORCE = ".thresholds-in-force.json"
"""File in the archive with the last valid thresholds, for runs that start while the thresholds file is invalid."""


class Platform:
    """The resource `platform`: nothing is read, opened or made before a step uses it.

    Without `settings` they come from the environment. A wrong or missing setting raises ConfigurationError,
    naming the variable, in the run that needs it.
    """

    def __init__(self, settings: "Settings | None" = None, archive: "Archive | None" = None) -> None:
        self._given, self._archive = settings, archive

    def for_trial(self, name: str, changes: "Mapping[str, Any]") -> "Platform":
        """The platform of a trial, whose settings gain these `changes` (by dotted names).

        Raises NotFoundError for a name that a trial cannot have, and ConfigurationError for a wrong setting, or one that
        contradicts the settings the trial was made with before.
        """
        from dsa110_assets.archive import trials
        from dsa110_assets.settings import changed

        changed(self.settings, changes)
        archive, defined = trials.opened(self.archive, name, changes)
        return Platform(changed(self.settings, defined), archive)

    @cached_property
    def settings(self) -> "Settings":
        """The settings: those passed to the constructor, else those of the environment."""
        from dsa110_assets import settings

        return self._given or settings.load()

    @cached_property
    def archive(self) -> "Archive":
        """The archive, created on its first use."""
        from dsa110_assets.archive.store import Archive

        return self._archive or Archive.create(self.settings.archive, self.settings.database_url)

    @property
    def thresholds(self) -> "Thresholds":
        """The current thresholds; the file is read again when it has changed."""
        from dsa110_assets.thresholds import load_thresholds

        return load_thresholds(self.settings.thresholds_path, self.settings.archive / IN_FORCE)

    @property
    def chosen_thresholds(self) -> "Thresholds":
        """The current thresholds for code that removes data. Raises ConfigurationError if they are only a guess because the file was
        never valid."""
        from dsa110_assets.thresholds import chosen_thresholds

        return chosen_thresholds(self.settings.thresholds_path, self.settings.archive / IN_FORCE)

    @property
    def refused_thresholds(self) -> str | None:
        """What is wrong with the thresholds file now; None if nothing."""
        from dsa110_assets.thresholds import refused_thresholds

        return refused_thresholds(self.settings.thresholds_path, self.settings.archive / IN_FORCE)
