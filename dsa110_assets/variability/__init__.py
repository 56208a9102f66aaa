"""Which sources vary: metrics, their significance at the actual number of epochs, and candidates."""
