"""Calibrators, the choice of tables, and tables that a person imports or requests."""
