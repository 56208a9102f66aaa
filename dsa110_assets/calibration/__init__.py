"""Calibration: transits, solving, caltables on disk, applying, and choosing the table for a time."""
