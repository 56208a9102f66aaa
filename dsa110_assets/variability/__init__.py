"""The search for variable sources: metrics, their significance at the actual number of epochs, and candidates."""
