"""A script may make another device PyTorch's default: what the library keeps beside the network's tensors stays where it is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import selfinformed as si
from conftest import Problem


@pytest.mark.filterwarnings("ignore")
def test_the_whole_method_runs_whatever_the_default_device(problem: Problem, tmp_path) -> None:
    """On `meta`, where tensors have no values, one that was made without a device cannot be computed with."""
    net, inputs = problem.net, problem.train.read(range(300))
    model, labels, targets = net.model, net.labels, problem.train.targets.take(np.arange(300))
    teacher = torch.randn(300, 36)
    with torch.device("meta"):
        train, holdout = si.open_dataset((inputs, targets), labels), si.open_dataset((inputs[:200], targets.take(np.arange(200))), labels)
        net = si.wrap(model, inputs[:4], labels=labels, output="softmax", attach=["trunk.2", "trunk"], reduce="flatten")
        counts = si.measure(net, holdout)
        si.measure(net, holdout, kind="codetections")
        plan = si.plan(net, si.cluster(counts, n_groups=3, seed=0), hidden=(6, 5))
        si.probe(net, train, holdout, width=8)
        aug = si.augment(net, plan)
        recipe = {"patience": 1, "balanced_sampling": 0.5, "soft_targets": 0.2, "class_weights": 0.9, "residual": 0.5, "ema": 0.5, "logit_adjustment": 0.5}
        si.fit(aug, train, epochs=1, holdout=holdout, recipe=recipe, teacher=teacher, checkpoint=tmp_path / "state.safetensors")
        si.fit(aug, si.FeatureStore.build(net, train, folder=tmp_path / "features", batch_size=50), epochs=0.5, head_input="standardised")
        si.evaluate(aug, holdout)
        with aug.conditional(1, share=0.5, chance=1):
            si.fit(aug, train, epochs=0.5)
        with aug.conditional(1):
            si.evaluate(aug, holdout)
        si.fit(si.augment(net, plan, classifier="reinitialise"), train, epochs=0.5, finetune=True)
        aug.save_pretrained(tmp_path / "saved")
        loaded = si.load(tmp_path / "saved", net)
        assert torch.equal(loaded.logits(inputs), aug.logits(inputs))
        si.compare(net, plan, train, holdout, seeds=1, epochs=0.5)
    assert {p.device.type for p in aug.parameters()} == {"cpu"}
