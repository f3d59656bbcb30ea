"""The feature store against the network it was computed by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from conftest import Problem, SmallNet, damaged, refused
from selfinformed.augmented.network import augment
from selfinformed.data.examples import Examples
from selfinformed.data.labels import LabelSpace
from selfinformed.data.opening import open_dataset
from selfinformed.network.wrap import wrap
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import read_tensors, write_tensors
from selfinformed.structure.planning import plan
from selfinformed.training.features import FORMAT, FeatureStore, rank, score_batches, scores_from_features
from selfinformed.training.fitting import fit
from selfinformed.training.teachers import TeacherNetwork


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_features_are_the_networks_whatever_the_batch(problem: Problem, batch_size: int) -> None:
    examples = problem.test.take(range(20))
    store = FeatureStore.build(problem.net, examples, batch_size)
    features = problem.net.features(examples.read(range(20)))
    assert len(store) == 20
    assert store.fingerprint == problem.net.fingerprint
    torch.testing.assert_close(store.attached, features.attached, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(store.penultimate, features.penultimate, rtol=1e-5, atol=1e-5)
    assert np.array_equal(store.targets.labels, examples.targets.labels)


def test_logits_from_features_are_the_networks(problem: Problem) -> None:
    store, inputs = problem.store("test"), problem.test.read(range(600))
    aug = augment(problem.net, problem.plan())
    for model in (problem.net, aug):
        torch.testing.assert_close(scores_from_features(model, store.attached, store.penultimate), model.logits(inputs), rtol=1e-4, atol=1e-4)


def test_scores_come_alike_from_examples_and_features(either: Problem) -> None:
    from_examples = rank(either.net, either.test)
    from_features = rank(either.net, either.store("test"))
    assert from_features.mean_average_precision == pytest.approx(from_examples.mean_average_precision, abs=1e-3)
    batches = list(score_batches(either.net, either.test, 64))
    assert sum(len(scores) for scores, _, _ in batches) == 600
    assert np.array_equal(np.concatenate([t.labels for _, t, _ in batches]), either.test.targets.labels)
    assert batches[1][2](3) == "example 67"


def test_saved_and_loaded_bit_for_bit(several: Problem, tmp_path) -> None:
    store = several.store("holdout")
    store.save(tmp_path / "features.safetensors")
    again = FeatureStore.load(tmp_path / "features.safetensors", several.net, several.holdout)
    assert torch.equal(again.attached, store.attached)
    assert torch.equal(again.penultimate, store.penultimate)
    assert np.array_equal(again.targets.offsets, store.targets.offsets)
    assert np.array_equal(again.targets.labels, store.targets.labels)
    assert (again.seconds, again.fingerprint, again.examples) == (store.seconds, store.fingerprint, several.holdout)


def test_another_networks_features_are_refused(problem: Problem, several: Problem, tmp_path) -> None:
    problem.store("test").save(tmp_path / "f.safetensors")
    with pytest.raises(SelfInformedError, match="another network"):
        FeatureStore.load(tmp_path / "f.safetensors", several.net)
    with pytest.raises(SelfInformedError, match="another network"):
        rank(several.net, problem.store("test"))
    with pytest.raises(SelfInformedError, match="another network"):
        fit(augment(several.net, several.plan()), problem.store("test"))


def test_features_of_another_attach_point_are_refused(problem: Problem, tmp_path) -> None:
    one, other = (wrap(problem.net.model, problem.test.example_inputs(), attach=attach, labels=problem.net.labels) for attach in ("trunk.1", "trunk.0"))
    few = problem.test.take(range(20))
    store = FeatureStore.build(other, few)
    assert store.attached.shape == FeatureStore.build(one, few).attached.shape
    for refuse in (
        lambda: rank(one, store), lambda: fit(augment(one, plan(one, problem.groups, hidden=(2,))), store), lambda: TeacherNetwork(one, store),
    ):  # fmt: skip
        with pytest.raises(SelfInformedError, match=r"these features were read at trunk\.0 output flatten, and this network's heads read trunk\.1"):
            refuse()
    store.save(tmp_path / "f.safetensors")
    assert FeatureStore.load(tmp_path / "f.safetensors", other).places == store.places
    with pytest.raises(SelfInformedError, match="holds features of another place in the network"):
        FeatureStore.load(tmp_path / "f.safetensors", one)
    arrays, metadata = read_tensors(tmp_path / "f.safetensors", FORMAT)
    write_tensors(tmp_path / "f.safetensors", arrays, {key: value for key, value in metadata.items() if key != "attach"})  # as earlier versions did
    assert len(FeatureStore.load(tmp_path / "f.safetensors", other)) == 20


@pytest.mark.parametrize(
    ("changes", "about", "said"),
    [
        ({"labels": np.arange(600) + 1_000}, {}, "its labels are not from 0 to 35"),
        ({"offsets": np.arange(601)[::-1].copy()}, {}, "its targets are no lists of labels of 600 examples"),
        ({"offsets": np.arange(500)}, {}, "its targets are no lists"),
        ({}, {"n_labels": "0"}, "it is of 0 labels"),
        ({}, {"attach": "[" * 100_000}, "nested more than"),
        ({}, {"seconds": "soon"}, "could not convert"),
    ],
)
def test_a_damaged_file_is_one_line(problem: Problem, tmp_path, changes, about, said) -> None:
    problem.store("test").save(tmp_path / "f.safetensors")
    arrays, metadata = read_tensors(tmp_path / "f.safetensors", FORMAT)
    write_tensors(tmp_path / "f.safetensors", arrays | changes, metadata | about)
    with refused("holds no valid features", said, "delete it"):
        FeatureStore.load(tmp_path / "f.safetensors", problem.net)


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.99])
def test_truncated_file_is_refused(problem: Problem, tmp_path, kept: float) -> None:
    path = tmp_path / "f.safetensors"
    problem.store("test").save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(SelfInformedError, match="delete it"):
        FeatureStore.load(path, problem.net)


def with_constants(problem: Problem) -> FeatureStore:
    store = problem.store("holdout")
    attached = 100 * store.attached + 5
    attached[:, :3] = torch.tensor([0.0, -7.0, 1e6])
    return replace(store, attached=attached)


def test_whitened_input_has_a_covariance_near_identity(problem: Problem) -> None:
    store = with_constants(problem)
    made = store.input_transform("whitened")
    shift, transform = made.shifts[0], made.matrices[0]
    white = (store.attached.double() - shift.double()) @ transform.double()
    values = torch.linalg.eigvalsh(white.T @ white / len(store))
    assert white.mean(0).abs().max() < 1e-2
    assert values.max() <= 1.001
    assert (values > 0.5).sum() > 80  # the strong directions; the weak ones are shrunk
    assert transform[:3].abs().max() == 0  # constant features are left out


def test_whitening_equals_its_formula(problem: Problem) -> None:
    store = problem.store("holdout")
    x = store.attached.double().numpy()
    x = x[:, x.std(0) > 1e-6 * x.std(0).max()]
    z = (x - x.mean(0)) / x.std(0)
    values, vectors = np.linalg.eigh(np.cov(z.T, bias=True))
    mean_variance = values.sum() / store.attached.shape[1]
    expected = z @ vectors @ np.diag(1 / np.sqrt(values.clip(0) + 0.01 * mean_variance)) @ vectors.T
    made = store.input_transform("whitened")
    shift, transform = made.shifts[0], made.matrices[0]
    got = ((store.attached.double() - shift.double()) @ transform.double()).numpy()
    varying = np.flatnonzero(store.attached.double().numpy().std(0) > 1e-6 * store.attached.double().numpy().std(0).max())
    np.testing.assert_allclose(got[:, varying], expected, atol=2e-3)


def test_standardised_input_has_unit_deviations(problem: Problem) -> None:
    store = with_constants(problem)
    made = store.input_transform("standardised")
    shift, transform = made.shifts[0], made.matrices[0]
    scaled = (store.attached.double() - shift.double()) @ transform.double()
    deviation = scaled.std(0, correction=0)
    assert torch.equal(transform, torch.diag(transform.diagonal()))
    assert scaled.mean(0).abs().max() < 1e-3
    assert deviation[:3].max() == 0
    varying = deviation > 0
    torch.testing.assert_close(deviation[varying], torch.ones_like(deviation[varying]), rtol=1e-4, atol=1e-4)


def test_raw_input_is_left_alone_and_other_kinds_are_refused(problem: Problem) -> None:
    made = problem.store("test").input_transform("raw")
    shift, transform = made.shifts[0], made.matrices[0]
    assert torch.equal(shift, torch.zeros(144))
    assert torch.equal(transform, torch.eye(144))
    with pytest.raises(SelfInformedError, match="head_input: expected one of whitened"):
        problem.store("test").input_transform("scaled")


@pytest.mark.parametrize("kind", ["whitened", "standardised"])
def test_features_that_are_all_constant_give_a_finite_transform(problem: Problem, kind) -> None:
    store = replace(problem.store("test"), attached=torch.full((600, 144), 3.0))
    assert all(tensor.isfinite().all() for tensor in store.input_transform(kind)(store.attached))


def faulty(problem: Problem, bad: set[int], allowed: int) -> Examples:
    whole = problem.test.take(range(30))

    def read(rows):
        for row in rows:
            if row in bad:
                raise SelfInformedError(f"data: picture {row} cannot be read")
        return whole.read(rows)

    return Examples(read, whole.targets, whole.labels, skip_bad=allowed)


def test_unreadable_examples_are_left_out_with_their_targets(several: Problem) -> None:
    bad, kept = {0, 7, 29}, [i for i in range(30) if i not in {0, 7, 29}]
    examples = faulty(several, bad, 3)
    store = FeatureStore.build(several.net, examples, 8)
    whole = FeatureStore.build(several.net, several.test.take(kept), 8)
    assert set(examples.skipped) == bad
    torch.testing.assert_close(store.attached, whole.attached, rtol=1e-5, atol=1e-5)
    assert np.array_equal(store.targets.labels, whole.targets.labels)
    assert np.array_equal(store.targets.offsets, whole.targets.offsets)
    assert len(store.examples) == 27
    assert torch.equal(store.examples.read(range(27)), whole.examples.read(range(27)))


def test_one_unreadable_example_too_many_stops_with_its_name(several: Problem) -> None:
    with pytest.raises(SelfInformedError, match=r"picture 29 cannot be read.*skip_bad"):
        FeatureStore.build(several.net, faulty(several, {0, 7, 29}, 2))


def test_features_that_are_not_finite_name_the_example(problem: Problem) -> None:
    pictures = problem.test.read(range(5)).clone()
    pictures[3] = torch.nan
    with pytest.raises(SelfInformedError, match="example 3 features that are not finite"):
        FeatureStore.build(problem.net, open_dataset((pictures, [0] * 5), problem.net.labels))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["attached", "penultimate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_store_holds_nothing_that_is_not_finite(problem: Problem, value: float, part: str, dtype: torch.dtype) -> None:
    store = problem.store("test")
    whole = getattr(store, part).to(dtype, copy=True)
    whole[:, :] = torch.finfo(dtype).max  # large, but finite
    assert len(replace(store, **{part: whole})) == 600
    whole[417, 5] = value
    with pytest.raises(SelfInformedError, match="gives example 417 features that are not finite"):
        replace(store, **{part: whole})


def test_float16_stays_so_in_memory_and_is_read_as_float32(problem: Problem) -> None:
    store = FeatureStore.build(problem.net, problem.test, dtype="float16")
    whole = problem.store("test")
    assert store.attached.dtype == store.penultimate.dtype == torch.float16
    for kept, given in zip(store.batch(torch.arange(600)), (whole.attached, whole.penultimate), strict=True):
        assert kept.dtype == torch.float32
        torch.testing.assert_close(kept, given, rtol=2**-11, atol=1e-7)
    transform = whole.input_transform("whitened")
    assert store.transformed(transform).attached.dtype == torch.float32
    torch.testing.assert_close(store.transformed(transform).attached, transform(whole.attached), rtol=0.01, atol=0.01)
    assert rank(problem.net, store).mean_average_precision == pytest.approx(rank(problem.net, whole).mean_average_precision, abs=5e-3)


def test_empty_data_and_wrong_label_counts_are_refused(problem: Problem) -> None:
    with pytest.raises(SelfInformedError, match="no example to read"):
        FeatureStore.build(problem.net, problem.test.take([]))
    with pytest.raises(SelfInformedError, match="36 labels for a network with 5 outputs"):
        FeatureStore.build(wrap(SmallNet(5), problem.test.read([0]), labels=LabelSpace.numbered(5)), problem.test)


class Shifted(nn.Module):
    """A network that is always right, its logits shifted by another number for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Linear(9, 9, bias=False)
        self.classifier = nn.Linear(9, 8)
        with torch.no_grad():
            self.stack.weight.copy_(torch.eye(9))
            self.classifier.weight.copy_(torch.cat([torch.eye(8), torch.ones(8, 1)], 1))
            self.classifier.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.stack(x))


def test_softmax_logits_that_are_ranked_are_warned_of() -> None:
    labels = torch.arange(8).repeat(25)
    inputs = torch.cat([torch.eye(8)[labels], 1000 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))], 1)
    examples = open_dataset((inputs, labels))
    with pytest.warns(UserWarning, match=r"mAP@50 ranks the logits .* wrap it with output=\"softmax\", or"):
        rank(wrap(Shifted(), inputs[:2]), examples)
    for output in ("softmax", "logistic"):
        rank(wrap(Shifted(), inputs[:2], output=output), examples)  # said: no warning
    rank(wrap(Shifted(), inputs[:2]), open_dataset((inputs, torch.eye(8)[labels].long().index_fill(1, torch.tensor(0), 1))))  # several labels


@pytest.mark.parametrize("given", [lambda p: (p.test.read(range(4)), [0, 1, 2, 3]), lambda p: [1, 2], lambda p: torch.utils.data.DataLoader([1, 2])])
def test_data_that_were_not_opened_are_refused(problem: Problem, given) -> None:
    for build in (lambda data: FeatureStore.build(problem.net, data), lambda data: fit(augment(problem.net, problem.plan()), data)):
        with pytest.raises(SelfInformedError, match="data: expected data from open_dataset, got (tuple|list|DataLoader)"):
            build(given(problem))


def test_networks_that_were_not_wrapped_or_augmented_are_refused(problem: Problem) -> None:
    with pytest.raises(SelfInformedError, match="network: expected one from wrap or augment, got SmallNet"):
        rank(problem.net.model, problem.test)
    with pytest.raises(SelfInformedError, match="fit: expected a network from augment, got WrappedClassifier"):
        fit(problem.net, problem.train)
    with pytest.raises(SelfInformedError, match="batch_size: expected a whole number of at least 1; got 0"):
        FeatureStore.build(problem.net, problem.test, batch_size=0)


def test_views_of_which_some_cannot_be_read_count_each_by_itself(problem: Problem, tmp_path) -> None:
    few = problem.test.take(range(20))
    for name, bad in (("whole", []), ("two", [3, 7])):
        views = [damaged(few, bad, 5), problem.test.take(range(20))]
        built, kept = FeatureStore.build(problem.net, views), FeatureStore.build(problem.net, views, folder=tmp_path / name)
        built.save(tmp_path / "f.safetensors")
        for store in (built, kept, FeatureStore.load(tmp_path / "f.safetensors", problem.net)):
            assert (len(store), store.n_inputs) == ((38, 38) if bad else (40, 20))
        mask = torch.arange(len(built)) == 5
        assert torch.equal(built.batch(mask)[0], kept.batch(mask)[0])
        assert len(kept.batch(mask)[0]) == 1


def test_a_store_is_told_on_one_line(problem: Problem) -> None:
    store = problem.store("test")
    assert repr(store) == f"FeatureStore({len(store)} examples, {store.attached.shape[1]} features, 36 labels)"
