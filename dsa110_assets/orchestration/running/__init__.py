"""A step's life and how steps are run: inputs, draft, judging, publishing, retries, limits, Dagster's instance and runs."""
