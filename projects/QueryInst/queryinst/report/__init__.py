"""A finished run as one HTML page and as pictures: what tools/make_report.py runs."""

from .make_report import Report, make_report
from .text import report_text

__all__ = ["Report", "make_report", "report_text"]
