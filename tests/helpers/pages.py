"""An HTML page as a test sees it."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Every element of a page, and the texts of its table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.elements, self.cells, self._open = text, [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "td" in self._open:
            self.cells[-1] += data


def check_alone(text: str) -> None:
    """The page loads nothing, and forbids the browser to."""
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "base"}
        for name in ("src", "href", "srcset", "data", "poster", "action", "xlink:href"):
            assert re.match(r"data:|#|$", attributes.get(name) or ""), attributes
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", text)
    policies = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
