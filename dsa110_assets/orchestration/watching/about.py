"""What an alert is about, from the page that shows it: the run that made it or failed at it, and the trace of that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsa110_assets.errors import NotFoundError
from dsa110_assets.orchestration.watching import history

if TYPE_CHECKING:
    from dsa110_assets.archive.store import Archive

RUNS, PRODUCTS = "/runs/", "/products/"
"""Where the portal shows a run, and a product."""


@dataclass(frozen=True)
class About:
    """The ids of a run and of its trace; '' where there is none."""

    run_id: str = ""
    trace_id: str = ""


def about(archive: Archive, home: Path, page: str) -> About:
    """What the alert of this page is about; nothing of pages that show more than one run or product, or what is gone."""
    try:
        if page.startswith(PRODUCTS):
            product = archive.get(page.removeprefix(PRODUCTS))
            return About(product.run_id, str(product.metadata.get("trace_id", "")))
        if page.startswith(RUNS):
            run = history.run(home, page.removeprefix(RUNS))
            return About(run.run_id, run.tags.get(history.TRACE_TAG, ""))
    except NotFoundError:  # retention or expiry took it
        pass
    return About()
