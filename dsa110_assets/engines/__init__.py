"""Other programs behind our interfaces, for comparison: one module each, imported only when used."""
