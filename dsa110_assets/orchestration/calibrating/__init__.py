"""Calibrators, the choice of tables, and tables that a person brings or asks for."""
