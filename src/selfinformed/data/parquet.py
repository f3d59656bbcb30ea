"""Parquet files that a few bytes of must not blow up: a run of equal values or a text of every row takes hardly any room in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfinformed.runtime.extras import extra
from selfinformed.runtime.memory import limited_memory


@contextmanager
def parquet_file(path: Path, what: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` whose texts are held once, however often they stand in it, and which may unpack to what memory is free.

    What columns say of themselves is not read: damaged, it ends the process (pyarrow 26).

    Raises:
        SelfInformedError: pyarrow is not installed, or does not work.
        MemoryError: what is read takes more. Decoders raise other kinds.
    """
    pq = extra("pyarrow.parquet", f"{what}: reading parquet", "parquet")
    with pq.ParquetFile(path, memory_map=True) as file:
        schema = [file.schema.column(i) for i in range(len(file.schema))]
        texts = [column.path for column in schema if column.physical_type == "BYTE_ARRAY"]
    with limited_memory(), pq.ParquetFile(path, memory_map=True, read_dictionary=texts) as file:
        yield file
