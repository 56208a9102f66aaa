"""The inbox: listing, grouping, patience, quarantine, and the sensor that looks at it."""
