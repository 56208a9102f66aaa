"""The inbox: listing, grouping, waiting for late files, quarantine, and the sensor that scans it."""
