"""The three time grids of the graph, the mapping of a night to earlier nights, and partitions with a name instead of a time.

Keys are those of `telescope.timegrid`. The season's start is a constant of the settings, because computing it from
the clock would rebuild every partition status on each load.
"""

import dagster as dg

from dsa110_assets.archive import naming
from dsa110_assets.orchestration.specification.season import START

OBSERVATIONS = dg.TimeWindowPartitionsDefinition(start=f"{START}T00:00", cron_schedule="*/5 * * * *", fmt="%Y-%m-%dT%H:%M", timezone="UTC")
"""5-minute windows: groups start at least 309 s apart, so no window holds two, and 8 or 9 a day are empty."""

HOURS = dg.TimeWindowPartitionsDefinition(start=f"{START}T00:00", cron_schedule="0 * * * *", fmt="%Y-%m-%dT%H:%M", timezone="UTC")

NIGHTS = dg.TimeWindowPartitionsDefinition(start=START, cron_schedule="0 0 * * *", fmt="%Y-%m-%d", timezone="UTC", end_offset=1)
"""UTC days. The current day has a partition already, because tonight's calibration needs one."""

REQUESTS = dg.DynamicPartitionsDefinition(name="requests")
"""Keys are '@' and the name of a request. The archive holds the list of requests."""

NOT_BY_WINDOW = dg.SpecificPartitionsPartitionMapping([])
"""The archive also knows what a request is made from. If the mapping were to all partitions, Dagster would list every window since the
start of the season in each run, 4 s for a year, and could determine no better what is stale."""

THIS_NIGHT_AND_BEFORE = dg.TimeWindowPartitionMapping(start_offset=-1)
"""A night's light curves are made from those of the latest night before it, which follow from its measurements."""


def tell(instance: dg.DagsterInstance, *keys: str | None) -> None:
    """Register those of these partitions that have a name with Dagster, which runs no partition it does not know."""
    if named := [key for key in keys if key is not None and naming.is_named(key)]:
        instance.add_dynamic_partitions(str(REQUESTS.name), named)
