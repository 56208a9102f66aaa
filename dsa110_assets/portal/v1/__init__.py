"""HTTP API, version 1: for programs, everything that the pages show and the command line does; mounted at /api/v1."""
