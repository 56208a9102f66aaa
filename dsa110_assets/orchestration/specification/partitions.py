"""The three time grids of the graph, and how a night looks at the nights before it.

Keys are those of `telescope.timegrid`. The season's start is a constant of the settings: computing it from
the clock would rebuild every partition status on each load.
"""

import dagster as dg

from dsa110_assets.orchestration.specification.season import START

OBSERVATIONS = dg.TimeWindowPartitionsDefinition(start=f"{START}T00:00", cron_schedule="*/5 * * * *", fmt="%Y-%m-%dT%H:%M", timezone="UTC")
"""5-minute windows: groups start at least 309 s apart, so no window holds two, and 8 or 9 a day are empty."""

HOURS = dg.TimeWindowPartitionsDefinition(start=f"{START}T00:00", cron_schedule="0 * * * *", fmt="%Y-%m-%dT%H:%M", timezone="UTC")

NIGHTS = dg.TimeWindowPartitionsDefinition(start=START, cron_schedule="0 0 * * *", fmt="%Y-%m-%d", timezone="UTC", end_offset=1)
"""UTC days; the running one exists already, or tonight's calibration would have no partition to go to."""

THIS_NIGHT_AND_BEFORE = dg.TimeWindowPartitionMapping(start_offset=-1)
"""A night's light curves are made from those of the latest night before it, which follow from its measurements."""
