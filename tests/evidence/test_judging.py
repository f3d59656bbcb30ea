"""What evaluation.json says of two networks."""

from __future__ import annotations

import torch

from conftest import Problem
from selfinformed.augmented.network import augment
from selfinformed.evidence import judging as module
from selfinformed.evidence.judging import judge
from selfinformed.evidence.mistakes import mistakes


def test_the_pairs_are_those_of_both_networks_alike(problem: Problem, monkeypatch) -> None:
    """Chosen by one network's mistakes, any other would look better on them."""
    monkeypatch.setattr(module, "_PAIRS", 5)
    aug = augment(problem.net, problem.plan(), seed=3)
    with torch.no_grad():
        aug.classifier.weight[0] += 1.0  # its mistakes are others than the base's
    found = judge(aug, problem.store("test"))
    were, are = (mistakes(network, problem.store("test"))[0].pairs() for network in (problem.net, aug))
    assert found["n_mistakes"] == {"base": were.total(), "augmented": are.total()}
    names = problem.net.labels.names
    shown = [were[pair] + are[pair] for row in found["mistakes"] if (pair := (names.index(row["taken"]), names.index(row["annotated"])))]
    assert shown == sorted((were + are).values(), reverse=True)[:5]
    assert all(row["base"] == were[names.index(row["taken"]), names.index(row["annotated"])] for row in found["mistakes"])
