"""What people read: the console, the HTML report and the model card."""

from genrec.reports.console import print_examples, print_results
from genrec.reports.content import Example, ReportContent, make_examples
from genrec.reports.html import write_report
from genrec.reports.model_card import write_model_card

__all__ = [
    "Example",
    "ReportContent",
    "make_examples",
    "print_examples",
    "print_results",
    "write_model_card",
    "write_report",
]
