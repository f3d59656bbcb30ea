"""Every result as a pandas frame and as a table in a notebook, whatever its labels are called."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.data.labels import LabelSpace
from selfinformed.evidence.comparing import compare
from selfinformed.evidence.evaluation import evaluate
from selfinformed.network.wrap import wrap
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.stability import Stability
from selfinformed.training.fitting import fit
from selfinformed.training.headroom import probe
from selfinformed.training.searching import search
from selfinformed.training.spaces import Space

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "a & b</td>", "漢字\n\x1b[31m")
NAMES = LabelSpace([*HOSTILE, *(f"label {i}" for i in range(len(HOSTILE), 36))])


@pytest.fixture(scope="module")
def results(problem: Problem, counts: ConfusionCounts) -> SimpleNamespace:
    """Each result of one network whose labels have hostile names."""
    net = wrap(problem.net.model, problem.net.example_inputs, labels=NAMES)
    groups, plan = problem.groups.renamed(NAMES), replace(problem.plan(), groups=problem.groups.renamed(NAMES))
    train, holdout, test = (problem.store(split) for split in ("train", "holdout", "test"))
    aug = augment(net, plan)
    history = fit(aug, train, holdout=holdout, epochs=2)
    return SimpleNamespace(
        net=net, groups=groups, plan=plan, counts=counts, history=history, stability=Stability(6, 0.5, (0.6, 0.7)),
        evaluation=evaluate(aug, test), headroom=probe(net, train, holdout, groups=groups, width=16, epochs=0.5),
        comparison=compare(net, plan, train, test, holdout=holdout, seeds=2, epochs=0.5, arms=["base", "confusions", "random"]),
        search=search(net, train, holdout, budget=0.2, candidates=3, rounds=1, epochs=0.3, counts={"confusions": counts},
                      space=Space(grouping=("confusions",), n_groups=(3,))),
    )  # fmt: skip


def test_frames_hold_the_results(results: SimpleNamespace) -> None:
    pytest.importorskip("pandas", reason="needs the extra pandas")
    comparison = results.comparison
    by_seed = comparison.to_frame()
    assert len(by_seed) == 3 * 2
    np.testing.assert_array_equal(by_seed[by_seed.arm == "random"].mean_average_precision, comparison.values("random"))
    summary = comparison.summary_frame().set_index("arm")
    assert list(summary.index) == comparison.arms
    assert summary.loc["random", "method_over_it_low"] == comparison.difference("confusions", "random")["low"]
    by_label = results.evaluation.to_frame()
    assert list(by_label.label) == list(NAMES.names)
    assert by_label.average_precision.mean() == pytest.approx(results.evaluation.ranking.mean_average_precision)
    gains = results.headroom.to_frame()
    np.testing.assert_allclose(gains.gain, gains.dense - gains.base)
    assert list(gains.columns) == ["label", "base", "classifier", "dense", "gain"]
    trials = results.search.to_frame()
    assert list(trials.mean_average_precision) == [row["mean_average_precision"] for row in results.search.trials]
    assert {"grouping", "n_groups", "rate"} <= {*trials.columns}
    assert list(results.history.to_frame().loss) == [row["loss"] for row in results.history.rows]
    assert results.stability.to_frame().to_dict("list") == {"sample": ["halves", "bootstrap 1", "bootstrap 2"], "adjusted_rand_index": [0.5, 0.6, 0.7]}


def test_frames_of_groups_and_counts_name_labels(results: SimpleNamespace) -> None:
    pytest.importorskip("pandas", reason="needs the extra pandas")
    cover = LabelGroups(4, ([2, 0], [0]), ("x", "y")).to_frame(LabelSpace(list("abcd")))
    assert list(cover.itertuples(index=False, name=None)) == [
        (2, "c", 0, "x"), (0, "a", 0, "x"), (0, "a", 1, "y"), (1, "b", -1, ""), (3, "d", -1, ""),
    ]  # fmt: skip
    assert list(LabelGroups(4, ()).to_frame().columns) == ["label", "group", "group_name"]
    pairs = results.counts.to_frame(5, NAMES)
    matrix = results.counts.to_scipy().toarray()
    np.fill_diagonal(matrix, 0)
    assert pairs.examples[0] == matrix.max()
    assert list(pairs.columns) == ["detected", "annotated", "examples"]
    assert {*pairs.detected} <= {*NAMES.names}


class Tags(HTMLParser):
    """Fails where a tag is not of a table, or not closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("p", "table", "thead", "tbody", "tr", "th", "td")
        assert all(name == "style" for name, _ in attrs)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["net", "groups", "plan", "counts", "evaluation", "headroom", "comparison", "search"])
def test_a_notebook_shows_small_escaped_tables(results: SimpleNamespace, name: str) -> None:
    text = getattr(results, name)._repr_html_()
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert not tags.open
    assert 2 <= text.count("<tr>") <= 31
    assert len(text) < 20_000
    assert "\x1b" not in text
    if name in ("groups", "plan", "evaluation"):
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not re.search(r">nan<|>None<", text)
