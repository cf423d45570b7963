"""What stands on a figure besides its traces: plotly's shapes (rectangles, lines) and annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow.report.static.axes import Axis, Plane
from workflow.report.static.terms import QUIET, TEXT, colour, dashes, known, one_of, words

SHAPE = {"type", "xref", "yref", "x0", "x1", "y0", "y1", "line", "fillcolor", "opacity", "layer"}
LINE = {"color", "width", "dash"}
NOTE = {
    *("text", "x", "y", "xref", "yref", "xanchor", "yanchor", "xshift", "yshift", "font", "align"),
    *("showarrow", "ax", "ay", "arrowhead", "arrowcolor", "arrowwidth"),
}
SIDES = {
    "x": {"auto": "center", "left": "left", "center": "center", "right": "right"},
    "y": {"auto": "center", "top": "top", "middle": "center", "bottom": "bottom"},
}
SHARES = {"left": 0, "bottom": 0, "center": 0.5, "right": 1, "top": 1}  # of the text's box
TAIL = {"ax": -10, "ay": -30}  # plotly's own, from the arrow's head


def shape(plane: Plane, given: Mapping[str, Any]) -> None:
    """Draw a rectangle or a line."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    known("shape", given, SHAPE)
    one_of("shape.type", given.get("type"), ("rect", "line"))
    xs = [_end(plane.x, given, key) for key in ("x0", "x1")]
    ys = [_end(plane.y, given, key) for key in ("y0", "y1")]
    edge, style = _line_style(given)
    style["transform"] = _transform(plane, given)
    if given["type"] == "line":
        plane.axes.add_artist(Line2D(xs, ys, color=edge, **style))
    else:
        fill = colour(given["fillcolor"], given.get("opacity", 1)) if "fillcolor" in given else "none"
        size = (xs[1] - xs[0], ys[1] - ys[0])
        plane.axes.add_artist(Rectangle((xs[0], ys[0]), *size, facecolor=fill, edgecolor=edge, **style))


def _line_style(given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Colour and style of a shape's line."""
    line = given.get("line", {})
    known("shape.line", line, LINE)
    width = line.get("width", 2)
    edge = colour(line.get("color", TEXT), given.get("opacity", 1)) if width else "none"
    style = dashes(line.get("dash", "solid"), width or 1)
    return edge, {"linewidth": width, "linestyle": style, "zorder": 0.5 if given.get("layer") == "below" else 3.5}


def annotation(plane: Plane, given: Mapping[str, Any]) -> None:
    """Write a text at a place, or at the tail of an arrow that points to it."""
    known("annotation", given, NOTE)
    arrow = given.get("showarrow", True)
    sides = {"ha": _side("x", given, arrow), "va": _side("y", given, arrow)}
    style = _text_style(given) | sides | {"xycoords": _transform(plane, given), "textcoords": "offset points"}
    offset = (given.get("xshift", 0), given.get("yshift", 0))
    if arrow:
        offset = (given.get("ax", TAIL["ax"]), -given.get("ay", TAIL["ay"]))
        style["arrowprops"] = _arrow_style(given, (SHARES[sides["ha"]], SHARES[sides["va"]]))
    place = (_point(plane.x, given), _point(plane.y, given))
    plane.axes.annotate(words(given["text"]), place, offset, annotation_clip=False, zorder=6, **style)


def _text_style(given: Mapping[str, Any]) -> dict[str, Any]:
    font = given.get("font", {})
    known("annotation.font", font, {"color", "size"})
    align = given.get("align", "center")
    return {"color": colour(font.get("color", TEXT)), "size": font.get("size", 12), "multialignment": align}


def _arrow_style(given: Mapping[str, Any], tail: tuple[float, float]) -> dict[str, Any]:
    """From `tail`, a place in the text's box, to the point."""
    line = {"color": colour(given.get("arrowcolor", QUIET)), "linewidth": given.get("arrowwidth", 1)}
    return {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "relpos": tail, **line}


def _of_data(letter: str, given: Mapping[str, Any]) -> bool:
    """Whether a place is one of the axis, and no share of the plot."""
    reference = given.get(f"{letter}ref", letter)
    one_of(f"{letter}ref", reference, (letter, "paper", f"{letter} domain"))
    return reference == letter


def _transform(plane: Plane, given: Mapping[str, Any]) -> Any:
    from matplotlib.transforms import blended_transform_factory

    data, shares = plane.axes.transData, plane.axes.transAxes
    return blended_transform_factory(*(data if _of_data(letter, given) else shares for letter in "xy"))


def _end(axis: Axis, given: Mapping[str, Any], key: str) -> float:
    return axis.place(given[key]) if _of_data(axis.letter, given) else given[key]


def _point(axis: Axis, given: Mapping[str, Any]) -> float:
    """Where an annotation points to; of a logarithmic axis plotly has the exponent here, and only here."""
    place = given[axis.letter]
    if not _of_data(axis.letter, given):
        return place
    return 10**place if axis.kind == "log" else axis.place(place)


def _side(letter: str, given: Mapping[str, Any], arrow: bool) -> str:
    """Which side of the text stands at the place; plotly's `auto` keeps a text without arrow within the plot."""
    side = given.get(f"{letter}anchor", "auto")
    one_of(f"annotation.{letter}anchor", side, SIDES[letter])
    if side == "auto" and not arrow and not _of_data(letter, given):
        third = min(2, int(3 * given[letter]))
        return (("left", "center", "right"), ("bottom", "center", "top"))["xy".index(letter)][third]
    return SIDES[letter][side]
