"""Commands on files, outside any archive: thin layers over `dsa110_assets.tools`."""
