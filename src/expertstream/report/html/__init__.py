"""The HTML report: one file that explains a run, or a comparison of several, without any other file or network."""

from expertstream.report.html.page import write_comparison_html, write_run_html, write_serving_html

__all__ = ["write_comparison_html", "write_run_html", "write_serving_html"]
