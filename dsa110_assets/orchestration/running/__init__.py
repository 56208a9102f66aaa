"""A step's life: its inputs, its draft, judging, publishing, and what Dagster is told."""
