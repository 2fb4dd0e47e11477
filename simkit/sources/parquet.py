"""Parquet files as tables of text. pyarrow is imported when a file is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from simkit.errors import DataError, Problems, ResourceError
from simkit.sources.base import text_of
from simkit.tables import LARGEST, RawTable

__all__ = ["read_parquet"]


def read_parquet(path: Path, wanted: Iterable[str | None] = ()) -> RawTable:
    """The columns of a Parquet file that hold one value a cell, as text, rows numbered from 0; an absent value is an empty cell.

    Args:
        path: the file.
        wanted: columns that will be used, for the message when one of them holds bytes, lists or structures.

    Raises:
        ResourceError: pyarrow is missing.
        DataError: the file is damaged, empty, too large, or a wanted column holds no text.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ResourceError("SK303", text_of(path), "Parquet files need pyarrow, which is not installed", "pip install 'simkit[parquet]'") from error
    name = text_of(path)
    if not path.is_file():
        raise DataError("SK201", name, "is not a file", "check the path")
    if path.stat().st_size > LARGEST:
        message = f"{path.stat().st_size / 2**20:.0f} MiB is larger than a table may be ({LARGEST // 2**20} MiB)"
        raise DataError("SK201", name, message, "images inside Parquet are read by the source 'huggingface'; else split the file")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            scalar = [field.name for field in schema if not pyarrow.types.is_nested(field.type) and not _is_bytes(field.type)]
            problems = Problems()
            for column in wanted:
                if column in schema.names and column not in scalar:
                    fix = "images inside Parquet are read by the source 'huggingface'; else name a column of text"
                    problems.add("SK202", name, f"column '{column}' holds {schema.field(column).type}, wanted text", fix)
            problems.raise_if_any(DataError)
            records = file.read(columns=scalar).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError("SK201", name, f"is not a readable Parquet file: {str(error).splitlines()[0]}", "write it again") from error
    return RawTable.of_records(records, scalar, name=name)


def _is_bytes(kind: object) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) or pyarrow.types.is_fixed_size_binary(kind))
