"""Trunk, stack and classifier are found in any model, proved, and the model is left as it was."""

from __future__ import annotations

from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import refused
from devices import SecondDevice, Spread, There
from selfinformed.data.labels import LabelSpace
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.remarks import Remark

IMAGES = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
VECTORS = IMAGES.flatten(1)
C = 5


def conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.MaxPool2d(2))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(128, 10), nn.ReLU(), nn.Linear(10, 9), nn.GELU(), nn.Linear(9, C))


class Stacked(nn.Module):
    """A convnet whose stack is one `nn.Sequential`; `inplace` overwrites what its layers gave."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.features = conv(2, 4)
        self.stack = nn.Sequential(
            nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(inplace), nn.Dropout(0.5, inplace), nn.Linear(12, 11), nn.ReLU(inplace), nn.Dropout(0.5, inplace)
        )
        self.last = nn.Linear(11, C)

    def forward(self, x):
        return self.last(self.stack(self.features(x).flatten(1)))


class Vgg(nn.Module):
    """ReLU between the fully connected layers is a function, no module."""

    def __init__(self) -> None:
        super().__init__()
        self.features = conv(2, 4)
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 12), nn.Linear(12, 11), nn.Linear(11, C)

    def forward(self, x):
        x = self.features(x).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class ResNet(nn.Module):
    """Pooled features right before the last layer; one ReLU used everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.relu = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, C)

    def forward(self, x):
        x = self.relu(self.stem(x))
        return self.fc(torch.flatten(self.pool(self.relu(x + self.block(x))), 1))


class Returns(nn.Module):
    """A model that gives its logits in some package."""

    def __init__(self, pack) -> None:
        super().__init__()
        self.net, self.pack = Vgg(), pack

    def forward(self, x):
        return self.pack(self.net(x))


class Text(nn.Module):
    """Keyword inputs, a sequence, a pooler, as transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(20, 8), nn.Linear(8, 8)
        self.pooler, self.tanh, self.dropout, self.classifier = nn.Linear(8, 6), nn.Tanh(), nn.Dropout(), nn.Linear(6, C)

    def forward(self, input_ids, mask=None):
        x = self.layer(self.embed(input_ids)) * mask[..., None]
        return {"logits": self.classifier(self.dropout(self.tanh(self.pooler(x[:, 0]))))}


class Weighted(nn.Module):
    """The last layer's weights are computed from others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(128, 7), nn.utils.parametrizations.weight_norm(nn.Linear(7, C))

    def forward(self, x):
        return self.last(self.first(x).relu())


TOKENS = {"input_ids": torch.arange(12).reshape(3, 4), "mask": torch.ones(3, 4)}
MODELS = {  # model, inputs, classifier, stack, the module whose input is the trunk's output, and how large that is
    "mlp": (mlp, VECTORS, "4", ("0", "2"), "0", 128),
    "stacked": (Stacked, IMAGES, "last", ("stack.0", "stack.4"), "stack.0", 64),
    "in place": (lambda: Stacked(inplace=True), IMAGES, "last", ("stack.0", "stack.4"), "stack.0", 64),
    "vgg": (Vgg, IMAGES, "fc3", ("fc1", "fc2"), "fc1", 64),
    "resnet": (ResNet, IMAGES, "fc", (), "fc", 4),
    "tuple": (lambda: Returns(lambda x: (x, x + 1)), IMAGES, "net.fc3", ("net.fc1", "net.fc2"), "net.fc1", 64),
    "dict": (lambda: Returns(lambda x: {"loss": 0, "logits": x}), IMAGES, "net.fc3", ("net.fc1", "net.fc2"), "net.fc1", 64),
    "object": (lambda: Returns(lambda x: SimpleNamespace(logits=x)), IMAGES, "net.fc3", ("net.fc1", "net.fc2"), "net.fc1", 64),
    "keywords": (Text, TOKENS, "classifier", ("pooler",), "pooler", 8),
    "parametrised": (Weighted, VECTORS, "last", ("first",), "first", 128),
    "only the classifier": (lambda: nn.Sequential(nn.Linear(128, C)), VECTORS, "0", (), "0", 128),
}


@pytest.fixture(params=MODELS)
def case(request):
    make, *rest = MODELS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(), *rest


@pytest.mark.parametrize("training", [False, True])
def test_the_parts_are_found(case, training):
    model, inputs, classifier, stack, trunk, size = case
    net = wrap(model.train(training), inputs)
    assert net.classifier_name == classifier
    assert net.stack_names == stack
    assert net.attach == AttachPoint(trunk, "input")
    assert net.feature_size == size
    assert net.n_labels == C
    assert net.labels == LabelSpace.numbered(C)


def test_the_parts_recompose_the_logits(case):
    model, inputs, *_ = case
    net = wrap(model.train(), inputs)
    features = net.features(inputs)
    with torch.no_grad():
        assert torch.equal(net.classifier(features.penultimate), features.logits)
    assert torch.equal(features.logits, net.logits(inputs))
    assert not features.logits.requires_grad


def test_the_model_is_not_changed(case):
    model, inputs, *_ = case
    model.train()
    next(model.children()).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    net = wrap(model, inputs)
    net.features(inputs)
    repr(net)
    assert net.model is model
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_cost_by_part():
    net = wrap(Vgg(), IMAGES)
    assert net.cost.by_part == {"trunk": 64 * 4 * 18, "classifier": 11 * C, "stack": 64 * 12 + 12 * 11}
    assert repr(net).startswith("WrappedClassifier(Vgg: trunk of 64 features read at the input of 'fc1', stack of 2 linear layers")


@pytest.mark.parametrize(("reduce", "size"), [("flatten", 4 * 16), ("mean", 4)])
def test_an_attach_point_of_ones_own(reduce, size):
    model = Stacked().eval()
    net = wrap(model, IMAGES, attach="features", reduce=reduce)
    with torch.no_grad():
        maps = model.features(IMAGES)
    expected = maps.flatten(1) if reduce == "flatten" else maps.mean((2, 3))
    assert net.feature_size == size
    torch.testing.assert_close(net.features(IMAGES).attached, expected)
    assert wrap(model, IMAGES, attach=AttachPoint("features", "output", reduce)).attach == net.attach


def test_options_are_kept():
    net = wrap(Vgg(), IMAGES, labels=list("abcde"), classifier="fc3", output="logistic")
    assert net.labels == LabelSpace(list("abcde"))
    assert net.output == "logistic"
    assert wrap(Vgg(), IMAGES).output is None


def test_a_mapping_is_of_keyword_arguments():
    class Named(Stacked):
        def forward(self, image):
            return super().forward(image)

    net = wrap(Named(), UserDict(image=IMAGES))
    assert type(net.example_inputs) is dict
    assert torch.equal(net.logits(UserDict(image=IMAGES)), net.logits({"image": IMAGES}))
    assert net.cost.multiply_adds == wrap(Stacked(), IMAGES).cost.multiply_adds


def test_the_fingerprint_is_of_the_weights():
    model = Stacked()
    before = wrap(model, IMAGES).fingerprint
    assert before == wrap(model.train(), IMAGES, attach="features").fingerprint
    for tensor in model.state_dict().values():
        kept = tensor.clone()
        tensor.view(-1)[-1] += 1
        assert wrap(model, IMAGES).fingerprint != before
        tensor.copy_(kept)
    assert wrap(model, IMAGES).fingerprint == before
    assert len({wrap(Stacked(), IMAGES).fingerprint for _ in range(2)}) == 2


def test_the_fingerprint_knows_types_and_names():
    one, two = nn.Sequential(nn.Linear(4, 2)), nn.Sequential()
    two.add_module("other", one[0])
    x = torch.zeros(1, 4)
    assert len({wrap(one, x).fingerprint, wrap(two, x).fingerprint, wrap(one.double(), x.double()).fingerprint}) == 3


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.again, self.last, self.unused = nn.Linear(C, C), nn.Linear(C, C), nn.Linear(C, C)
        self.pair = nn.LSTM(C, C)

    def forward(self, x):
        return self.last(self.pair(self.again(self.again(x)))[0])


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(128, C), nn.Linear(128, C)

    def forward(self, x):
        return (self.one(x) + self.two(x)) / 2


class Fails(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.last, self.error = nn.Linear(128, C), error

    def forward(self, x):
        raise self.error


def softmax() -> nn.Module:
    return nn.Sequential(nn.Linear(128, 7), nn.Linear(7, C), nn.Softmax(1))


class Transforms(nn.Module):
    """Has an operator without a formula; `rest` takes what is left of its inputs."""

    def __init__(self, rest: nn.Module) -> None:
        super().__init__()
        self.rest = rest

    def forward(self, x):
        return self.rest(torch.fft.fft(x).real)


def test_what_is_not_counted_is_remarked_once_where_wrap_was_called():
    with pytest.warns(Remark, match=r"^not counted in the network's multiply-adds: aten\._fft_r2c; ") as caught:
        repr(wrap(Transforms(mlp()), VECTORS))
    assert [warning.filename for warning in caught] == [__file__]


class OnlyBatches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(128, C)

    def forward(self, x):
        assert len(x) > 1
        return self.last(x)


def test_a_network_that_takes_no_single_example_is_wrapped_all_the_same():
    net = wrap(OnlyBatches(), VECTORS)
    assert net.logits(VECTORS).shape == (3, C)
    with pytest.raises(AssertionError):
        _ = net.cost


SHORT = torch.randn(2, C)


LONG = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(504, 3))


class Cosine(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(x), F.normalize(self.weight))


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(128, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(input=x)


class Casts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(128, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.classifier(x.bfloat16())


class Hooked(nn.Sequential):
    """Its logits are divided by a temperature."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(128, 3))
        self[0].register_forward_hook(lambda module, args, output: output / 2)


def compiled() -> nn.Module:
    model = mlp()
    model.compile()
    return model


@pytest.mark.parametrize(
    ("model", "inputs", "options", "message"),
    [
        (torch.zeros(3), VECTORS, {}, r"model: expected a torch\.nn\.Module, got Tensor"),
        (mlp(), VECTORS, {"output": "sigmoid"}, "output: expected one of softmax, logistic; got 'sigmoid'"),
        (softmax(), VECTORS, {}, r"classifier: none found; .*ends in a softmax .* its last linear layers are: 0, 1$"),
        (Averaged(), VECTORS, {}, "classifier: two classifiers found, .one., .two., whose average"),
        (nn.Flatten(), VECTORS, {}, "its last linear layers are: none"),
        (softmax(), VECTORS, {"classifier": "1"}, r"the output of '1' is not the model's logits \(they differ by up to \d"),
        (softmax(), VECTORS, {"classifier": "0"}, "differ by up to inf"),
        (mlp(), VECTORS, {"classifier": "head"}, "classifier: the model has no module 'head'; its last linear layers are: 0, 2, 4"),
        (mlp(), VECTORS, {"classifier": "3"}, r"classifier: '3' is a GELU; expected an nn\.Linear"),
        (Twice(), SHORT, {"classifier": "unused"}, "classifier: 'unused' is never called"),
        (Twice(), SHORT, {"classifier": "again"}, "classifier: 'again' is called 2 times in one forward pass"),
        (nn.Sequential(*[nn.Linear(C, C)] * 2), SHORT, {}, "classifier: '0' is called 2 times"),
        (mlp(), VECTORS, {"labels": ["a", "b"]}, "labels: 2 label names for a network with 5 outputs"),
        (mlp(), VECTORS, {"attach": "trunk"}, "attach: the model has no module 'trunk'"),
        (Twice(), SHORT, {"attach": "unused"}, "attach: 'unused' is called 0 times in one forward pass; expected exactly once"),
        (Twice(), SHORT, {"attach": "again"}, "attach: 'again' is called 2 times"),
        (nn.Sequential(*[nn.Linear(C, C)] * 2, nn.Linear(C, 3)), SHORT, {"attach": "0"}, "attach: '0' is called 2 times"),
        (Twice(), SHORT, {"attach": "pair"}, "attach: the output of 'pair' is tuple; expected a tensor"),
        (mlp(), IMAGES, {}, "model: it does not run on the example inputs .*shape it was trained on"),
        (mlp(), {"x": VECTORS}, {}, "model: it does not run on the example inputs"),
        (mlp(), VECTORS.tolist(), {}, "model: expected a tensor or a mapping of tensors by name, got list"),
        (Fails(AssertionError()), VECTORS, {}, r"does not run on the example inputs \(AssertionError\)"),
        (Fails(KeyError("pixel_values")), VECTORS, {}, r"does not run on the example inputs \('pixel_values'\)"),
        (nn.Sequential(nn.Linear(8, 3)), IMAGES, {}, r"model: expected logits \[batch, labels\]"),
        (nn.Sequential(Cosine(128, 3)), VECTORS, {}, "classifier: '0' does not give what its weight and bias alone do: it is a Cosine with a forward"),
        (ByName(), VECTORS, {}, r"classifier: 'classifier' is not given its input by place; call it so .*: self\.classifier\(x\)"),
        (Casts(), VECTORS, {}, "has weights of torch.float32 and is given torch.bfloat16; take autocast out of the model's forward"),
        (compiled(), VECTORS, {}, "model: this one is compiled, and its layers cannot be read; give the network as it was before"),
        (torch.compile(mlp()), VECTORS, {}, "model: this one is compiled"),
        (mlp(), VECTORS[:0], {}, "model: the example inputs are an empty batch; give at least one example"),
        (LONG, VECTORS[:, None], {"attach": "0", "reduce": "mean"}, "give reduce='channels_first_mean' to average over the length"),
    ],
)  # fmt: skip
def test_what_cannot_be_wrapped_is_told_why(model, inputs, options, message):
    with pytest.raises(SelfInformedError, match=message):
        wrap(model, inputs, **options)
    if isinstance(model, nn.Module):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert all(module.training for module in model.modules())


def test_heads_attach_by_default_behind_layers_that_are_called_twice():
    twice = nn.Linear(C, C)
    net = wrap(nn.Sequential(twice, nn.ReLU(), twice, nn.ReLU(), nn.Linear(C, 6), nn.ReLU(), nn.Linear(6, 3)), SHORT)
    assert net.attach_points == (AttachPoint("4", "input"),)
    assert net.stack_names == ("4",)
    assert wrap(nn.Sequential(twice, nn.ReLU(), twice, nn.Linear(C, 3)), SHORT).attach_points == (AttachPoint("3", "input"),)


def test_a_classifier_whose_hook_changes_its_output_is_refused():
    with pytest.raises(SelfInformedError, match="classifier: '0' does not give what its weight and bias alone do: it is a Linear .* or has a hook"):
        wrap(Hooked(), VECTORS)


def test_the_mean_of_a_sequence_with_channels_first_is_over_its_length():
    net, x = wrap(LONG, VECTORS[:, None], attach="0", reduce="channels_first_mean"), torch.randn(5, 1, 128)
    assert torch.equal(net.features(x).attached, LONG[0](x).mean(2))


@pytest.mark.parametrize("reduce", ["flatten", "map", "mean"])
def test_what_is_read_is_what_the_attach_point_gave_whatever_is_written_to_it_then(reduce):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(5))
    nn.init.constant_(model[1].bias, -1)
    net = wrap(model.eval(), IMAGES, attach="1", reduce=reduce)
    expected = model[1](model[0](IMAGES))
    expected = expected.flatten(2).mean(2) if reduce == "mean" else expected.flatten(1)
    assert (expected < 0).any()
    assert torch.equal(net.features(IMAGES).attached, expected)


def test_the_fingerprint_is_of_the_weights_as_they_are_now():
    model = mlp()
    net = wrap(model, VECTORS)
    before = net.fingerprint
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert net.fingerprint != before
    assert net.fingerprint == wrap(model, VECTORS).fingerprint
    model[0].weight.data = model[0].weight.data / 2
    assert net.fingerprint == before


def test_features_are_of_the_call_that_asked_for_them_in_whatever_thread():
    net, batches = wrap(mlp(), VECTORS), [torch.randn(3, 128) for _ in range(200)]
    expected = [net.features(x).attached for x in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: (net.logits(x), net.features(x).attached)[1], batches))
    assert all(map(torch.equal, found, expected))


def test_inputs_that_the_network_cannot_take_are_named_beside_those_it_was_wrapped_with():
    net = wrap(mlp(), VECTORS)
    said = rf"model: it does not run on these inputs \(.*\); it was wrapped with float32 \[{len(VECTORS)}, 128\], and these are float64 \[4, 128\]"
    with pytest.raises(SelfInformedError, match=said):
        net.logits(torch.zeros(4, 128, dtype=torch.float64))


def test_mixed_precision_of_a_training_loop_is_told_apart():
    model = mlp()
    forward = model.forward
    model._original_forward = forward  # as accelerate leaves it

    def in_bfloat16(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(x)

    model.forward = in_bfloat16
    with refused(r"has weights of torch.float32 and is given torch.bfloat16; accelerate put autocast into its forward: give accelerator.unwrap_model"):
        wrap(model, VECTORS)
    with torch.autocast("cpu", torch.bfloat16), refused("is given torch.bfloat16; call wrap outside of autocast"):
        wrap(mlp(), VECTORS)


class Counts(nn.Module):
    """A network that counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.norm, self.classifier = nn.Linear(128, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.classifier(self.norm(self.trunk(x)))


def test_what_a_model_keeps_of_its_calls_makes_it_no_other():
    net = wrap(Counts(), VECTORS)
    before = net.fingerprint
    net.features(VECTORS)
    assert net.fingerprint == before
    net.model.train()(VECTORS)  # its statistics move
    assert net.fingerprint != before


class Remembers(Counts):
    """And keeps something else in its state."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 2}


def test_a_state_may_hold_more_than_tensors():
    assert len(wrap(Remembers(), VECTORS).fingerprint) == 64


def test_any_other_buffer_does():
    model = Counts()
    model.register_buffer("mean", torch.zeros(()))
    net = wrap(model, VECTORS)
    before = net.fingerprint
    model.mean.fill_(1.0)
    assert net.fingerprint != before


def test_a_network_may_be_spread_over_devices():
    with SecondDevice():
        net = wrap(Spread(128, C), VECTORS, attach=["trunk.0", "trunk"])
        features = net.features(VECTORS)
        assert net.classifier_name == "last"
        assert all(isinstance(part, There) for part in (features.attached, features.logits))
        assert not isinstance(features.penultimate, There)


@pytest.mark.parametrize(
    ("point", "message"),
    [(("0", "mean"), "side: expected one of input, output; got 'mean'"), (("0", "in"), "side: .*got 'in'"), (("0", "input", "max"), "reduce: .*got 'max'")],
)
def test_an_attach_point_that_cannot_be_is_refused(point, message):
    with pytest.raises(SelfInformedError, match=message):
        AttachPoint(*point)


def test_what_attach_points_would_ignore_is_refused():
    with pytest.raises(SelfInformedError, match=r"reduce: each attach point has one of its own; .*AttachPoint\(..., reduce='mean'\)"):
        wrap(mlp(), VECTORS, attach=[AttachPoint("0")], reduce="mean")


def test_label_names_may_be_any_array_of_them():
    names = list("abcde")
    assert wrap(mlp(), VECTORS, labels=np.array(names)).labels.names == tuple(names)
    with pytest.raises(SelfInformedError, match="labels: expected at least one label name, got none"):
        wrap(mlp(), VECTORS, labels=[])
