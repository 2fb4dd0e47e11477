"""Text, figures and one self-contained HTML page of what a run found."""

from simkit.report.content import Content, MethodInfo, Unavailable
from simkit.report.correlation_figures import correlation_figures, save_correlation_figures
from simkit.report.figures import NamedFigure, figures, save_figures
from simkit.report.page import build_page, content_json, write_page
from simkit.report.text import cards_text, ranking_text, scores_text, summary_text

__all__ = [
    "Content", "MethodInfo", "NamedFigure", "Unavailable", "build_page", "cards_text", "content_json", "correlation_figures", "figures", "ranking_text",
    "save_correlation_figures", "save_figures", "scores_text", "summary_text", "write_page",
]
