"""Numbers as people read them."""


def size(size_bytes: float) -> str:
    """Bytes in the largest unit that fits: 1.4 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"
