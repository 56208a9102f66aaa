"""All of Dagster: partitions, assets, checks, sensors, and the runs that go through them."""

LOCATION = "dsa110_assets"
"""What Dagster's daemon and web server know the code server by (the `location_name` of a workspace.yaml)."""
