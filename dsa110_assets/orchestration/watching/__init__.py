"""Watching and upkeep of the platform: alerts, history, housekeeping, the night's report."""
