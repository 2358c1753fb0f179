"""Files that a disk has changed."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq


def change_a_number(path: Path, column: str) -> None:
    """Turn one bit of a number in the first row group of a Parquet file, which then is another number."""
    with pq.ParquetFile(path) as file:
        columns = file.metadata.row_group(0)
        about = next(c for c in map(columns.column, range(columns.num_columns)) if c.path_in_schema == column)
    content = bytearray(path.read_bytes())
    content[about.data_page_offset - 1] ^= 1  # the last byte of the dictionary, which holds the numbers
    path.write_bytes(content)
