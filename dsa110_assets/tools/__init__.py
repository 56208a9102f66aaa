"""Single stages on files, outside any archive: what the commands `dsa110 convert` to `dsa110 photometry` call.

Each module has the function of its name, which a notebook calls: `tools.convert.convert`, and so on. None reads settings or an archive.
"""
