"""Which structures a search tries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.training.choices import Choice
from selfinformed.training.spaces import Space


def test_candidates_are_different_and_hold_the_controls_and_the_paper() -> None:
    drawn = Space().candidates(60, 0)
    assert len(set(map(str, drawn))) == len(drawn) == 60
    assert 10 < sum(choice.is_dense for choice in drawn) <= 20  # a third, so that the rest of the space is seen too
    assert {Choice("dense"), Choice("confusions", 3)} <= set(drawn)
    assert len({choice.grouping for choice in drawn}) > 5
    assert drawn == Space().candidates(60, 0)
    assert drawn != Space().candidates(60, 1)
    assert {choice.residual for choice in drawn if choice.share == 1} == {1.0, 0.25, 0.0}
    assert {Choice("confusions", 48, depth=0, top_groups=8, rate=0.5, residual=q) for q in (1.0, 0.25, 0.0)} <= set(Space().anchors())
    small = Space(grouping=("confusions",), n_groups=(3, 6), detections=(None,), cover_share=(None,), dense_share=(0.0,), depth=(1,), shared=(0,))
    assert len(replace(small, capacity=("uniform",), share=(1.0,), top_groups=(None, 1), residual=(1.0,)).candidates(1000, 0)) < 60  # no more


@pytest.mark.parametrize("seed", range(5))
def test_what_won_before_is_always_tried(seed: int) -> None:
    drawn = set(Space().candidates(64, seed))
    for residual in (1.0, 0.25, 0.0):
        assert Choice("dense", rate=0.5, residual=residual) in drawn
        assert Choice("confusions", 48, depth=0, top_groups=8, rate=0.5, residual=residual) in drawn
    assert len(Space().candidates(4, seed)) == 4
    assert Space(grouping=("dense",), depth=(1,), shared=(0,), rate=(1.0,), residual=(1.0,)).candidates(9, seed)[0] == Choice("dense")


def test_there_must_be_something_to_try() -> None:
    with pytest.raises(SelfInformedError, match="a list of values for n_groups, at least one"):
        Space(n_groups=())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grouping", "k-means"), ("n_groups", 2.5), ("detections", 0), ("cover_share", 2), ("dense_share", 1.0), ("depth", -1), ("capacity", "width"),
        ("top_groups", -1), ("share", 0), ("share", 2.0), ("share", "0.5"), ("attach", 3), ("kernel", 0), ("copy", 1), ("shared", -1), ("linear", None),
        ("rate", 0), ("rate", float("nan")), ("residual", 2), ("head_input", "scaled"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(name, value) -> None:
    with pytest.raises(SelfInformedError, match=f"^{name}: expected .*; got {value!r}|^attach: expected a module's name, got int"):
        Space(**{name: (value,)})
    with pytest.raises(SelfInformedError, match=f"the space needs a list of values for {name}"):
        Space(**{name: "dense"})
