"""What shall the reader believe? A run record becomes a page, and a few lines for the terminal.

Everything here is a pure function of the ``RunRecord``; nothing is measured, loaded or looked up.
"""

from __future__ import annotations

from hasten.report.page import render, write
from hasten.report.text import summary

__all__ = ["render", "summary", "write"]
