"""report.html: a report as one page that needs nothing else, made from report.json and the sheet of crops beside it."""

from qcompress.html.folder import FILE, redraw, write
from qcompress.html.page import to_html

__all__ = ["FILE", "redraw", "to_html", "write"]
