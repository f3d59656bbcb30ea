"""Top-K predictions that somebody saved, with their annotations: mapped or streamed, never loaded whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from selfinformed.data.prediction_files import Array, File, Rows, open_csv, open_npz, open_parquet, open_safetensors, row_name
from selfinformed.data.targets import Targets
from selfinformed.runtime.arguments import whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.reading import MOST_LABELS, check_file, reason_of


def open_predictions(path: str | Path, n_labels: int | None = None, top_k: int | None = None) -> Predictions:
    """Opens saved top-K predictions: `ids` [N, K], `labels`, and where there are some `scores` [N, K].

    Args:
        path: one of
            - .safetensors or .npz with integers `ids` [N, K]; integers `labels`, [N] if each example has one, else [sum] with `offsets`
              [N + 1] (example n's are `labels[offsets[n]:offsets[n + 1]]`), or multi-hot [N, C]; perhaps floating-point `scores` [N, K].
              The number of labels may be in the metadata `n_labels` of .safetensors;
            - .parquet with the columns `ids` (lists of integers), `labels` (integers or lists), perhaps `scores` (lists);
            - .csv with these columns in its header; entries are separated by `;`, an empty `labels` means no label;
            - a folder: its .safetensors, sorted by name, one after another.
        n_labels: C; by default what the file says.
        top_k: K, at most the file's, which is the default. Fewer are each row's best by score, best first, ties to the lower label; or, if
            there are no scores, its first: save ids best first.

    Raises:
        SelfInformedError: what is there cannot be read as one of these, or contradicts `n_labels` or `top_k`.
    """
    path = Path(path)
    if not path.exists():
        raise SelfInformedError(f"predictions: {path} does not exist; expected {_EXPECTED}")
    paths = sorted(path.glob("[!.]*.safetensors")) if path.is_dir() else [path]
    if not paths or paths[0].suffix.lower() not in _FORMATS:
        raise SelfInformedError(f"predictions: {path} is none of what can be read; expected {_EXPECTED}")
    files = tuple(_opened(p) for p in paths)
    files = tuple(file for file in files if file.n_rows) or files[:1]  # of a unit of examples that all are unreadable there are none
    if not files[0].n_rows:
        raise SelfInformedError(f"predictions: {path} holds 0 examples of {files[0].width} ids; expected 1 or more of each")
    width = files[0].width
    for file in files:
        if file.width != width:
            raise SelfInformedError(f"predictions: {file.path} has {file.width} ids per example, {files[0].path} has {width}; every file needs the same number")
        if None not in (n_labels, file.n_labels) and n_labels != file.n_labels:
            raise SelfInformedError(f"n_labels: {file.path} was saved for {file.n_labels} labels, expected {n_labels}; give the number it was saved for")
        n_labels = file.n_labels if n_labels is None else n_labels
    if n_labels is None:
        missing = f"{path} does not say how many labels there are"
        raise SelfInformedError(f"n_labels: {missing}; give n_labels (--n-labels N), or the label names (--labels FILE)")
    if not 1 <= n_labels <= MOST_LABELS:
        raise SelfInformedError(f"n_labels: expected 1 to {MOST_LABELS:,} for {path}, got {n_labels}")
    top_k = width if top_k is None else whole_number("top_k", top_k, width, f", the ids {path} has per example")
    return Predictions(path, sum(file.n_rows for file in files), top_k, n_labels, files)


@dataclass(frozen=True)
class Predictions:
    """Saved top-K predictions of N examples.

    Attributes:
        path: the file or folder.
        n_examples: N.
        top_k: K, the ids used of each example.
        n_labels: C.
    """

    path: Path
    n_examples: int
    top_k: int
    n_labels: int
    _files: tuple[File, ...] = field(repr=False)

    def batches(self, size: int = 65_536) -> Iterator[tuple[Array, Targets]]:
        """Yields (ids, targets) of up to `size` examples in file order, anew at each call; no batch holds examples of two files.

        The ids are integers [b, K] as the file has them: not checked for range, or for labels named twice.

        Raises:
            SelfInformedError: a file is damaged; a row has an annotated label out of range, a score that is not finite, or too few ids.
        """
        size = whole_number("size", size)
        for file in self._files:
            first = 0
            with _decoding(file.path):
                for rows in file.read(size):
                    yield _best(file.path, first, rows, self.top_k), _targets(file.path, first, rows, self.n_labels)
                    first += len(rows.ids)
            if first != file.n_rows:
                raise SelfInformedError(f"predictions: {file.path} had {file.n_rows} examples when opened, now {first}; do not write to it meanwhile")

    def n_batches(self, size: int) -> int:
        """How many batches of up to `size` examples there are."""
        return sum(-(-file.n_rows // size) for file in self._files)

    def name(self, example: int) -> str:
        """How messages call an example: the file, and its row counted from 0, or its line if the file is a .csv."""
        for file in self._files:
            if example < file.n_rows:
                return row_name(file.path, example)
            example -= file.n_rows
        raise IndexError(f"{self.path} has {self.n_examples} examples")


def _opened(path: Path) -> File:
    check_file(path, "predictions")
    with _decoding(path):
        file = _FORMATS[path.suffix.lower()](path)
        if file.width < 1:
            raise SelfInformedError(f"predictions: {path} holds {file.n_rows} examples of {file.width} ids; expected 1 or more of each")
        return file


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        yield
    except SelfInformedError:
        raise
    except Exception as error:  # decoders raise many kinds on damaged bytes
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise SelfInformedError(f"predictions: {path} cannot be read ({reason}); it may be cut off or damaged: save it again") from None


def _best(path: Path, first: int, rows: Rows, top_k: int) -> Array:
    ids, scores = rows.ids.astype(rows.ids.dtype.newbyteorder("="), copy=False), rows.scores
    if ids.dtype == np.uint64:
        wrong = np.argwhere(ids > np.iinfo(np.int64).max)
        if len(wrong):
            raise SelfInformedError(f"predictions: {row_name(path, first + wrong[0, 0])} has the id {ids[tuple(wrong[0])]}; ids must fit 64 bits with a sign")
        ids = ids.astype(np.int64)
    if scores is not None and not (finite := np.isfinite(scores)).all():
        row, column = np.argwhere(~finite)[0]
        raise SelfInformedError(f"predictions: {row_name(path, first + row)} has the score {scores[row, column]}; scores must be finite")
    best = np.ascontiguousarray(ids[:, :top_k])
    if scores is not None and top_k < ids.shape[1]:
        unsorted = ~(scores[:, 1:] < scores[:, :-1]).all(axis=1)  # few in most files: the others are best first already
        order = np.lexsort((ids[unsorted], -scores[unsorted]))[:, :top_k]
        best[unsorted] = np.take_along_axis(ids[unsorted], order, axis=1)
    return best


def _targets(path: Path, first: int, rows: Rows, n_labels: int) -> Targets:
    labels, examples = rows.labels, np.repeat(np.arange(len(rows.sizes)), rows.sizes)
    wrong = np.flatnonzero((labels < 0) | (labels >= n_labels))
    if len(wrong):
        who = row_name(path, first + examples[wrong[0]])
        raise SelfInformedError(f"predictions: {who} has the label {labels[wrong[0]]}; labels go from 0 to {n_labels - 1} ({n_labels} labels)")
    labels = labels.astype(np.int64)
    if not ((labels[1:] > labels[:-1]) | (examples[1:] > examples[:-1])).all():
        order = np.lexsort((labels, examples))
        labels, examples = labels[order], examples[order]
        new = np.concatenate([[True], (labels[1:] != labels[:-1]) | (examples[1:] != examples[:-1])])
        labels, examples = labels[new], examples[new]
    sizes = np.bincount(examples, minlength=len(rows.sizes))
    return Targets(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), labels, n_labels)


_EXPECTED = "a .safetensors, .npz, .parquet or .csv file, or a folder of .safetensors"
_FORMATS = {".safetensors": open_safetensors, ".npz": open_npz, ".parquet": open_parquet, ".csv": open_csv}
