"""The asset graph as an SVG drawing in the page, because Mermaid's script would be fetched from another host."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from dsa110_assets.orchestration.graph import specifications

_MERMAID = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)
STEP, REACH, WIDTH = 28, 17, 520
"""In pixels: distance from one name to the next, width of an arc per name that it passes, and width of the drawing."""


def instead_of_mermaid(markdown: str) -> str:
    """The page with each Mermaid block replaced by the graph of the specifications (a test checks that both are the same)."""
    return _MERMAID.sub(lambda _: svg({name: asset.inputs for name, asset in specifications().items()}), markdown)


def svg(inputs: Mapping[str, Sequence[str]]) -> str:
    """SVG with the names in a column, each below its inputs, and an arc from each input down to what is made from it."""
    high = {name: STEP * (place + 1) for place, name in enumerate(inputs)}
    middle = 30 + REACH * max((high[name] - high[above]) // STEP for name, several in inputs.items() for above in several)
    arcs = [_arc(middle, high[above], high[name]) for name, several in inputs.items() for above in several]
    names = [f'<text x="{middle + 10}" y="{y + 4}" stroke="none" fill="currentColor">{name}</text>' for name, y in high.items()]
    arrow = (
        '<marker id="made" markerWidth="7" markerHeight="7" refX="6" refY="3" orient="auto"><path d="M0,0 L6,3 L0,6" fill="none"/></marker>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {STEP * (len(inputs) + 1)}" role="img" aria-label="The asset graph" stroke="currentColor" '
        f'font-size="14" style="max-width:{WIDTH}px"><defs>{arrow}</defs>{"".join([*arcs, *names])}</svg>'
    )


def _arc(right: int, top: int, end: int) -> str:
    """A curve to the left from one height down to another. It is wider if they are farther apart."""
    left = right - 14 - REACH * (end - top) // STEP
    drawn = f"M{right},{top} C{left},{top} {left},{end} {right},{end}"
    return f'<path d="{drawn}" fill="none" opacity="0.5" marker-end="url(#made)"/>'
