"""Other people's programs behind our interfaces, for comparison: one module each, imported when asked for."""
