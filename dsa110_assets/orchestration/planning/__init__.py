"""What is missing or stale and why, and what is requested: one planner for live operation, `process`, backfills and dry runs."""
