"""What the report's page knows of every label, and its matrices, as JSON that the page's script reads."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from selfinformed.runtime.files import plain
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups

MOST_CELLS = 1_000  # along each side of a matrix
_MOST_BYTES = 6_000_000  # of all matrices together, compressed
_NEIGHBOURS = 8
IntArray = npt.NDArray[np.int64]


def embedded_json(content: Any) -> str:
    """JSON that stands inside a script element: no text in it can end the element."""
    text = json.dumps(plain(content), ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def order_of(groups: LabelGroups) -> IntArray:
    """All labels, group by group, each once (in a cover with its first group), those in no group last."""
    order = np.concatenate([*groups.members, groups.ungrouped])
    _, first = np.unique(order, return_index=True)
    return order[np.sort(first)]


def block_sums(matrix: sparse.csr_array, order: IntArray, most: int) -> sparse.coo_array:
    """The counts among the labels of `order`, in that order, summed into at most `most` x `most` cells of neighbouring labels; no count is lost."""
    n = min(most, len(order))
    cells = np.arange(len(order)) * n // len(order)
    gather = sparse.csr_array((np.ones(len(order), dtype=np.int64), (cells, order)), shape=(n, matrix.shape[0]))
    sums: sparse.coo_array = (gather @ matrix @ gather.T).tocoo()
    return sums


def matrices(counts: ConfusionCounts, groups: LabelGroups) -> list[dict[str, Any]]:
    """The matrix of all labels ordered by group, and that of each group.

    Each is {title, labels (how many), cells (along each side), order (label numbers, the first matrix alone), edges (cells at which groups end),
    data}: `data` is base64 of zlib's deflate of little-endian uint32: the cells' numbers row * cells + column, then their counts. Cell i holds
    the labels from ceil(i * labels / cells) on.
    """
    matrix, order = counts.to_scipy(), order_of(groups)
    most = MOST_CELLS
    while True:
        parts = [_packed(matrix, order, most), *(_packed(matrix, members, most) for members in groups.members)]
        if most <= 100 or sum(len(part["data"]) for part in parts) <= _MOST_BYTES:
            break
        most = most * 7 // 10
    first = groups.assignment
    ends = np.cumsum([int((first == group).sum()) for group in range(len(groups))]) * parts[0]["cells"] / len(order)
    parts[0] |= {"title": "all labels", "order": order.tolist(), "edges": ends.tolist()}
    for number, (part, name, members) in enumerate(zip(parts[1:], groups.names, groups.members, strict=True), 1):
        part |= {"title": f"{number}: {name}", "order": members.tolist(), "edges": []}
    return parts


def _packed(matrix: sparse.csr_array, order: IntArray, most: int) -> dict[str, Any]:
    cells = block_sums(matrix, order, most)
    n = cells.shape[0]
    rows, columns = cells.coords
    keys = rows.astype(np.int64) * n + columns
    place = np.argsort(keys)
    data = np.concatenate([keys[place], np.minimum(cells.data[place], 2**32 - 1)]).astype("<u4").tobytes()
    return {"labels": len(order), "cells": n, "largest": int(cells.data.max(initial=0)), "data": base64.b64encode(zlib.compress(data, 9)).decode("ascii")}


def neighbours(counts: ConfusionCounts, number: int = _NEIGHBOURS) -> dict[str, list[int]]:
    """For each label the others it is mixed up with most: {first (where each label's begin), label, detected_for_it (the other detected where it was
    annotated), it_for_them (it detected where the other was annotated)}."""
    matrix = counts.to_scipy()
    forward, backward = matrix.tocsc(), matrix.tocsr()  # columns: what was detected where the label is annotated
    result: dict[str, list[int]] = {"first": [0], "label": [], "detected_for_it": [], "it_for_them": []}
    for label in range(counts.n_labels):
        detected = forward.indices[forward.indptr[label] : forward.indptr[label + 1]], forward.data[forward.indptr[label] : forward.indptr[label + 1]]
        annotated = backward.indices[backward.indptr[label] : backward.indptr[label + 1]], backward.data[backward.indptr[label] : backward.indptr[label + 1]]
        others = np.union1d(detected[0], annotated[0]).astype(np.int64)
        for_it, for_them = (_at(others, *pair) for pair in (detected, annotated))
        total = np.where(others == label, -1, for_it + for_them)
        best = np.lexsort((others, -total))[:number]
        best = best[total[best] > 0]
        for name, values in (("label", others), ("detected_for_it", for_it), ("it_for_them", for_them)):
            result[name].extend(values[best].tolist())
        result["first"].append(len(result["label"]))
    return result


def labels_of(
    names: Sequence[str], groups: LabelGroups, per_label: Mapping[str, npt.NDArray[np.float64]], method: str, evaluation: Mapping[str, Any]
) -> dict[str, Any]:
    """Columns over labels: name, group, average precision before and after, examples annotated in test and training data."""
    none = [None] * len(names)
    rows = evaluation.get("labels") or []
    return {
        "name": list(names), "group": groups.assignment.tolist(), "before": per_label["base"].tolist() if "base" in per_label else none,
        "after": per_label[method].tolist() if method in per_label else none, "test": [row["positives"] for row in rows] or none,
        "training": evaluation.get("training_positives") or none,
    }  # fmt: skip


def _at(others: IntArray, indices: npt.NDArray[Any], values: npt.NDArray[Any]) -> IntArray:
    found = np.zeros(len(others), dtype=np.int64)
    found[np.searchsorted(others, indices)] = values
    return found
