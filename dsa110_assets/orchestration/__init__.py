"""All of Dagster: partitions, assets, checks, sensors, and the runs that go through them."""

LOCATION = "dsa110_assets"
"""What Dagster's daemon and web server know the code server by (the `location_name` of a workspace.yaml)."""
NO_HOME = "DAGSTER_HOME is not set: it names the directory of Dagster's configuration and state"
