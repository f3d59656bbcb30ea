"""Surgery leaves the model alone and starts from the base, bit for bit."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from conftest import Problem, refused
from devices import SecondDevice, Spread, there
from selfinformed.augmented.network import AugmentedClassifier, augment
from selfinformed.augmented.readers import InputTransform
from selfinformed.augmented.saved import load
from selfinformed.data.opening import open_dataset
from selfinformed.evidence.evaluation import evaluate
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import WrappedClassifier, wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.planning import plan
from selfinformed.training.features import FeatureStore, rank
from selfinformed.training.fitting import fit, fit_whole


def moved(aug):
    """The network with every new weight changed."""
    with torch.no_grad():
        for parameter in aug.new_parameters():
            parameter.add_(torch.randn_like(parameter))
    return aug


def test_before_training_the_augmented_network_is_the_base(either: Problem):
    aug, inputs = augment(either.net, either.plan((5, 3))), either.test.read(range(64))
    assert torch.equal(aug(inputs), either.net.logits(inputs))


@pytest.mark.parametrize("attach", ["trunk", "stack", None])
def test_heads_read_any_module(problem: Problem, attach):
    net = wrap(problem.net.model, problem.net.example_inputs, attach=attach)
    aug, inputs = augment(net, plan(net, problem.groups, hidden=(4,))), problem.test.read(range(8))
    assert torch.equal(aug(inputs), net.logits(inputs))
    features = moved(aug).net.features(inputs)
    torch.testing.assert_close(aug(inputs), aug.from_features(features.attached, features.penultimate))


def test_the_model_is_left_alone(problem: Problem):
    model = copy.deepcopy(problem.net.model)
    model.train()
    model.stack.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    net = wrap(model, problem.net.example_inputs)
    aug = moved(augment(net, plan(net, problem.groups, hidden=(4,))))
    aug(problem.test.read(range(4)))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_disabling_the_heads_gives_the_base_even_after_training(problem: Problem):
    aug, inputs = moved(augment(problem.net, problem.plan())), problem.test.read(range(16))
    assert not torch.equal(aug(inputs), problem.net.logits(inputs))
    with aug.heads_disabled() as base:
        assert torch.equal(base(inputs), problem.net.logits(inputs))
    assert not torch.equal(aug(inputs), problem.net.logits(inputs))


def test_a_copy_of_the_network_is_its_own(problem: Problem):
    aug, inputs = moved(augment(problem.net, problem.plan())), problem.test.read(range(16))
    twin, before = copy.deepcopy(aug), aug(inputs)
    assert torch.equal(twin(inputs), before)
    moved(twin)
    assert torch.equal(aug(inputs), before)
    assert not torch.equal(twin(inputs), before)


def test_reinitialise_starts_from_another_classifier(problem: Problem):
    aug = augment(problem.net, problem.plan(), classifier="reinitialise", seed=1)
    assert not torch.equal(aug.classifier.weight, problem.net.classifier.weight)
    with pytest.raises(SelfInformedError, match="classifier: expected one of keep, reinitialise"):
        augment(problem.net, problem.plan(), classifier="drop")


def test_no_heads_means_the_classifier_alone(problem: Problem):
    aug = augment(problem.net, plan(problem.net, LabelGroups(problem.net.n_labels, ()), hidden=(1,)))
    assert aug.heads is None
    assert sum(p.numel() for p in aug.new_parameters()) == sum(p.numel() for p in problem.net.classifier.parameters())


@pytest.mark.parametrize("kind", ["partition", "ungrouped", "ordered"])
def test_group_order_is_a_permutation_of_the_same_logits(problem: Problem, kind):
    n = problem.net.n_labels
    order = np.arange(n) if kind == "ordered" else np.random.default_rng(0).permutation(n)
    groups = LabelGroups(n, (order[: n // 3], order[n // 3 : n - (kind == "ungrouped") * 4]))
    aug = moved(augment(problem.net, plan(problem.net, groups, hidden=(4,))))
    features = problem.net.features(problem.test.read(range(8)))
    logits = aug.from_features(features.attached, features.penultimate)
    if kind == "ordered":
        assert aug.group_order is None
    else:
        permuted = aug.by_group(features.attached, features.penultimate, aug.group_order)
        torch.testing.assert_close(permuted, logits[:, aug.group_order])


def test_covers_have_no_group_order(problem: Problem):
    n = problem.net.n_labels
    cover = LabelGroups(n, (np.arange(n), np.arange(3)))
    assert augment(problem.net, plan(problem.net, cover, hidden=(4,))).group_order is None


def test_a_plan_for_another_network_is_refused(problem: Problem):
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 7))
    net = wrap(other, problem.net.example_inputs)
    with pytest.raises(SelfInformedError, match="plan: made for"):
        augment(net, problem.plan())


# The same promises over a zoo of networks and attach points.

N_LABELS = 9
PARTITION = LabelGroups(N_LABELS, ([0, 4, 2], [1, 3], [8, 5]))  # 6 and 7 are in no head
COVER = LabelGroups(N_LABELS, ([0, 4, 2], [4, 2, 3], [1, 2, 3, 4]))


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(36, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, N_LABELS),
    )  # fmt: skip


class NoStack(nn.Module):
    """Like many residual networks: pooled features straight into the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU())
        self.fc = nn.Linear(6, N_LABELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class Keywords(nn.Module):
    """Called with keyword arguments, and gives a mapping, as text models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.dense = nn.Linear(8, 8)
        self.out = nn.Linear(8, N_LABELS)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        pooled = (self.embed(tokens) * mask[..., None]).mean(1)
        return {"logits": self.out(torch.tanh(self.dense(pooled)))}


def images(n: int = 5) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8)


def tokens(n: int = 5) -> dict[str, torch.Tensor]:
    return {"tokens": torch.randint(0, 20, (n, 4)), "mask": torch.ones(n, 4)}


ZOO: dict[str, Any] = {
    "convnet": (convnet, images, {}),
    "no stack": (NoStack, images, {}),
    "keywords": (Keywords, tokens, {}),
    "attached by name": (convnet, images, {"attach": "3"}),
    "attached by name, mean": (convnet, images, {"attach": "2", "reduce": "mean"}),
    "attached to an input": (convnet, images, {"attach": AttachPoint("3", "input", "mean")}),
    "attached to the classifier's input": (convnet, images, {"attach": AttachPoint("8", "input")}),
    "attached to a block": (NoStack, images, {"attach": AttachPoint("body", "output", "mean")}),
}


def wrapped(name: str) -> tuple[WrappedClassifier, Any]:
    make, inputs, options = ZOO[name]
    torch.manual_seed(0)
    return wrap(make().eval(), inputs(2), **options), inputs()


every_network = pytest.mark.parametrize("name", ZOO)
every_cover = pytest.mark.parametrize("groups", [PARTITION, COVER], ids=["partition", "cover"])


@every_network
@every_cover
def test_before_training_it_is_the_base_bit_for_bit(name, groups):
    net, inputs = wrapped(name)
    aug = augment(net, plan(net, groups, hidden=(6, 4)))
    assert torch.equal(aug.logits(inputs), net.logits(inputs))


@every_network
def test_with_the_heads_disabled_it_is_the_base_whatever_was_trained(name):
    net, inputs = wrapped(name)
    aug = moved(augment(net, plan(net, PARTITION, hidden=(6,))))
    trained = aug.logits(inputs)
    assert not torch.allclose(trained, net.logits(inputs))
    with aug.heads_disabled() as base:
        assert torch.equal(base.logits(inputs), net.logits(inputs))
        with aug.heads_disabled():
            pass
        assert torch.equal(base.logits(inputs), net.logits(inputs))
    assert torch.equal(aug.logits(inputs), trained)


def test_heads_come_back_after_an_error():
    net, inputs = wrapped("convnet")
    aug = moved(augment(net, plan(net, PARTITION, hidden=(6,))))
    trained = aug.logits(inputs)
    with pytest.raises(ZeroDivisionError), aug.heads_disabled():
        raise ZeroDivisionError
    assert torch.equal(aug.logits(inputs), trained)


@every_network
@every_cover
def test_a_head_moves_only_its_groups_outputs(name, groups):
    net, inputs = wrapped(name)
    for head, members in enumerate(groups.members):
        aug = augment(net, plan(net, groups, hidden=(16,)))
        assert aug.heads is not None
        aug.heads.outputs.set_block(head, torch.ones(len(members), 16))
        changed = (aug.logits(inputs) != net.logits(inputs)).any(dim=0)
        assert set(np.flatnonzero(changed)) == set(members.tolist())


def test_labels_in_no_head_are_moved_by_the_classifier_only():
    net, inputs = wrapped("convnet")
    aug = augment(net, plan(net, PARTITION, hidden=(6,)))
    assert aug.heads is not None
    with torch.no_grad():
        for parameter in aug.heads.parameters():
            parameter.normal_()
    assert torch.equal(aug.logits(inputs)[:, PARTITION.ungrouped], net.logits(inputs)[:, PARTITION.ungrouped])


@every_network
def test_logits_are_base_plus_heads(name):
    net, inputs = wrapped(name)
    aug = moved(augment(net, plan(net, COVER, hidden=(6,))))
    features = net.features(inputs)
    assert aug.heads is not None
    torch.testing.assert_close(aug.logits(inputs), aug.classifier(features.penultimate) + aug.heads(features.attached))
    assert torch.equal(aug.from_features(features.attached, features.penultimate), aug(inputs))


def photograph(model: nn.Module) -> tuple[Any, ...]:
    """All that could change in a model: modules, modes, hooks, values, and what asks for gradients."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return (
        [(name, type(module), module.training, [len(getattr(module, h)) for h in hooks]) for name, module in model.named_modules()],
        [(name, value.tolist()) for name, value in model.state_dict().items()],
        [(name, id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()],
    )


@every_network
@pytest.mark.parametrize("training", [True, False])
def test_the_given_model_is_never_changed(name, training):
    make, inputs, options = ZOO[name]
    model = make().train(training)
    next(model.children()).train(not training)
    before = photograph(model)
    net = wrap(model, inputs(), **options)
    aug = moved(augment(net, plan(net, COVER, hidden=(6,))))
    aug.train()
    aug(inputs()).sum().backward()
    aug.logits(inputs())
    with torch.no_grad():
        for parameter in aug.parameters():
            parameter.zero_()
    assert photograph(model) == before


def test_only_heads_and_classifier_ask_for_gradients():
    net, _ = wrapped("convnet")
    aug = augment(net, plan(net, PARTITION, hidden=(6, 4)))
    new = {id(p) for p in aug.new_parameters()}
    assert {id(p) for p in aug.parameters() if p.requires_grad} == new
    assert aug.heads is not None
    assert len(new) == 2 + len(list(aug.heads.parameters()))
    all_but_kept = {name for name, p in aug.named_parameters() if id(p) in {id(q) for q in aug.all_parameters()}}
    assert {name for name, _ in aug.named_parameters()} - all_but_kept == {"base.8.original.weight", "base.8.original.bias"}


def test_a_step_of_training_reaches_every_new_weight():
    net, inputs = wrapped("convnet")
    aug = moved(augment(net, plan(net, COVER, hidden=(16, 16))))
    aug(inputs).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in aug.new_parameters())
    assert all(p.grad is None for p in aug.parameters() if not p.requires_grad)


@every_network
def test_folding_the_input_transform_keeps_the_logits(name):
    net, inputs = wrapped(name)
    aug = moved(augment(net, plan(net, COVER, hidden=(6,))))
    assert aug.heads is not None
    size = net.feature_size
    transform = InputTransform(net.shapes, (torch.randn(size),), (torch.randn(size, size) / size**0.5 + torch.eye(size),))
    features = net.features(inputs)
    expected = aug.from_features(transform(features.attached), features.penultimate)
    aug.heads.fold(transform)
    torch.testing.assert_close(aug.logits(inputs), expected, rtol=1e-4, atol=1e-4)


@every_network
def test_a_deep_copy_is_a_network_of_its_own(name):
    net, inputs = wrapped(name)
    aug = moved(augment(net, plan(net, PARTITION, hidden=(6,))))
    expected = aug.logits(inputs)
    twin = copy.deepcopy(aug)
    assert torch.equal(twin.logits(inputs), expected)
    moved(twin)
    assert not torch.allclose(twin.logits(inputs), expected)
    assert torch.equal(aug.logits(inputs), expected)
    with twin.heads_disabled():
        assert torch.equal(twin.logits(inputs), net.logits(inputs))
        assert torch.equal(aug.logits(inputs), expected)


def test_copied_with_its_state():
    net, inputs = wrapped("convnet")
    aug, other = (augment(net, plan(net, PARTITION, hidden=(6,)), seed=seed) for seed in (0, 1))
    other.load_state_dict(moved(aug).state_dict())
    assert torch.equal(other.logits(inputs), aug.logits(inputs))


def test_seeds_and_the_surrounding_random_state():
    net, _ = wrapped("convnet")
    made = plan(net, PARTITION, hidden=(6,))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first, again, other = (augment(net, made, classifier="reinitialise", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(4), expected)
    same = [torch.equal(a, b) for a, b in zip(first.new_parameters(), again.new_parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_the_papers_classifier_starts_anew_and_the_base_is_still_there():
    net, inputs = wrapped("convnet")
    aug = augment(net, plan(net, PARTITION, hidden=(6,)), classifier="reinitialise")
    assert not torch.allclose(aug.classifier.weight, net.classifier.weight)
    assert aug.heads is not None
    assert all(w.abs().sum() > 0 for n, w in aug.heads.to_weights().items() if n.startswith("outputs"))
    with aug.heads_disabled():
        assert torch.equal(aug.logits(inputs), net.logits(inputs))


def test_half_precision_networks():
    torch.manual_seed(0)
    net = wrap(NoStack().bfloat16().eval(), images().bfloat16())
    aug = augment(net, plan(net, COVER, hidden=(6,)))
    assert {p.dtype for p in aug.parameters()} == {torch.bfloat16}
    assert torch.equal(aug.logits(images(3).bfloat16() * 0), net.logits(images(3).bfloat16() * 0))


def test_logits_restores_the_mode():
    net, inputs = wrapped("convnet")
    aug = augment(net, plan(net, PARTITION, hidden=(6,)))
    assert not aug.training
    aug.train()
    before = [module.training for module in aug.modules()]
    assert torch.equal(aug.logits(inputs), net.logits(inputs))
    assert [module.training for module in aug.modules()] == before
    assert any(before)


class Named(nn.Module):
    """Takes two tensors, of which the second may be named."""

    def __init__(self) -> None:
        super().__init__()
        self.stack, self.classifier = nn.Linear(5, 4), nn.Linear(4, 6)

    def forward(self, numbers: torch.Tensor | None, kind: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        numbers = torch.zeros(len(kind), 3) if numbers is None else numbers
        return self.classifier(scale * self.stack(torch.cat([numbers, kind], 1)))


def test_it_is_called_as_its_base_is() -> None:
    model, numbers, kind = Named(), torch.randn(3, 3), torch.randn(3, 2)
    net = wrap(model, {"numbers": numbers, "kind": kind})
    aug = augment(net, plan(net, LabelGroups.everything(6), hidden=(2,)))
    expected = model(numbers, kind)
    for logits in (aug({"numbers": numbers, "kind": kind}), aug(numbers=numbers, kind=kind), aug(numbers, kind), aug(numbers, kind=kind)):
        assert torch.equal(logits, expected)
    for given in ((None, kind), (None, kind, 2.0), (numbers, kind, 2.0)):
        assert torch.equal(aug(*given), model(*given))


class Elsewhere(nn.Module):
    """A network whose forward finds its classifier in some other way than by the one name."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.trunk, self.classifier, self.how = nn.Linear(6, 8), nn.Linear(8, 5), how
        classifier = self.classifier
        if how == "another name":
            self.head = classifier
        self.listed, self.function = [classifier], lambda x: classifier(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.trunk(x).relu()
        if self.how == "another name":
            return self.head(x)
        if self.how == "weight":
            return self.classifier(x) + 0 * self.classifier.weight.sum()
        return self.listed[0](x) if self.how == "list" else self.function(x)


@pytest.mark.parametrize("how", ["list", "function", "weight"])
def test_a_classifier_that_cannot_be_replaced_is_refused(how: str) -> None:
    net = wrap(Elsewhere(how), torch.randn(2, 6))
    with refused("classifier: nothing can stand in the place of 'classifier'", r"write self\.classifier\(\.\.\.\) there"):
        augment(net, plan(net, LabelGroups(5, (range(3),)), hidden=(2,)))


def test_a_classifier_of_two_names_is_replaced_under_both() -> None:
    net = wrap(Elsewhere("another name"), torch.randn(2, 6))
    aug = augment(net, plan(net, LabelGroups(5, (range(3),)), hidden=(2,)), classifier="reinitialise")
    x = torch.randn(4, 6)
    features = net.features(x)
    assert not torch.equal(aug(x), net.logits(x))
    torch.testing.assert_close(aug(x), aug.from_features(features.attached, features.penultimate))


def test_in_training_mode_the_base_stays_as_it_is(problem: Problem) -> None:
    aug, inputs = augment(problem.net, problem.plan()), problem.test.read(range(32))
    aug.train()
    assert aug.heads.training
    assert torch.equal(aug(inputs), problem.net.logits(inputs))
    optimizer = torch.optim.SGD(aug.new_parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        aug(inputs).square().mean().backward()
        optimizer.step()
    with aug.heads_disabled():
        assert torch.equal(aug(inputs), problem.net.logits(inputs))
    for parameter in aug.all_parameters():
        parameter.requires_grad_(True)
    aug.train()
    assert aug.base.trunk[1].training
    assert not aug.eval().base.trunk[1].training


def test_without_heads_a_network_that_was_trained_on_is_not_the_base(problem: Problem) -> None:
    aug = augment(problem.net, problem.plan())
    fit_whole(aug, problem.train.take(range(100)), epochs=1)
    with refused("heads_disabled: the whole network was trained on", r"aug\.net"), aug.heads_disabled():
        pass


def test_what_is_no_network_or_plan_is_refused(problem: Problem) -> None:
    with refused("plan: expected what plan gave, got LabelGroups"):
        augment(problem.net, problem.groups)
    with refused("network: expected what wrap gave, got SmallNet"):
        augment(problem.net.model, problem.plan())
    with refused("top_groups: expected a whole number of at least 0; got 1.5"), augment(problem.net, problem.plan()).conditional(1.5):
        pass


def with_norm(problem: Problem, how: str) -> WrappedClassifier:
    """The problem's network with a classifier whose weight is made of other tensors."""
    model = copy.deepcopy(problem.net.model)
    if how == "mask":
        prune.random_unstructured(model.classifier, "weight", 0.3)
    else:
        (nn.utils.weight_norm if how == "old" else nn.utils.parametrizations.weight_norm)(model.classifier)
    return wrap(model, problem.test.example_inputs(), labels=problem.net.labels, output=problem.net.output)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("how", ["old", "new", "mask"])
@pytest.mark.parametrize("residual", [1.0, 0.0])
def test_a_classifier_whose_weight_is_made_of_others_trains_as_a_plain_one_with_that_weight(problem: Problem, how: str, residual: float) -> None:
    net, inputs = with_norm(problem, how), problem.test.read(range(50))
    model = copy.deepcopy(problem.net.model)
    model.classifier.load_state_dict({"weight": net.classifier.weight.detach(), "bias": net.classifier.bias.detach()})
    plain = wrap(model, problem.test.example_inputs(), labels=problem.net.labels, output=problem.net.output)
    trained = []
    for one in (net, plain):
        aug = augment(one, plan(one, problem.groups, hidden=(6,)))
        assert torch.equal(aug.logits(inputs), one.logits(inputs))
        fit(aug, FeatureStore.build(one, problem.train.take(range(300))), recipe={"residual": residual})
        trained.append(aug.logits(inputs))
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("conditional", [False, True])
def test_threads_share_a_network(problem: Problem, conditional: bool) -> None:
    aug = augment(problem.net, problem.plan(), classifier="reinitialise")
    if conditional:
        aug.run_conditionally(2)
    batches = [problem.test.read(range(i, i + 3)) for i in range(120)]
    expected = [aug.logits(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for logits, alone in zip(pool.map(aug.logits, batches), expected, strict=True):
            torch.testing.assert_close(logits, alone)


def test_what_a_failed_pass_left_is_forgotten() -> None:
    model = Distilled()
    net = wrap(model, torch.randn(3, 5), classifier=["one", "other"])
    aug = augment(net, plan(net, LabelGroups.everything(4), hidden=(2,)), classifier="reinitialise")
    given, expected = torch.randn(3, 5), aug.logits(torch.ones(3, 5))
    handle = aug.base.stack.register_forward_hook(lambda *_: fail_now())
    with pytest.raises(ZeroDivisionError):
        aug(given)
    handle.remove()
    assert torch.equal(aug.logits(torch.ones(3, 5)), expected)


class Distilled(nn.Module):
    """The average of two classifiers, with a layer between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.stack, self.other = nn.Linear(5, 4), nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.one(x)
        return (first + self.other(self.stack(x))) / 2


def fail_now() -> None:
    raise ZeroDivisionError


def test_heads_trained_in_a_loop_of_ones_own_or_loaded_keep_their_function(problem: Problem) -> None:
    aug, inputs = augment(problem.net, problem.plan()), problem.test.read(range(50))
    targets = torch.from_numpy(problem.train.targets.labels[problem.train.targets.offsets[:-1]])
    optimizer = torch.optim.AdamW(aug.new_parameters(), 1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(aug(problem.train.read(range(200))), targets[:200]).backward()
        optimizer.step()
    loaded, further = augment(problem.net, problem.plan(), seed=5), augment(problem.net, problem.plan(), onto=aug)
    loaded.load_state_dict(aug.state_dict())
    expected = aug.logits(inputs)
    for one in (aug, loaded, further):
        assert one.heads.trained >= len(problem.groups)
        fit(one, problem.store("train"), epochs=0)
        torch.testing.assert_close(one.logits(inputs), expected, rtol=1e-3, atol=1e-3)
    with refused("fit: these heads are trained already, and residual below 1 trains them from the start"):
        fit(loaded, problem.store("train"), recipe={"residual": 0.25})


def test_trained_heads_keep_what_is_constant_in_further_training_data() -> None:
    x = torch.randn(200, 4)
    net = wrap(nn.Sequential(nn.Linear(4, 3)), x[:2], output="softmax")
    aug = moved(augment(net, plan(net, LabelGroups.everything(3), hidden=(8,))))
    expected = aug.logits(x)
    same = x.clone()
    same[:, 2] = 1.5
    for kind in ("whitened", "standardised", "raw"):
        fit(aug, open_dataset((same, x.argmax(1) % 3), net.labels), epochs=0, head_input=kind)
        torch.testing.assert_close(aug.logits(x), expected, rtol=1e-4, atol=1e-4)


def test_without_heads_it_is_the_base_on_cached_features_too(problem: Problem) -> None:
    aug, store = moved(augment(problem.net, problem.plan())), problem.store("test")
    base = evaluate(problem.net, store)
    with aug.heads_disabled():
        assert aug.is_base
        assert aug.fingerprint == problem.net.fingerprint
        with aug.conditional(1):
            conditional = evaluate(aug, problem.test)
        for found in (evaluate(aug, store), evaluate(aug, problem.test), conditional):
            assert found.figures() == pytest.approx(base.figures())
        with refused("fit: within heads_disabled the network is the base"):
            fit(aug, problem.store("train"))
    assert not aug.is_base
    assert evaluate(aug, store).multiply_adds > base.multiply_adds


def test_a_classifier_that_is_taken_over_is_not_initialised_anew(problem: Problem) -> None:
    aug = augment(problem.net, problem.plan())
    with refused("classifier: with onto its trained classifier is taken over"):
        augment(problem.net, problem.plan(), onto=aug, classifier="reinitialise")


def test_all_that_can_be_trained_is_what_asks_for_gradients(problem: Problem) -> None:
    """What never gets a gradient stops DistributedDataParallel."""
    aug = augment(problem.net, problem.plan()).requires_grad_()
    assert {id(p) for p in aug.parameters() if p.requires_grad} == {*map(id, aug.all_parameters())}
    aug(problem.test.read(range(4))).sum().backward()
    assert all(p.grad is not None for p in aug.all_parameters())


def test_a_network_made_in_inference_mode_can_be_trained(problem: Problem) -> None:
    with torch.inference_mode():
        aug = augment(problem.net, problem.plan())
    before = aug.classifier.weight.clone()
    fit(aug, problem.store("train"), epochs=0.05)
    assert not torch.equal(aug.classifier.weight, before)


class Several(nn.Module):
    """Averages several logits as it is trained, as over drawn masks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.skip = model, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        model = self.model
        features = model.trunk(x)
        penultimate = features[:, :16] if self.skip else model.stack(features)
        if not self.training:
            return model.classifier(penultimate)
        return (model.classifier(penultimate) + model.classifier(2 * penultimate)) / 2


def test_the_classifier_may_be_called_several_times_in_training(problem: Problem) -> None:
    inputs = problem.test.read(range(8))
    net = wrap(Several(copy.deepcopy(problem.net.model)), inputs[:2], attach=AttachPoint("model.stack", "input"))
    aug = augment(net, plan(net, problem.groups, hidden=(4,)), classifier="reinitialise")
    features = net.features(inputs)
    parts = [aug.from_features(features.attached, factor * features.penultimate) for factor in (1, 2)]
    aug.base.train()
    aug.base.model.eval()
    torch.testing.assert_close(aug(inputs), (parts[0] + parts[1]) / 2)
    aug.base.skip = True  # not what an earlier pass read
    with refused("attach: the classifier was called before what heads read was computed, or that was left out"):
        aug(inputs)


def test_parts_may_be_compiled_or_quantised(problem: Problem) -> None:
    aug, inputs = augment(problem.net, problem.plan(), classifier="reinitialise"), problem.test.read(range(8))
    expected = aug.logits(inputs)
    for name in ("stack", "classifier", "trunk"):
        part = copy.deepcopy(aug)
        part.base.get_submodule(name).compile(backend="eager")
        torch.testing.assert_close(part.logits(inputs), expected)


def norms_move(aug: AugmentedClassifier, inputs: torch.Tensor) -> None:
    aug.requires_grad_(True)
    aug.train()(3 * inputs + 1)
    aug.eval()


def units_are_pruned(aug: AugmentedClassifier, inputs: torch.Tensor) -> None:
    prune.l1_unstructured(aug.base.stack[0], "weight", 0.5)


def weights_get_a_norm(aug: AugmentedClassifier, inputs: torch.Tensor) -> None:
    nn.utils.parametrizations.weight_norm(aug.base.stack[0])
    aug.base.stack[0].parametrizations.weight.original0.data *= 1.1


@pytest.mark.parametrize("change", [norms_move, units_are_pruned, weights_get_a_norm])
def test_whatever_changes_the_base_is_noticed(problem: Problem, tmp_path, change) -> None:
    """Saved, it would load as another network; judged on cached features it would be the one that it was."""
    aug, inputs = augment(problem.net, problem.plan()), problem.test.read(range(50))
    change(aug, inputs)
    assert aug.base_was_tuned
    with refused("features: the whole network was trained on"):
        rank(aug, problem.store("test"))
    if change is norms_move:
        aug.save_pretrained(tmp_path)
        assert torch.equal(load(tmp_path, problem.net).logits(inputs), aug.logits(inputs))
    else:
        with refused("save_pretrained: the base has other modules than the network that was wrapped", "merge or remove"):
            aug.save_pretrained(tmp_path)


def test_a_base_that_was_trained_on_in_a_loop_of_ones_own_is_noticed(problem: Problem, tmp_path) -> None:
    aug, inputs = augment(problem.net, problem.plan()), problem.test.read(range(50))
    assert not aug.base_was_tuned
    aug.requires_grad_(True)
    optimizer = torch.optim.SGD(aug.all_parameters(), 1e-2)
    aug(inputs).square().mean().backward()
    optimizer.step()
    assert aug.base_was_tuned
    with refused("heads_disabled: the whole network was trained on"), aug.heads_disabled():
        pass
    with refused("features: the whole network was trained on"):
        rank(aug, problem.store("test"))
    with refused("fit: the network was trained on since it was augmented"):
        fit(aug, problem.store("train"))
    aug.save_pretrained(tmp_path)
    torch.testing.assert_close(load(tmp_path, problem.net).logits(inputs), aug.logits(inputs))


def test_what_is_written_past_pytorchs_bookkeeping_is_noticed(problem: Problem, tmp_path) -> None:
    """`.data` changes values, and neither the tensor's place nor its version."""
    net = wrap(copy.deepcopy(problem.net.model), problem.test.example_inputs(), labels=problem.net.labels, output=problem.net.output)
    inputs, store = problem.test.read(range(50)), FeatureStore.build(net, problem.train.take(range(50)))
    aug = augment(net, plan(net, problem.groups, hidden=(6,)))
    assert not aug.base_was_tuned
    aug.base.trunk[0].weight.data.add_(0.5)
    with refused("features: the whole network was trained on"):
        rank(aug, store)
    aug = augment(net, plan(net, problem.groups, hidden=(6,)))
    assert not aug.base_was_tuned
    aug.base.trunk[0].weight.data.add_(0.5)
    aug.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path, net).logits(inputs), aug.logits(inputs))
    net.model.trunk[0].weight.data.add_(1)
    with refused("features: these features are of another network"):
        rank(net, store)


def test_a_model_that_was_trained_on_since_is_noticed(problem: Problem) -> None:
    model = copy.deepcopy(problem.net.model)
    net = wrap(model, problem.test.example_inputs(), labels=problem.net.labels, output=problem.net.output)
    aug, before = augment(net, plan(net, problem.groups, hidden=(6,))), FeatureStore.build(net, problem.train.take(range(50)))
    with torch.no_grad():
        model.trunk[0].weight.mul_(1.5)
    with refused("fit: these features are of another network"):
        fit(aug, before)
    with refused("fit: the network was trained on since it was augmented"):
        fit(aug, FeatureStore.build(net, problem.train.take(range(50))))


def test_a_parameter_of_the_base_may_be_called_inputs() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(4, 3)

        def forward(self, mask: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
            return self.classifier(inputs * mask)

    given = {"mask": torch.ones(2, 4), "inputs": torch.randn(2, 4)}
    net = wrap(Masked(), given)
    aug = augment(net, plan(net, LabelGroups.everything(3), hidden=(2,)))
    assert torch.equal(aug(**given), aug(given))


def test_features_of_another_type_than_the_classifiers_are_read() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.classifier = nn.Linear(5, 4).bfloat16(), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.trunk(x.bfloat16()).float())

    net = wrap(Mixed(), torch.randn(2, 5), attach="trunk")
    aug = augment(net, plan(net, LabelGroups.everything(3), hidden=(2,)), classifier="reinitialise")
    assert aug.logits(torch.randn(6, 5)).dtype == torch.float32


def test_heads_may_read_what_is_on_another_device_than_the_classifier(problem: Problem):
    inputs = torch.randn(7, 20)
    net = wrap(Spread(20, 36), inputs, attach=["trunk.0", "trunk"])
    aug = augment(net, plan(net, problem.groups, hidden=(4,)))
    there(aug._slot)
    with SecondDevice():
        assert torch.equal(aug.logits(inputs), net.logits(inputs))
        with aug.heads_disabled():
            assert torch.equal(aug.logits(inputs), net.logits(inputs))


def test_a_context_is_of_the_thread_that_entered_it_and_overlapping_ones_leave_no_trace(problem: Problem) -> None:
    aug = augment(problem.net, problem.plan(), classifier="reinitialise")
    inputs = problem.test.read(range(4))
    full, base = aug.logits(inputs), problem.net.logits(inputs)
    with aug.conditional(0):
        none = aug.logits(inputs)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        first, second = aug.heads_disabled(), aug.heads_disabled()
        one.submit(first.__enter__).result()
        torch.testing.assert_close(other.submit(aug.logits, inputs).result(), full)
        other.submit(second.__enter__).result()
        one.submit(first.__exit__, None, None, None).result()
        torch.testing.assert_close(one.submit(aug.logits, inputs).result(), full)
        torch.testing.assert_close(other.submit(aug.logits, inputs).result(), base)
        other.submit(second.__exit__, None, None, None).result()
        torch.testing.assert_close(other.submit(aug.logits, inputs).result(), full)
        with aug.conditional(0):
            torch.testing.assert_close(aug.logits(inputs), none)
            torch.testing.assert_close(one.submit(aug.logits, inputs).result(), full)
    assert not torch.allclose(none, full)
    with aug.heads_disabled():
        again = copy.deepcopy(aug)
    torch.testing.assert_close(again.logits(inputs), full)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(aug, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(inputs), full)
        with aug.heads_disabled():
            torch.testing.assert_close(compiled(inputs), base)
        torch.testing.assert_close(compiled(inputs), full)
