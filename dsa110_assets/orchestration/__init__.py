"""Everything that uses Dagster: partitions, assets, checks, sensors, and runs."""

LOCATION = "dsa110_assets"
"""The name by which Dagster's daemon and web server know the code server (the `location_name` of a workspace.yaml)."""
NO_HOME = "DAGSTER_HOME is not set: it names the directory of Dagster's configuration and state"
