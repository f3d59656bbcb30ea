"""Matrices of counts that nobody would wish for give groups that hold what groups have to hold, or an error in words."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import pytest
from degenerate import MATRICES, counts_of, numbers_of_groups, outcome

from selfinformed.structure import clustering
from selfinformed.structure.groupings import Method

METHODS = get_args(Method)


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_group_labels_copes_with_every_matrix(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "threadpool_limits", lambda *_: contextlib.nullcontext())  # which takes longer than grouping a few labels
    assert len(MATRICES) >= 200
    failed = []
    for i, name in enumerate(MATRICES):
        counts = counts_of(name, "codetections" if method == "hinton" or i % 2 else "confusions")
        numbers = numbers_of_groups(counts)
        n_groups = numbers[i // 2 % len(numbers)]
        try:
            outcome(counts, n_groups, method)
        except Exception as error:
            failed.append(f"{name}, {counts.kind}, n_groups {n_groups}: {type(error).__name__}: {error}")
    assert not failed, "\n".join(failed)
