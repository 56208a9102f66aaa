"""Interactive plots: Bokeh describes one as JSON, and a page's script draws it with the JavaScript from Bokeh's own wheel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

Columns = Mapping[str, Any]
TOOLS = "pan,wheel_zoom,box_zoom,reset,save"


@dataclass(frozen=True)
class Scheme:
    """The colours of a plot, light or dark; those of data have equal lightness and can be distinguished without red and green."""

    ink: str
    soft: str
    line: str
    data: str
    second: str
    good: str
    warn: str
    bad: str
    palette: str


LIGHT = Scheme("#16202a", "#55636f", "#d5dce2", "#0b5fa5", "#8a5a00", "#1b6e3c", "#b26a00", "#a3001d", "Viridis256")
DARK = Scheme("#e6ebef", "#9fb0bd", "#34424e", "#7ab8f0", "#e5b65c", "#7fd09c", "#f0a83a", "#ff8fa0", "Viridis256")


def scheme_of(request: Request) -> Scheme:
    """The colours that the request names, because only the page's script knows whether the page is shown dark."""
    return DARK if request.query_params.get("dark") == "1" else LIGHT


def static_files() -> StaticFiles:
    """BokehJS, from the installed package: nothing is fetched from elsewhere."""
    import bokeh

    return StaticFiles(directory=Path(bokeh.__file__).parent / "server" / "static" / "js")


def figure(scheme: Scheme, *, x: str, y: str, height: int = 320, time: bool = True, **more: Any) -> Any:
    """Return an empty plot over time (or numbers) in a scheme's colours, as wide as its container. Axis labels include the unit."""
    from bokeh.models import WheelZoomTool
    from bokeh.plotting import figure as make

    made: Any = make(
        height=height, sizing_mode="stretch_width", x_axis_type="datetime" if time else "linear", tools=TOOLS, x_axis_label=x,
        y_axis_label=y, background_fill_alpha=0, border_fill_alpha=0, outline_line_color=scheme.line, min_border_right=12, **more,
    )  # fmt: skip
    made.toolbar.logo, made.toolbar.autohide = None, False
    made.toolbar.active_scroll = None  # the wheel scrolls the page; it zooms the plot only once that tool is chosen
    assert made.select_one(WheelZoomTool) is not None
    for axis in (*made.xaxis, *made.yaxis):
        axis.axis_label_text_color = axis.major_label_text_color = scheme.ink
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = scheme.soft
        axis.axis_label_text_font_style = "normal"
    made.grid.grid_line_color, made.grid.grid_line_alpha = scheme.line, 0.7
    return made


def hover(plot: Any, renderers: Sequence[Any], rows: Sequence[tuple[str, str]]) -> None:
    """Add a tooltip that shows `rows` of the point under the cursor."""
    from bokeh.models import HoverTool

    plot.add_tools(HoverTool(renderers=list(renderers), tooltips=list(rows), point_policy="snap_to_data"))


def leads(plot: Any, renderers: Sequence[Any], url: str) -> None:
    """Make a click on a point open an address, in which @column stands for the point's value of that column."""
    from bokeh.models import OpenURL, TapTool

    plot.add_tools(TapTool(renderers=list(renderers), callback=OpenURL(url=url, same_tab=True)))


def legend(plot: Any, scheme: Scheme) -> None:
    """Put the legend above the plot; a click on an entry hides its points."""
    entry = plot.legend
    entry.orientation, entry.click_policy, entry.border_line_alpha, entry.background_fill_alpha = "horizontal", "hide", 0, 0
    entry.label_text_color, entry.label_text_font_size, entry.padding, entry.margin = scheme.ink, "12px", 2, 2
    plot.add_layout(entry[0], "above")


def source(columns: Columns) -> Any:
    """Columns of the same length as Bokeh's data source; arrays are sent as bytes."""
    from bokeh.models import ColumnDataSource

    return ColumnDataSource({name: values if isinstance(values, np.ndarray) else list(values) for name, values in columns.items()})


def milliseconds(times: Sequence[datetime] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Times as the browser counts them, ms since 1970 UTC; an array of numbers is taken as MJD."""
    if isinstance(times, np.ndarray):
        return (times - 40587.0) * 86_400_000.0
    return np.array([1000.0 * at.timestamp() for at in times], dtype=np.float64)


def answer(plot: Any, request: Request) -> JSONResponse:
    """The plot as JSON for the page's script, null if it is empty. On a touch screen, dragging scrolls the page by default."""
    from bokeh.embed import json_item

    if not plot.renderers:
        return JSONResponse(None)
    if request.query_params.get("touch") == "1":
        plot.toolbar.active_drag = None
    return JSONResponse(json_item(plot))
