"""The life of a step and the running of steps: inputs, draft, judging, publishing, retries, limits, Dagster's instance and runs."""
