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
MOST_LABELS = 50_000  # that the page can be asked about
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


def explored(counts: ConfusionCounts) -> IntArray:
    """The labels that the page can be asked about, in their order: all, or of very many those counted most often."""
    if counts.n_labels <= MOST_LABELS:
        return np.arange(counts.n_labels)
    matrix = counts.to_scipy()
    often = matrix.sum(axis=0) + matrix.sum(axis=1)
    return np.sort(np.argsort(-often, kind="stable")[:MOST_LABELS])


def matrices(counts: ConfusionCounts, groups: LabelGroups, position: IntArray) -> list[dict[str, Any]]:
    """The matrix of all labels ordered by group, and that of each group.

    Each is {title, labels (how many), cells (along each side), order, edges (cells at which groups end), data}: `data` is base64 of zlib's
    deflate of little-endian uint32: the cells' numbers row * cells + column, then their counts. Cell i holds the labels from
    ceil(i * labels / cells) on; `order` holds their positions on the page, -1 where they have none, or a single number: where the order of
    the first matrix has these labels.
    """
    matrix, order = counts.to_scipy(), order_of(groups)
    most = MOST_CELLS
    while True:
        parts = [_packed(matrix, order, most), *(_packed(matrix, members, most) for members in groups.members)]
        if most <= 100 or sum(len(part["data"]) for part in parts) <= _MOST_BYTES:
            break
        most = most * 7 // 10
    first = groups.assignment
    sizes = [int((first == group).sum()) for group in range(len(groups))]
    ends = np.cumsum(sizes)
    parts[0] |= {"title": "all labels", "order": position[order].tolist(), "edges": (ends * parts[0]["cells"] / len(order)).tolist()}
    for number, (part, members) in enumerate(zip(parts[1:], groups.members, strict=True)):
        whole = sizes[number] == len(members)
        part |= {
            "title": f"{number + 1}: {groups.names[number]}", "order": int(ends[number]) - len(members) if whole else position[members].tolist(), "edges": [],
        }  # fmt: skip
    return parts


def _packed(matrix: sparse.csr_array, order: IntArray, most: int) -> dict[str, Any]:
    cells = block_sums(matrix, order, most)
    n = cells.shape[0]
    rows, columns = cells.coords
    keys = rows.astype(np.int64) * n + columns
    place = np.argsort(keys)
    data = np.concatenate([keys[place], np.minimum(cells.data[place], 2**32 - 1)]).astype("<u4").tobytes()
    return {"labels": len(order), "cells": n, "largest": int(cells.data.max(initial=0)), "data": base64.b64encode(zlib.compress(data, 9)).decode("ascii")}


def neighbours(counts: ConfusionCounts, shown: IntArray, number: int = _NEIGHBOURS) -> dict[str, list[int]]:
    """For each label shown the others shown that it is mixed up with most: {first (where each label's begin), label (its position among those
    shown), detected_for_it (the other detected where it was annotated), it_for_them (it detected where the other was annotated)}."""
    matrix = counts.to_scipy()[shown][:, shown]
    forward, backward = matrix.tocsc(), matrix.tocsr()  # columns: what was detected where the label is annotated
    result: dict[str, list[int]] = {"first": [0], "label": [], "detected_for_it": [], "it_for_them": []}
    for label in range(len(shown)):
        detected, annotated = ((of.indices[a:b], of.data[a:b]) for of in (forward, backward) for a, b in [of.indptr[label : label + 2]])
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
    names: Sequence[str], groups: LabelGroups, per_label: Mapping[str, npt.NDArray[np.float64]], method: str, evaluation: Mapping[str, Any], shown: IntArray
) -> dict[str, Any]:
    """Columns over the labels shown: name, (first) group, average precision before and after, examples annotated in test and training data; and
    `several`: for the places of those in more than one group, all their groups."""
    of: list[list[int]] = [[] for _ in names]
    for group, members in enumerate(groups.members):
        for label in members.tolist():
            of[label].append(group)
    unknown = np.full(len(names), np.nan)
    rows = evaluation.get("labels") or []
    counted = {"test": [row["positives"] for row in rows], "training": evaluation.get("training_positives") or []}
    return {
        "name": [names[i] for i in shown], "group": groups.assignment[shown].tolist(),
        "several": {place: of[label] for place, label in enumerate(shown) if len(of[label]) > 1},
        "before": per_label.get("base", unknown)[shown].tolist(), "after": per_label.get(method, unknown)[shown].tolist(),
        **{name: np.asarray(values)[shown].tolist() if len(values) else [None] * len(shown) for name, values in counted.items()},
    }  # fmt: skip


def mistakes_of(kept: Mapping[str, Sequence[Any]], position: IntArray) -> dict[str, list[Any]]:
    """Confident mistakes among the labels shown: columns {example, name, taken, annotated, confidence}, labels by their positions."""
    columns = {name: np.asarray(kept[name]) for name in ("example", "taken", "annotated", "confidence")}
    places = {name: position[columns[name].astype(np.int64)] for name in ("taken", "annotated")}
    rows = np.flatnonzero((places["taken"] >= 0) & (places["annotated"] >= 0))
    found = {name: values[rows].tolist() for name, values in (columns | places).items()}
    return found | {"name": [kept["name"][i] for i in rows.tolist()]}


def _at(others: IntArray, indices: npt.NDArray[Any], values: npt.NDArray[Any]) -> IntArray:
    found = np.zeros(len(others), dtype=np.int64)
    found[np.searchsorted(others, indices)] = values
    return found
