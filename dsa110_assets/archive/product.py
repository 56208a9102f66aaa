"""The objects that the archive returns: a Product, and its lineage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dsa110_assets.archive import naming

Json = dict[str, Any]
HELD = "held"
"""Metadata key of a product that failed a blocking rule: nothing is made from it."""
VERDICTS = "checks"
"""Metadata key of the verdicts of a product's rules at its publication."""
FAILED_ERRORS = "failed_errors"
"""Metadata key of the names of the rules that failed and have severity ERROR."""


@dataclass(frozen=True)
class Product:
    """One immutable published product, as recorded in the index.

    `state` is current, superseded (a newer version was published) or rejected (with `reason`). `removed` means
    that retention removed the data; provenance stays. `inputs` are product ids. `size_bytes` and `digest`
    (xxh3_128, see files.seal) cover every file but the sidecar. `trial` names the trial that made it, '' for science.
    """

    id: str
    asset: str
    partition: str | None
    version: int
    path: Path
    inputs: tuple[str, ...]
    settings: Mapping[str, Any]
    code_version: str
    engines: Mapping[str, str]
    run_id: str
    size_bytes: int
    digest: str
    created_at: datetime
    metadata: Mapping[str, Any]
    state: str
    reason: str | None = None
    pinned: bool = False
    removed: bool = False
    trial: str = ""


@dataclass(frozen=True)
class FileLeaf:
    """A subband file as listed in a subband_group's manifest, where lineage ends."""

    path: str
    size_bytes: int | None
    digest: str | None
    subband: int | None = None


@dataclass(frozen=True)
class LineageNode:
    """A product or an inbox file, with the nodes it was made from as children. Shared ancestors are shared nodes."""

    product: Product | None
    file: FileLeaf | None
    children: tuple[LineageNode, ...] = field(default=(), repr=False)

    def walk(self) -> Iterator[LineageNode]:
        """This node and every ancestor once, nearest first."""
        seen: set[int] = set()
        queue = [self]
        while queue:
            node = queue.pop(0)
            if id(node) not in seen:
                seen.add(id(node))
                yield node
                queue.extend(node.children)

    def __str__(self) -> str:
        """The tree as text, a line for each product and file; a repeated product is named without its branch."""
        seen: set[str] = set()
        lines, stack = [], [("", "", self)]
        while stack:  # without recursion, because chains of nights grow long
            first, further, node = stack.pop()
            name, children = node._label(), node.children
            if node.product is not None and node.product.id in seen:
                name, children = name + (" (as above)" if children else ""), ()
            seen.add(name if node.product is None else node.product.id)
            lines.append(first + name)
            for child in reversed(children):
                last = child is children[-1]
                stack.append((further + ("└── " if last else "├── "), further + ("    " if last else "│   "), child))
        return "\n".join(lines)

    def _label(self) -> str:
        if self.product is not None:
            return self.product.id + ("" if self.product.state == "current" else f" ({self.product.state})")
        return "" if self.file is None else f"{self.file.path}  {self.file.size_bytes or 0:,} bytes  {self.file.digest or ''}".rstrip()

    def files(self) -> tuple[FileLeaf, ...]:
        """The distinct inbox files below this node, by path."""
        leaves = {node.file.path: node.file for node in self.walk() if node.file}
        return tuple(leaves[path] for path in sorted(leaves))


def record(product: Product) -> Json:
    """The sidecar's contents: a product's identity, inputs and provenance, without its state, which may change."""
    return {
        "format": 1,
        "id": product.id,
        "asset": naming.in_trial(product.asset, product.trial),
        "partition": product.partition,
        "version": product.version,
        "inputs": list(product.inputs),
        "settings": dict(product.settings),
        "code_version": product.code_version,
        "engines": dict(product.engines),
        "run_id": product.run_id,
        "size_bytes": product.size_bytes,
        "digest": product.digest,
        "created_at": product.created_at.isoformat(timespec="microseconds"),
        "metadata": dict(product.metadata),
    }


_FORMS: dict[str, type | tuple[type, ...]] = {
    "id": str, "asset": str, "partition": (str, type(None)), "version": int, "inputs": list, "settings": dict,
    "code_version": str, "engines": dict, "run_id": str, "size_bytes": int, "digest": str, "created_at": str, "metadata": dict,
}  # fmt: skip


def flaw(contents: Any) -> str:
    """The reason why this JSON is not a valid product record, '' if it is. A bad row in the index would affect reading other products."""
    if not isinstance(contents, dict):
        return "is missing or unreadable"
    wrong = [name for name, form in _FORMS.items() if not isinstance(contents.get(name, ...), form)]
    if wrong:
        return f"is not a product's record: {', '.join(wrong)} missing or of another type"
    try:
        datetime.fromisoformat(contents["created_at"]).astimezone(UTC)
    except ValueError:
        return f"is not a product's record: created_at={contents['created_at']!r} is not a time"
    sets = contents.get("caltable_sets", [])
    if not isinstance(sets, list) or not all(isinstance(entry, dict) and {"name", "mid_mjd"} <= entry.keys() for entry in sets):
        return "is not a product's record: caltable_sets have no name or time"
    return ""
