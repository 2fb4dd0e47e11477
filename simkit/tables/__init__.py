"""Tables: delimited text read without guessing, and the score and transfer tables whose columns and keys were checked."""

from __future__ import annotations

from simkit.tables.raw import IF_OUTSIDE, IN_FULL, LARGEST, MISSING, BadCell, RawTable, counted, read_table
from simkit.tables.records import ScoreTable, TransferTable, csv_text, replicate_of, unguarded
from simkit.tables.score_file import is_score_table, read_scores

__all__ = [
    "IF_OUTSIDE", "IN_FULL", "LARGEST", "MISSING", "BadCell", "RawTable", "ScoreTable", "TransferTable", "counted", "csv_text", "is_score_table", "read_scores",
    "read_table", "replicate_of", "unguarded",
]
