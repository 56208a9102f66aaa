"""The asset graph as a drawing in the page, for Mermaid's script would be fetched from another host."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from dsa110_assets.orchestration.graph import specifications

_MERMAID = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)
WIDTH, HEIGHT, ACROSS, DOWN = 150, 28, 190, 52


def instead_of_mermaid(markdown: str) -> str:
    """The page with the graph of the specifications where it has a Mermaid block (a test holds both to be the same)."""
    return _MERMAID.sub(lambda _: svg({name: asset.inputs for name, asset in specifications().items()}), markdown)


def columns(inputs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """For each node, each after its inputs, the length of the longest way to it."""
    found: dict[str, int] = {}
    for name, above in inputs.items():
        found[name] = 1 + max((found[one] for one in above), default=-1)
    return found


def svg(inputs: Mapping[str, Sequence[str]]) -> str:
    """Boxes in columns, inputs to the left of what is made from them."""
    column = columns(inputs)
    row = {name: sum(column[other] == column[name] for other in list(inputs)[:place]) for place, name in enumerate(inputs)}
    at = {name: (10 + ACROSS * column[name], 10 + DOWN * row[name] + 8 * (column[name] % 2)) for name in inputs}
    wide, high = 20 + WIDTH + ACROSS * max(column.values()), 30 + HEIGHT + DOWN * max(row.values())
    lines = [
        f'<path d="M{at[above][0] + WIDTH},{at[above][1] + HEIGHT // 2} C{at[name][0] - 10},{at[above][1] + HEIGHT // 2} '
        f'{at[above][0] + WIDTH + 10},{at[name][1] + HEIGHT // 2} {at[name][0]},{at[name][1] + HEIGHT // 2}" fill="none" opacity="0.45"/>'
        for name, several in inputs.items()
        for above in several
    ]
    boxes = [
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="none"/>'
        f'<text x="{x + WIDTH // 2}" y="{y + 19}" text-anchor="middle" stroke="none" fill="currentColor">{name}</text>'
        for name, (x, y) in at.items()
    ]
    drawn = "".join([*lines, *boxes])
    return (
        f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="The asset graph" stroke="currentColor" font-size="13" '
        f'style="width:100%">{drawn}</svg>'
    )
