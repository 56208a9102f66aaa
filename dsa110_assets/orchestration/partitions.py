"""The three time grids of the graph, and how the hours look at the observations around them.

Keys are those of `telescope.timegrid`. The season's start is a constant of the settings: computing it from
the clock would rebuild every partition status on each load.
"""

import os

import dagster as dg

from dsa110_assets.telescope import timegrid

SEASON_START_VARIABLE = "DSA110_START"
DEFAULT_SEASON_START = "2026-01-01"


def season_start() -> str:
    """First day of the season ('YYYY-MM-DD'), from DSA110_START; it must be constant within a deployment."""
    day = os.environ.get(SEASON_START_VARIABLE, "").strip() or DEFAULT_SEASON_START
    timegrid.parse_key(day)
    return day


START = season_start()

OBSERVATIONS = dg.TimeWindowPartitionsDefinition(start=f"{START}T00:00", cron_schedule="*/5 * * * *", fmt="%Y-%m-%dT%H:%M", timezone="UTC")
"""5-minute windows: groups start at least 309 s apart, so no window holds two, and 8 or 9 a day are empty."""

HOURS = dg.TimeWindowPartitionsDefinition(start=f"{START}T00:00", cron_schedule="0 * * * *", fmt="%Y-%m-%dT%H:%M", timezone="UTC")

NIGHTS = dg.TimeWindowPartitionsDefinition(start=START, cron_schedule="0 0 * * *", fmt="%Y-%m-%d", timezone="UTC", end_offset=1)
"""UTC days; the running one exists already, or tonight's calibration would have no partition to go to."""

HOUR_AND_NEIGHBOURS = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=1)
"""An hour mosaic's lineage: mappings go by whole windows of the hour, so the neighbours appear whole; which
two tiles of each are used is decided, and recorded, by `recipes`."""

THIS_NIGHT_AND_BEFORE = dg.TimeWindowPartitionMapping(start_offset=-1)
"""A night's light curves hold the earlier nights too; the graph shows the previous one, provenance all."""
