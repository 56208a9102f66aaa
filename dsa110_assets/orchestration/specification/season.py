"""Which windows have a partition: from the first night of the season to the last window that is over by this machine's clock.

Dagster refuses a run of any other window, together with everything requested at the same time, so code that requests runs checks
here first. This module does not import Dagster, so that code which only scans the inbox can use it.
"""

import os
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from dsa110_assets.errors import ConfigurationError
from dsa110_assets.telescope import timegrid

if TYPE_CHECKING:
    from dsa110_assets.orchestration.specification.spec import Grain

START_VARIABLE = "DSA110_START"
DEFAULT_START = "2025-01-01"
_REST = {"observation": timegrid.OBSERVATION_WINDOW, "hour": timegrid.HOUR, "night": timedelta(0)}
"""How long after its start a window gets its partition: at its end, but for a night at its start."""
_DAY = TypeAdapter(date)


def season_start() -> str:
    """First day of the season ('YYYY-MM-DD'), from DSA110_START; it must be constant within a deployment.

    Raises ConfigurationError, naming the variable, if the value is not a date.
    """
    text = next((value.strip() for name, value in os.environ.items() if name.upper() == START_VARIABLE), "")
    try:
        return _DAY.validate_python(text).isoformat() if text else DEFAULT_START
    except ValidationError:
        raise ConfigurationError(f"{START_VARIABLE}={text!r} is no date; write the first night as {DEFAULT_START}") from None


START = season_start()


def outside(grain: "Grain", key: str | None, now_s: float) -> str | None:
    """Why a window has no partition at `now_s` [unix s], and what to do; None if it has one (catalogues and names always have)."""
    if key is None or grain in ("catalogue", "request"):
        return None
    start = timegrid.parse_key(key)
    if key < START:
        return f"is before {START_VARIABLE}={START}; set that to {key[:10]} or earlier and restart the platform"
    available_from = start + _REST[grain]
    if available_from.timestamp() > now_s:
        now = datetime.fromtimestamp(now_s, UTC)
        return (
            f"its window ends at {available_from:%Y-%m-%dT%H:%M}, now it is {now:%Y-%m-%dT%H:%M:%S}; waits until then, or a clock is wrong"
        )
    return None
