"""The assets, one module per subject. A body finds its inputs, calls the science code, publishes and reports."""
