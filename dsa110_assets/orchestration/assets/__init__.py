"""The assets, one module per subject. A body finds its inputs, calls science, publishes and reports."""
