"""A figure of the page as an SVG for paper: the same plotly dictionaries, drawn by matplotlib.

    svg = to_svg(figure, panel="tiny on world-chat", choice=figure.choices[0], about="Experiment smoke.")

The drawing says by itself what the page says around it: title, choice, caption, axes with units, legend. Text stays
text, the same figure gives the same bytes, and nothing is left out: what cannot be drawn is an error that names it.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping
from typing import Any

from workflow.report.drawing import LEGEND_BELOW, Figure
from workflow.report.static import marks
from workflow.report.static.axes import Plane
from workflow.report.static.legend import handles
from workflow.report.static.terms import GRID, QUIET, TEXT, clean, known
from workflow.report.static.traces import check, draw

POINTS = 72  # an inch; all sizes here are points, which are plotly's pixels
WIDTH, WIDE = 760, 1080
MARGIN, GAP = 18, 8  # of the page; between its parts
TITLE_SIZE, SIZE, SMALL = 15, 12, 10  # of letters
LINE, LETTER = 1.4, 0.55  # height of a line, width of a letter on average, of its size
LEGEND_MARK = 52  # width of an entry besides its words
ARROW_ROOM = 0.1  # of the axis, for the words at an arrow's tail
DRAWN = {"xaxis", "yaxis", "shapes", "annotations", "barmode", "bargap", "showlegend", "height"}
OF_THE_PAGE = {"margin", "legend", "template", "hovermode", "dragmode", "paper_bgcolor", "plot_bgcolor"}
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lisa-bench",  # ids follow from the drawing, not from chance
    "text.parse_math": False,  # a dollar sign is one
    "font.size": SIZE,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": GRID,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "hatch.linewidth": 1.5,
    "legend.frameon": False,
    "legend.borderaxespad": 0,
    "legend.borderpad": 0,
    "legend.handlelength": 2.4,
    "legend.labelspacing": 0.35,
}


def to_svg(figure: Figure, panel: str = "", choice: Mapping[str, Any] | None = None, about: str = "") -> str:
    """The figure, with what one of its choices changes, as a whole SVG file.

    Args:
        panel: of what, where the page says it above the figure.
        choice: one of `figure.choices`; none of a figure that has none.
        about: said below: what the page says above all of its figures.

    Raises:
        ValueError: the figure holds a trace or a setting that is not drawn here.
    """
    import matplotlib

    chosen = f"{figure.title}: {choice['label']}" if choice else figure.title
    texts = [clean(text) for text in (f"{chosen}, {panel}" if panel else chosen, figure.caption, about)]
    data, layout = _chosen(figure, choice)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not the user's own
        matplotlib.rcParams.update(STYLE)
        try:
            drawing = _page(data, layout, texts, WIDE if figure.wide else WIDTH)
        except ValueError as error:
            raise ValueError(f"Figure {figure.name} cannot be drawn as SVG: {error}") from error
        return _described(_saved(drawing), texts[0], " ".join(texts[1:]).strip())


def _chosen(figure: Figure, choice: Mapping[str, Any] | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Traces and layout as the page's script has them once this choice is made."""
    changes = choice["traces"] if choice else [{}] * len(figure.plot["data"])
    data = [{**trace, **change} for trace, change in zip(figure.plot["data"], changes, strict=True)]
    return data, {**figure.plot["layout"], **(choice["layout"] if choice else {})}


def _page(data: list[dict[str, Any]], layout: dict[str, Any], texts: list[str], width: int) -> Any:
    """Title and caption above the plot, below it what it is about; made from the bottom up, since texts wrap."""
    from matplotlib.figure import Figure as Drawing

    known("layout", layout, DRAWN | OF_THE_PAGE)
    for trace in data:
        check(trace)
    entries = handles(data, layout)
    beside = len(entries) > LEGEND_BELOW
    title, caption, about = texts
    drawing = Drawing(figsize=(width / POINTS, 1), dpi=POINTS)
    bottom = _write(drawing, about, MARGIN, width, size=SMALL, color=QUIET)
    top = bottom + max(layout["height"], LINE * SIZE * (len(entries) + 1) if beside else 0)
    height = _write(drawing, caption, top + GAP, width, size=SIZE, color=QUIET)
    height = _write(drawing, title, height, width, size=TITLE_SIZE, weight="bold") + MARGIN - GAP
    drawing.set_size_inches(width / POINTS, height / POINTS)
    axes = drawing.add_axes((0.1, bottom / height, 0.8, (top - bottom) / height))
    _plot(Plane(axes, data, layout), data, layout)
    legend = _legend(drawing, entries, beside, (width - MARGIN, top) if beside else (MARGIN, bottom))
    _arrange(axes, legend, beside, (MARGIN, bottom, width - MARGIN, top))
    return drawing


def _write(drawing: Any, text: str, bottom: float, width: int, size: int, **style: Any) -> float:
    """Write over the whole width, upwards from `bottom`; returns where the next part begins."""
    from matplotlib.transforms import IdentityTransform

    lines = textwrap.wrap(text, int((width - 2 * MARGIN) / (LETTER * size)))
    if not lines:
        return bottom
    style |= {"size": size, "transform": IdentityTransform(), "va": "bottom", "linespacing": LINE}
    drawing.text(MARGIN, bottom, "\n".join(lines), **style)
    return bottom + LINE * size * len(lines) + GAP


def _plot(plane: Plane, data: list[dict[str, Any]], layout: Mapping[str, Any]) -> None:
    """Traces, then the axes' ranges and ticks, then what stands on them."""
    notes = layout.get("annotations", [])
    if any(note.get("showarrow", True) for note in notes):
        plane.axes.margins(y=ARROW_ROOM)
    draw(plane, data, layout)
    plane.finish()
    for given in layout.get("shapes", []):
        marks.shape(plane, given)
    for given in notes:
        marks.annotation(plane, given)


def _legend(drawing: Any, entries: list[Any], beside: bool, corner: tuple[float, float]) -> Any:
    """All named traces in their order, row by row, in the corner; matplotlib itself fills columns."""
    from matplotlib.transforms import IdentityTransform

    if not entries:
        return None
    longest = LEGEND_MARK + LETTER * SIZE * max(len(entry.get_label()) for entry in entries)
    across = drawing.get_figwidth() * POINTS - 2 * MARGIN
    columns = 1 if beside else max(1, min(len(entries), int(across / longest)))
    rows = math.ceil(len(entries) / columns)
    places = [row * columns + column for column in range(columns) for row in range(rows)]
    order = [entries[place] for place in places if place < len(entries)]
    where = {"loc": "upper right" if beside else "lower left", "bbox_to_anchor": corner}
    return drawing.legend(handles=order, ncols=columns, bbox_transform=IdentityTransform(), **where)


def _arrange(axes: Any, legend: Any, beside: bool, frame: tuple[float, float, float, float]) -> None:
    """Make the plot as large as the frame (left, bottom, right, top) allows, with its labels and the legend in it."""
    from matplotlib.backends.backend_svg import RendererSVG

    drawing = axes.get_figure()
    width, height = drawing.get_size_inches() * POINTS
    renderer = RendererSVG(width, height, io.StringIO())  # to measure with
    inner, outer = axes.get_window_extent(renderer), axes.get_tightbbox(renderer)
    left, bottom = frame[0] + inner.x0 - outer.x0, frame[1] + inner.y0 - outer.y0
    right, top = frame[2] - (outer.x1 - inner.x1), frame[3] - (outer.y1 - inner.y1)
    if legend:
        room = legend.get_window_extent(renderer)
        right, bottom = (right - room.width - GAP, bottom) if beside else (right, bottom + room.height + GAP)
    axes.set_position((left / width, bottom / height, (right - left) / width, (top - bottom) / height))


def _saved(drawing: Any) -> str:
    """Without a date and the other notes of where it was made; `savefig` would lay it out twice."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    FigureCanvasSVG(drawing).print_svg(stream, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return stream.getvalue()


def _described(svg: str, title: str, caption: str) -> str:
    """With what a screen reader says of it."""
    from markupsafe import escape

    told = f'<title id="title">{escape(title)}</title>\n <desc id="desc">{escape(caption)}</desc>\n <defs>'
    named = svg[svg.index("<svg ") :].replace("<svg ", '<svg role="img" aria-labelledby="title desc" ', 1)
    return named.replace("<defs>", told, 1)
