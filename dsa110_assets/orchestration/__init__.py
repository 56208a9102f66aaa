"""All of Dagster: partitions, assets, checks, sensors, and the runs that go through them."""
