"""Single stages on files, outside any archive, for the commands `dsa110 convert` to `dsa110 photometry`.

Each module has a function of the same name, for use in notebooks: `tools.convert.convert`, and so on. None reads settings or an archive.
"""
