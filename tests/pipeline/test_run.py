"""A run folder: each stage writes its artefact once, and nothing is computed twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from conftest import write_config, write_images
from selfinformed.evidence.comparison import Comparison
from selfinformed.pipeline import run as module
from selfinformed.pipeline.config import read_config
from selfinformed.pipeline.run import Run
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan

DOCUMENTED = {
    "config.yaml", "counts.safetensors", "groups.json", "plan.json", "probe.json", "heads.safetensors", "config.json", "history.jsonl",
    "evaluation.json", "comparison.json", "comparison.jsonl", "report.html", "features/train.safetensors", "features/holdout.safetensors",
    "features/test.safetensors", "figures/cost.png", "figures/confusions.png", "figures/groups.png", "figures/eigenvalues.png",
}  # fmt: skip


def opened(workspace: Path, **changes) -> Run:
    return Run(read_config(write_config(workspace, **changes)))


def complete(run: Run) -> Run:
    run.plan(), run.headroom(), run.augmented(), run.evaluation(), run.comparison(), run.report()
    return run


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the detections, whose number depends on the batch size."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and "detections" not in p.parts}


@pytest.fixture(scope="module")
def finished(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "data").symlink_to(data_folder)
    return complete(opened(folder)).folder


@pytest.fixture
def done(finished: Path, workspace: Path) -> Run:
    """A complete run of this test's own."""
    shutil.copytree(finished, workspace / "out")
    return opened(workspace)


def content(path: Path) -> dict[str, object] | str:
    """What a file holds; the order of a safetensors file's metadata is not part of it."""
    if path.suffix != ".safetensors":
        return path.read_text("utf-8")
    with safe_open(path, "np") as file:
        return {"metadata": file.metadata(), **{name: file.get_tensor(name).tolist() for name in file.keys()}}  # noqa: SIM118


def forbid(monkeypatch, *names: str) -> None:
    for name in names:
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called again"))


STAGES = ("count", "cluster", "plan", "probe", "fit", "evaluate", "compare", "augment")


def test_just_the_documented_files_are_made(done: Run) -> None:
    assert set(files(done.folder)) == DOCUMENTED
    assert read_config(done.folder) == done.config
    assert ConfusionCounts.load(done.folder / "counts.safetensors").n_examples == 240
    assert len(LabelGroups.load(done.folder / "groups.json")) == 3
    assert HeadPlan.load(done.folder / "plan.json").extra_computation <= 1.5
    assert Comparison.load(done.folder / "comparison.json").arms == ["base", "confusions", "dense"]
    evaluation = json.loads((done.folder / "evaluation.json").read_text())
    assert evaluation["base"]["extra_computation"] == 1 < evaluation["extra_computation"]


def test_stages_make_what_they_need_and_no_more(workspace: Path) -> None:
    run = opened(workspace)
    assert set(files(run.folder)) == {"config.yaml"}
    run.groups()
    assert set(files(run.folder)) == {"config.yaml", "counts.safetensors", "groups.json"}


def test_a_second_run_computes_nothing_again(workspace: Path, monkeypatch) -> None:
    done = complete(opened(workspace))
    before = files(done.folder)
    forbid(monkeypatch, *STAGES)
    monkeypatch.setattr(module.FeatureStore, "build", lambda *_, **__: pytest.fail("features were computed again"))
    again = complete(opened(workspace))
    after = files(again.folder)
    assert before.keys() == after.keys()
    assert all(before[name] == after[name] for name in before if not name.startswith("figures"))
    inputs = torch.zeros(2, 1, 6, 6)
    assert torch.equal(again.augmented().logits(inputs), done.augmented().logits(inputs))


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("counts.safetensors", "count"), ("groups.json", "cluster"), ("plan.json", "plan"), ("probe.json", "probe"), ("heads.safetensors", "fit"),
        ("config.json", "fit"), ("evaluation.json", "evaluate"), ("comparison.json", "compare"),
    ],
)  # fmt: skip
def test_a_deleted_artefact_is_made_again_and_nothing_else(done: Run, workspace: Path, monkeypatch, name: str, stage: str) -> None:
    before = content(done.folder / name)
    (done.folder / name).unlink()
    forbid(monkeypatch, *(s for s in STAGES if s not in {stage, *(["augment"] if stage == "fit" else [])}))
    again = complete(opened(workspace))
    assert content(again.folder / name) == before


def test_another_configuration_in_the_same_folder_is_refused(done: Run, workspace: Path) -> None:
    with pytest.raises(SelfInformedError, match="holds a run with another n_groups, epochs; choose another --output"):
        opened(workspace, n_groups=2, epochs=3)
    assert files(done.folder).keys() == DOCUMENTED


def test_a_configuration_that_made_nothing_yet_may_be_mended(workspace: Path) -> None:
    with pytest.raises(SelfInformedError, match="does not exist"):
        opened(workspace, holdout=str(workspace / "absent")).counts()
    run = opened(workspace)
    assert run.counts().n_examples == 240
    assert read_config(run.folder) == run.config


def test_a_moved_run_folder_stays_whole(done: Run, workspace: Path, monkeypatch) -> None:
    moved = done.folder.rename(workspace / "moved")
    forbid(monkeypatch, *STAGES)
    assert Run(read_config(moved)).report() == moved / "report.html"
    assert not (workspace / "out").exists()


def test_artefacts_without_a_configuration_are_refused(done: Run, workspace: Path) -> None:
    (done.folder / "config.yaml").unlink()
    with pytest.raises(SelfInformedError, match=r"holds artefacts but no config\.yaml"):
        opened(workspace)


@pytest.mark.parametrize(
    "name", ["counts.safetensors", "groups.json", "plan.json", "config.json", "heads.safetensors", "features/test.safetensors", "comparison.json"]
)
def test_a_half_written_artefact_is_one_line(done: Run, workspace: Path, name: str) -> None:
    path = done.folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for other in ("evaluation.json", "comparison.json"):
        if other != name:
            (done.folder / other).unlink()
    with pytest.raises(SelfInformedError, match=name):
        complete(opened(workspace))


def test_a_stopped_stage_leaves_nothing_half_written(workspace: Path, monkeypatch) -> None:
    run = opened(workspace)
    run.plan()
    monkeypatch.setattr(module, "fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run.augmented()
    assert not {"heads.safetensors", "config.json", "history.jsonl"} & files(run.folder).keys()
    monkeypatch.undo()
    complete(opened(workspace))
    assert set(files(run.folder)) == DOCUMENTED


def test_a_label_never_held_out_is_in_no_group(done: Run) -> None:
    assert 11 in done.groups().ungrouped
    assert done.augmented().n_labels == 12
    assert done.evaluation()["labels"][11]["positives"] > 0


def test_codetections_and_search_have_artefacts_of_their_own(workspace: Path) -> None:
    run = opened(workspace, arms=["base", "codetections"])
    assert run.comparison().arms == ["base", "codetections"]
    assert {"codetections.safetensors", "groups-codetections.json", "plan-codetections.json"} <= files(run.folder).keys()
    found = run.search()
    assert found["trials"]
    assert HeadPlan.from_dict(json.loads((run.folder / "search.json").read_text())["plan"]).extra_computation <= 1.5


def test_finetuned_weights_are_judged_on_examples(workspace: Path) -> None:
    run = opened(workspace, finetune=True)
    figures = run.evaluation()
    assert run.augmented().base_was_tuned
    assert opened(workspace, finetune=True).evaluation()["top1"] == figures["top1"]


@pytest.mark.parametrize("capacity", ["labels", "examples", "confusions"])
def test_every_way_to_divide_the_budget(workspace: Path, capacity: str) -> None:
    assert opened(workspace, capacity=capacity, dense_share=0.5).plan().extra_computation <= 1.5


def test_the_estimate_foresees_the_cache(workspace: Path) -> None:
    run = opened(workspace)
    estimate = run.estimate()
    store = run.features("train")
    assert estimate["cache_bytes"] == 4 * (store.attached.numel() + store.penultimate.numel())
    assert estimate["cache_seconds"] > 0
    assert estimate["training_seconds"] > 0


def test_unreadable_images_are_set_aside_listed_and_stay_so_on_resuming(workspace: Path) -> None:
    options = write_images(workspace, bad="class 3/2.png")
    with pytest.raises(SelfInformedError, match=r"class 3/2\.png cannot be read"):
        opened(workspace, **options).features("train")
    options |= {"skip_bad": 1, "arms": ["base", "confusions", "finetune"]}
    first = opened(workspace, **options)
    store = first.features("train")
    assert len(store) == len(store.targets) == 47
    (listed,) = json.loads((first.folder / "skipped-train.json").read_text())
    assert listed["example"] == [str(p) for p in first.inputs.examples("train").names].index(str(workspace / "images" / "class 3" / "2.png"))
    assert "class 3/2.png cannot be read" in listed["reason"]
    again = opened(workspace, **options)
    assert len(again.features("train").examples) == 47
    assert again.comparison().arms == ["base", "confusions", "finetune"]


def test_the_conditional_curve_is_made_for_other_numbers_of_heads_in_the_same_folder(workspace):
    config = read_config(workspace / "config.yaml")
    assert [row["top_groups"] for row in Run(config).conditional()] == [0, 3]
    assert [row["top_groups"] for row in Run(config.with_changes({"top_groups": [1, 9]})).conditional()] == [0, 1, 3]
    assert (workspace / "out" / "figures" / "conditional.png").exists()


def test_groups_are_found_by_the_method_that_was_chosen(workspace: Path) -> None:
    run = opened(workspace, grouping="greedy")
    assert run.groups().method == run.groups("codetections").method == "greedy"
    by_covariance = opened(workspace, grouping="hinton", output=str(workspace / "hinton"))
    assert by_covariance.groups().method == "hinton"  # which needs co-detections
    assert by_covariance.counts("codetections").kind == "codetections"
