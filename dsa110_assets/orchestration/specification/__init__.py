"""What an asset is: its specification, its partitions, its form in Dagster and on the launchpad."""
