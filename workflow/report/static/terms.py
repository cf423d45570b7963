"""plotly's words in matplotlib's: colours, dashes, labels; and errors that name what is not drawn on paper."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable
from typing import Any

TEXT, QUIET, GRID = "#1c2128", "#59626e", "#d8dde3"  # of the page in its light scheme
DASHES = {"dash": (3, 3), "dot": (1, 1), "dashdot": (3, 1, 1, 1), "longdash": (5, 5), "longdashdot": (5, 2, 1, 2)}
THINNEST = 3  # of the lines that dashes are measured in
TAG = re.compile(r"</?(?:b|i|em|strong|sub|sup)>")
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Colour = tuple[float, float, float, float]  # red, green, blue, opacity


def known(where: str, given: Iterable[str], legal: Collection[str]) -> None:
    """Raise ValueError if there is a key that nothing here reads."""
    unknown = sorted(set(given) - set(legal))
    if unknown:
        raise ValueError(f"{where} holds {', '.join(unknown)}; known: {', '.join(sorted(legal))}")


def one_of(where: str, value: Any, legal: Collection[Any]) -> None:
    """Raise ValueError if the value is none of the legal ones."""
    if value not in legal:
        raise ValueError(f"{where} is {value!r}; legal: {', '.join(map(str, legal))}")


def colour(value: str, opacity: float = 1.0) -> Colour:
    """A colour as CSS writes it: #3f7fc1, rgba(90,140,220,.10), a name."""
    from matplotlib.colors import to_rgba

    if value.startswith("rgb"):
        numbers = [float(part) for part in value.partition("(")[2].rstrip(") ").split(",")]
        red, green, blue, own = [*(part / 255 for part in numbers[:3]), *numbers[3:], 1.0][:4]
    else:
        red, green, blue, own = to_rgba(value)
    return red, green, blue, own * opacity


def dashes(name: str, width: float) -> Any:
    """A line style whose dashes are as long as plotly's; matplotlib counts them in line widths."""
    one_of("line.dash", name, ("solid", *DASHES))
    unit = max(width, THINNEST) / width
    return (0, tuple(unit * length for length in DASHES[name])) if name in DASHES else "solid"


def words(text: Any) -> str:
    """A label's text: plotly reads a little HTML in it, and `drawing.safe` has escaped what is none."""
    lines = re.sub(r"<br ?/?>", "\n", str(text))
    return clean(html.unescape(TAG.sub("", lines)))


def clean(text: str) -> str:
    """Without characters that no XML may hold."""
    return NOT_XML.sub("\ufffd", text)
