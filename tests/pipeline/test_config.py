"""Every option is documented, checked, and comes back from the run folder's config.yaml."""

from __future__ import annotations

from dataclasses import fields

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinformed.pipeline.config import RunConfig, demo_config, read_config
from selfinformed.runtime.errors import SelfInformedError

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
configs = st.builds(
    RunConfig,
    output=text, model=text, checkpoint=st.none() | text, reduce=st.sampled_from(["flatten", "mean"]), top_k=st.none() | st.integers(1, 1000),
    n_groups=st.just("auto") | st.integers(1, 99), budget=st.floats(0, 10, exclude_min=True),
    hidden=st.none() | st.lists(st.integers(1, 999), min_size=1).map(tuple),
    keep_classifier=st.booleans(), learning_rate=st.floats(0, 1), arms=st.none() | st.lists(text, min_size=1).map(tuple), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip


def read(tmp_path, content):
    path = tmp_path / "x.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_config(path)


def test_every_option_says_what_it_is():
    for option in fields(RunConfig):
        assert len(option.metadata["help"]) >= 10, option.name


@settings(max_examples=40)
@given(configs)
def test_yaml_comes_back(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("config")
    (folder / "x.yaml").write_text(config.to_yaml(), "utf-8")
    assert read_config(folder / "x.yaml") == config


def test_yaml_explains_every_option():
    lines = RunConfig().to_yaml().splitlines()
    for option in fields(RunConfig):
        assert lines[lines.index(f"# {option.metadata['help']}") + 1].startswith(f"{option.name}:")
    assert yaml.safe_load(RunConfig().to_yaml()) == RunConfig().to_dict()


def test_options_left_out_keep_their_defaults(tmp_path):
    assert read(tmp_path, "seed: 3\nhidden: [512, 512]\nlearning_rate: 6e-3\n") == RunConfig(seed=3, hidden=(512, 512))


def test_a_run_folder_is_its_own_output(tmp_path):
    (tmp_path / "config.yaml").write_text(RunConfig(output="elsewhere", seed=3).to_yaml())
    assert read_config(tmp_path) == RunConfig(output=str(tmp_path), seed=3)
    assert read_config(tmp_path / "config.yaml").output == "elsewhere"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bugdet: 0.03", "unknown option 'bugdet'; did you mean 'budget'"),
        ("output: softmax", "output: this is the run's folder; .* outputs: softmax"),
        ("seed: 4294967296", "expected at most 4,294,967,295"),
        ("keep_clasifier: true", "did you mean 'keep_classifier'"),
        ("zzz: 1", "unknown option 'zzz'; see selfinformed run --help"),
        ("3: 1", "unknown option 3"),
        ("seed: many", r"seed = 'many': input should be a valid integer.* \(of clustering"),
        ("n_groups: some", "n_groups = 'some'"),
        ("reduce: max", "reduce = 'max': input should be 'flatten', 'mean', 'channels_first_mean', 'channels_last_mean', 'first' or 'map'"),
        ("hidden: wide", "hidden = 'wide'"),
        ("model: 3", "model = 3: input should be a valid string"),
        ("top_k: 0", r"top_k = 0: expected at least 1 \(detections per example"),
        ("n_groups: 0", "n_groups = 0: expected at least 1"),
        ("hidden: [512, 0]", r"hidden = \(512, 0\): expected at least 1"),
        ("budget: -0.1", r"budget = -0\.1: expected at least 0"),
        ("budget: .nan", "budget = nan: expected at least 0"),
        ("epochs: -1", "epochs = -1: expected at least 0"),
        ("- a\n- b", "expected options as `name: value` lines, got list"),
        ("", "got NoneType"),
        ("a: [1,\nb: {", "cannot be read as YAML"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        (b"\xff\xfe\xff", "cannot be read as YAML"),
    ],
)
def test_what_is_refused_is_told_in_one_line(tmp_path, content, message):
    with pytest.raises(SelfInformedError, match=rf"x\.yaml:? .*{message}") as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)


def test_absent_files_and_folders_that_are_no_runs(tmp_path):
    with pytest.raises(SelfInformedError, match="is no run folder: it has no config.yaml; start one with: selfinformed run"):
        read_config(tmp_path)
    with pytest.raises(SelfInformedError, match=r"x\.yaml does not exist; expected a config\.yaml or a run folder"):
        read_config(tmp_path / "x.yaml")


def test_changes_are_checked():
    assert RunConfig().with_changes({"hidden": [3], "seed": 1}) == RunConfig(hidden=(3,), seed=1)
    with pytest.raises(SelfInformedError, match="options: unknown option 'sede'; did you mean 'seed'"):
        RunConfig().with_changes({"sede": 1})
    with pytest.raises(SelfInformedError, match="options: views = 0: expected at least 1"):
        RunConfig().with_changes({"views": 0})


def test_differences_leave_the_output_aside():
    assert RunConfig().differences(RunConfig(output="elsewhere")) == []
    assert RunConfig().differences(RunConfig(top_groups=(1,), attach_points=3)) == []
    assert RunConfig().differences(RunConfig(seed=1, hidden=(3,))) == ["hidden", "seed"]


def test_the_demo_is_a_valid_configuration():
    config = demo_config("budget", None, "out")
    assert config.with_changes({}) == config
    assert (config.model, config.train, config.holdout, config.test) == ("demo:budget", "glyphs", "glyphs", "glyphs")


def test_every_option_of_a_recipe_is_one_of_a_run_with_the_same_default():
    from selfinformed.training.recipe import Recipe

    defaults = {option.name: option.default for option in fields(RunConfig)}
    assert {option.name: option.default for option in fields(Recipe)}.items() <= defaults.items()


def test_residual_is_a_share_or_what_the_probe_found(tmp_path) -> None:
    assert read(tmp_path, "residual: auto").residual == "auto"
    assert read(tmp_path, "residual: 0.25").residual == 0.25
    probed, other = (RunConfig(residual=residual, attach_points=1) for residual in ("auto", 1.0))
    assert probed.differences(RunConfig(residual="auto", attach_points=2)) == ["attach_points"]
    assert not other.differences(RunConfig(attach_points=2))
    for wrong in ("always", "2", "-1", ".nan"):
        with pytest.raises(SelfInformedError, match="residual"):
            read(tmp_path, f"residual: {wrong}")


@pytest.mark.parametrize("name", ["residual", "label_smoothing", "class_weights", "balanced_sampling", "soft_targets", "ema", "tail_average"])
def test_shares_are_at_most_one(tmp_path, name):
    with pytest.raises(SelfInformedError, match=f"{name} = 1.5: expected at most 1"):
        read(tmp_path, f"{name}: 1.5")
    with pytest.raises(SelfInformedError, match=f"{name} = -0.5: expected at least 0"):
        read(tmp_path, f"{name}: -0.5")


@pytest.mark.parametrize(("content", "message"), [
    ("budget: 0", "budget = 0.0: expected more than 0"),
    ("temperature: 0", "temperature = 0.0: expected more than 0"),
    ("epsilon: 0", "epsilon = 0.0: expected more than 0"),
    ("ema: 1", "ema = 1.0: expected less than 1"),
    ("label_smoothing: 1", "label_smoothing = 1.0: expected less than 1"),
    ("dense_share: 1", "dense_share = 1.0: expected less than 1"),
    ("dense_share: 2", "dense_share = 2.0: expected at most 1"),
    ("arms: []", "arms is empty; name at least one"),
    ("hidden: [8]\ndepth: 2", "hidden: depth, capacity and dense_share say how a budget becomes widths"),
    ("hidden: [8]\ndense_share: 0.5", "hidden: depth, capacity and dense_share"),
    ("train: images\nviews: 4", "views: distorted views of images want augmentation"),
    ("train: glyphs\naugmentation: crop", "augmentation: it makes distorted views of images"),
    ("train: images\nviews: 1\naugmentation: crop", "augmentation: it makes distorted views of images"),
    ("augmentation: rotate", "augmentation"),
    ("residual: 0\nkeep_classifier: false", "keep_classifier: with residual 0 the classifier stays as it is"),
    ("ema: 0.9\ntail_average: 0.5", "ema: ema and tail_average are two ways"),
    ("teacher: timm:resnet18\nsoft_targets: 0.5", "teacher_checkpoint: a teacher named by timm or torchvision has random weights"),
    ("teacher: x.py:make", "teacher: soft_targets says how much of the loss is the teacher's"),
    ("soft_targets: 0.5\nteacher_checkpoint: x.pt", "teacher: soft_targets says"),
    ("latency_batch: 8", "latency_batch: it is of a search by time; give budget_of: latency"),
    ("structure: searched\nfinetune: true", "structure: what a search found is trained on cached features"),
    ("arms: [base, views]", "arms: views needs the test examples seen once more; give second_view"),
])  # fmt: skip
def test_what_no_training_could_be_is_refused_before_anything_is_made(tmp_path, content, message):
    with pytest.raises(SelfInformedError) as refused:
        read(tmp_path, content)
    assert message in str(refused.value)


def test_options_that_go_together_are_taken(tmp_path):
    assert read(tmp_path, "train: glyphs\nviews: 4").views == 4
    assert read(tmp_path, "arms: [base, views]\nsecond_view: mirrored").second_view == "mirrored"
    assert read(tmp_path, "residual: auto\nkeep_classifier: false").residual == "auto"


@pytest.mark.parametrize(
    "line", ["seed: 0x" + "f" * 4_000, "model_options: {a: 0x" + "f" * 4_090 + "}", "seed: 1" + ":59" * 300_000, "hidden: [0b" + "1" * 20_000 + "]"]
)
def test_a_number_of_thousands_of_digits_is_one_line(tmp_path, line):
    (tmp_path / "config.yaml").write_text(f"{line}\n")
    with pytest.raises(SelfInformedError, match=r"config\.yaml") as said:
        read_config(tmp_path / "config.yaml").to_yaml()
    assert len(str(said.value)) < 500


def test_a_share_above_one_is_refused_at_once():
    with pytest.raises(SelfInformedError, match="cover_share = 2.*expected at most 1"):
        RunConfig().with_changes({"cover_share": 2})
