"""A page's HTML taken apart, and what no page may do with the texts it is given."""

from __future__ import annotations

import json
from html.parser import HTMLParser

SIX_MB = 6_000_000
HOSTILE = "<script>alert('x')</script> & \"quotes\""


class Reader(HTMLParser):
    """Collects attributes, the text outside scripts, and the figures' JSON."""

    def __init__(self, page):
        super().__init__()
        self.attributes, self.text, self.plots, self.tags, self.open_script = [], "", {}, [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        self.open_script = dict(attributes).get("data-plot", "code") if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.open_script = None

    def handle_data(self, data):
        if self.open_script is None:
            self.text += data
        elif self.open_script != "code":
            self.plots[self.open_script] = json.loads(data)
