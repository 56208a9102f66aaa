"""HTTP API, version 1: everything that pages show and the command line does, for programs; mounted at /api/v1."""
