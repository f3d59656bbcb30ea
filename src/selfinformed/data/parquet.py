"""Parquet files that a few bytes of must not blow up: a run of equal values or a text of every row takes hardly any room in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfinformed.runtime.errors import SelfInformedError

_MOST_VALUES = 2**28  # of a column of a file that is scanned
_SCANNED = 2**28  # bytes; larger files are taken to hold about as much as they look
_AT_ONCE = 2**16


@contextmanager
def parquet_file(path: Path, what: str, scan: bool = True) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` whose texts are held once, however often they stand in it; `scan` for a file not scanned before.

    Raises:
        SelfInformedError: pyarrow is not installed.
        ValueError: a column unpacks to more than `_MOST_VALUES`. Decoders raise other kinds.
    """
    try:
        import pyarrow.parquet as pq
    except (ImportError, RuntimeError):
        raise SelfInformedError(f"{what}: reading parquet needs pyarrow; run: pip install 'selfinformed[parquet]'") from None
    with pq.ParquetFile(path, memory_map=True) as file:
        schema = [file.schema.column(i) for i in range(len(file.schema))]
        texts = [column.path for column in schema if column.physical_type == "BYTE_ARRAY"]
        if scan and path.stat().st_size <= _SCANNED:
            for i in range(len(schema)):  # in pieces of few values; what the columns say of themselves is not read: damaged, it ends the process
                if (found := file.reader.scan_contents([i], _AT_ONCE)) > _MOST_VALUES:
                    raise ValueError(f"{found:,} values in a column; at most {_MOST_VALUES:,} are read from so small a file: divide it")
    with pq.ParquetFile(path, memory_map=True, read_dictionary=texts) as file:
        yield file
