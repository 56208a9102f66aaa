"""All of Dagster: partitions, assets, checks, automation, sensors, and the runs that go through them."""
