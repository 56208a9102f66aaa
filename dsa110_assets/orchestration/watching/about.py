"""The run and trace that an alert is about, from the page that shows it: the run that made the product or that failed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsa110_assets.errors import NotFoundError
from dsa110_assets.orchestration.watching import history

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive

RUNS, PRODUCTS = "/runs/", "/products/"
"""The paths under which the portal shows a run and a product."""


@dataclass(frozen=True)
class About:
    """The ids of a run and of its trace; '' if there is none."""

    run_id: str = ""
    trace_id: str = ""


def about(archive: Archive, home: Path, page: str) -> About:
    """The run and trace that the alert of this page is about; empty for pages that show several runs or products, or removed ones."""
    try:
        if page.startswith(PRODUCTS):
            product = archive.get(page.removeprefix(PRODUCTS))
            return About(product.run_id, str(product.metadata.get("trace_id", "")))
        if page.startswith(RUNS):
            run = history.run(home, page.removeprefix(RUNS))
            return About(run.run_id, run.tags.get(history.TRACE_TAG, ""))
    except NotFoundError:  # retention or expiry removed it
        pass
    return About()
