"""A page of HTML that needs nothing but itself."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO

from matplotlib.figure import Figure
from PIL import Image

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { margin-bottom: 0; } h2 { margin-top: 2em; } p, li { max-width: 46em; } .about { color: #666; margin-top: 0; }
table { border-collapse: collapse; max-width: 100%; }
td, th { border-bottom: 1px solid #ddd; padding: .3em 1em .3em 0; text-align: left; vertical-align: top; }
@media (min-width: 700px) { td:not(:last-child) { white-space: nowrap; } figure img { max-width: 100%; } }
.plots { display: flex; flex-wrap: wrap; } .plots img { width: 360px; max-width: 100%; }
figure { margin: 1.5em 0 2.5em; overflow-x: auto; } figcaption { font-weight: 600; position: sticky; left: 0; }
@media print {
  body { max-width: none; margin: 0; font-size: 11pt; } h2 { break-after: avoid; }
  figure, .plots img, tr { break-inside: avoid; } figure { overflow: visible; } figure img { max-width: 100%; }
  .plots img { width: 32%; }
}
"""
#: Pixels of a picture for one of the page: sharp on paper and on screens of high resolution.
DENSITY = 1.25


def _picture(kind: str, data: bytes, alternative: str, width: str = "") -> str:
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(alternative)}"{width} src="data:image/{kind};base64,{encoded}">'


class Page:
    """Collects the parts of a page in order.

    Args:
        title: Heading.
        about: Line below it.
    """

    def __init__(self, title: str, about: str) -> None:
        self._title = html.escape(title)
        self._parts = [f"<h1>{self._title}</h1>", f'<p class="about">{html.escape(about)}</p>']

    def heading(self, text: str) -> None:
        """Start a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def items(self, texts: Iterable[str]) -> None:
        """Add a list."""
        self._parts.append("<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>")

    def table(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Add a table; the keys of the first row are its head."""

        def line(cells: Iterable[object], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

        self._parts += ["<table>", line(rows[0], "th"), *(line(row.values(), "td") for row in rows), "</table>"]

    def plots(self, figures: Iterable[Figure]) -> None:
        """Add plots side by side."""
        self._parts.append('<div class="plots">')
        for figure in figures:
            data = BytesIO()
            figure.savefig(data, format="png", dpi=110)
            self._parts.append(_picture("png", data.getvalue(), figure.axes[0].get_title()))
        self._parts.append("</div>")

    def picture(self, image: Image.Image, caption: str) -> None:
        """Add a picture below a line of text; on a phone it scrolls."""
        data = BytesIO()
        image.convert("RGB").save(data, format="jpeg", quality=88)
        shown = _picture("jpeg", data.getvalue(), caption, f' width="{round(image.width / DENSITY)}"')
        self._parts.append(f"<figure><figcaption>{html.escape(caption)}</figcaption>{shown}</figure>")

    def render(self) -> str:
        """The whole page."""
        size = '<meta name="viewport" content="width=device-width, initial-scale=1">'
        head = f'<meta charset="utf-8">{size}<title>{self._title}</title><style>{STYLE}</style>'
        return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(self._parts)}</body></html>\n'
