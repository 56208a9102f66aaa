"""A lineage tree as lines of a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsa110_assets.archive.product import LineageNode


def flat(node: LineageNode) -> list[tuple[int, LineageNode, bool]]:
    """A lineage tree as lines of (depth, node, whether its branch is shown above already)."""
    lines: list[tuple[int, LineageNode, bool]] = []
    seen: set[str] = set()
    stack = [(0, node)]
    while stack:
        depth, part = stack.pop()
        name = part.product.id if part.product else None
        again = name in seen
        lines.append((depth, part, again))
        if name is not None and not again:
            seen.add(name)
            stack.extend((depth + 1, child) for child in reversed(part.children))
    return lines
