"""What is told to people and kept in order: alerts, history, housekeeping, the night's report."""
