"""The three time grids of the graph, how a night looks at the nights before it, and what has a name instead of a time.

Keys are those of `telescope.timegrid`. The season's start is a constant of the settings: computing it from
the clock would rebuild every partition status on each load.
"""

import dagster as dg

from dsa110_assets.archive import naming
from dsa110_assets.orchestration.specification.season import START

OBSERVATIONS = dg.TimeWindowPartitionsDefinition(start=f"{START}T00:00", cron_schedule="*/5 * * * *", fmt="%Y-%m-%dT%H:%M", timezone="UTC")
"""5-minute windows: groups start at least 309 s apart, so no window holds two, and 8 or 9 a day are empty."""

HOURS = dg.TimeWindowPartitionsDefinition(start=f"{START}T00:00", cron_schedule="0 * * * *", fmt="%Y-%m-%dT%H:%M", timezone="UTC")

NIGHTS = dg.TimeWindowPartitionsDefinition(start=START, cron_schedule="0 0 * * *", fmt="%Y-%m-%d", timezone="UTC", end_offset=1)
"""UTC days; the running one exists already, or tonight's calibration would have no partition to go to."""

REQUESTS = dg.DynamicPartitionsDefinition(name="requests")
"""Keys are '@' and the name of a request, as in the archive, which says which there are."""

NOT_BY_WINDOW = dg.SpecificPartitionsPartitionMapping([])
"""What a request is made of the archive says, too. Told that it may be any partition, Dagster would list every window since the season
began in each run, 4 s a year, and could say no more of what is stale."""

THIS_NIGHT_AND_BEFORE = dg.TimeWindowPartitionMapping(start_offset=-1)
"""A night's light curves are made from those of the latest night before it, which follow from its measurements."""


def tell(instance: dg.DagsterInstance, *keys: str | None) -> None:
    """Let Dagster know those of these partitions that have a name: it runs none that it does not know."""
    if named := [key for key in keys if key is not None and naming.is_named(key)]:
        instance.add_dynamic_partitions(str(REQUESTS.name), named)
