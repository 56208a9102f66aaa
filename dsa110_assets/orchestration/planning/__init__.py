"""What is missing or stale and why, and what is asked for: one planner for live, process, backfill and dry run."""
