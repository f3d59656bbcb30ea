"""A run folder: each stage writes its artefact once, and nothing is computed twice."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from conftest import refused, write_config, write_images
from selfinformed.augmented import saved as saved_module
from selfinformed.data.examples import Examples
from selfinformed.evidence import arms as arms_module
from selfinformed.evidence.comparison import Comparison
from selfinformed.network.points import AttachPoint
from selfinformed.network.wrap import wrap
from selfinformed.pipeline import run as module
from selfinformed.pipeline.artefacts import read_artefact
from selfinformed.pipeline.config import RunConfig, read_config
from selfinformed.pipeline.folder import RunFolder
from selfinformed.pipeline.inputs import Inputs
from selfinformed.pipeline.run import Run
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.structure.clustering import cluster
from selfinformed.structure.counts import ConfusionCounts
from selfinformed.structure.groups import LabelGroups
from selfinformed.structure.plans import HeadPlan
from selfinformed.training import structures as structures_module
from selfinformed.training.checkpoints import Checkpoint
from selfinformed.training.stepping import Training
from selfinformed.training.structures import Structure

DOCUMENTED = {
    "config.yaml", "network.json", "counts.safetensors", "groups.json", "plan.json", "probe.json", "heads.safetensors", "config.json", "history.jsonl",
    "evaluation.json", "comparison.json", "comparison.jsonl", "report.html",
    *(f"tables/{name}.{kind}" for name in ("comparison", "groups") for kind in ("csv", "md", "tex")),
    *(f"figures/{name}.{kind}" for name in ("cost", "confusions", "groups", "eigenvalues", "learning", "calibration") for kind in ("png", "svg")),
    "log/training.jsonl",
}  # fmt: skip


def opened(workspace: Path, **changes) -> Run:
    return Run(read_config(write_config(workspace, **changes)))


def complete(run: Run) -> Run:
    run.plan(), run.headroom(), run.augmented(), run.evaluation(), run.comparison(), run.report()
    return run


def files(folder: Path) -> dict[str, bytes]:
    """Every file but those of detections and features, whose number depends on the batch size."""
    made = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock") and not {"detections", "features"} & {*p.parts}]
    return {str(p.relative_to(folder)): p.read_bytes() for p in made}


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
        monkeypatch.setattr(structures_module if name == "fit" else module, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called again"))


STAGES = ("count", "cluster", "plan", "probe", "fit", "judge", "compare")


def test_just_the_documented_files_are_made(done: Run) -> None:
    assert set(files(done.folder)) == DOCUMENTED
    assert sorted(p.name for p in (done.folder / "features").iterdir()) == ["holdout", "test", "train"]
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
    assert set(files(run.folder)) == {"config.yaml", "network.json", "counts.safetensors", "groups.json"}


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
        ("config.json", "fit"), ("evaluation.json", "judge"), ("comparison.json", "compare"),
    ],
)  # fmt: skip
def test_a_deleted_artefact_is_made_again_and_nothing_else(done: Run, workspace: Path, monkeypatch, name: str, stage: str) -> None:
    before = content(done.folder / name)
    (done.folder / name).unlink()
    forbid(monkeypatch, *(s for s in STAGES if s != stage))
    again = complete(opened(workspace))
    assert content(again.folder / name) == before


def test_another_configuration_in_the_same_folder_is_refused(done: Run, workspace: Path) -> None:
    with pytest.raises(SelfInformedError, match="holds a run with another n_groups, epochs; choose another --output"):
        opened(workspace, n_groups=2, epochs=3)
    assert files(done.folder).keys() == DOCUMENTED


def test_an_option_of_one_artefact_makes_that_again_from_what_is_done(done: Run, workspace: Path) -> None:
    before = files(done.folder)
    rows = Comparison.load(done.folder / "comparison.json").rows
    again = opened(workspace, seeds=2, log=True)
    again.plan()
    assert files(done.folder) == before  # it is not lost by a verb that needs it not
    table = again.comparison()
    assert read_config(done.folder).seeds == 2
    assert [row for row in table.rows if row["seed"] == 0] == rows
    assert {row["seed"] for row in table.rows} == {0, 1}
    changed = {name for name, content in files(done.folder).items() if before.get(name) != content}
    assert changed == {"config.yaml", "comparison.json", "comparison.jsonl"}


def test_a_wrong_option_loses_nothing(done: Run, workspace: Path) -> None:
    before = files(done.folder)
    with pytest.raises(SelfInformedError, match="confuzions"):
        opened(workspace, arms=["base", "confuzions"]).comparison()
    with pytest.raises(SelfInformedError, match="nope.csv does not exist"):
        opened(workspace, mapping="nope.csv").evaluation()
    assert files(done.folder) == before


def test_seeds_edited_in_the_run_folder_are_heeded(done: Run) -> None:
    path = done.folder / "config.yaml"
    path.write_text(path.read_text().replace("seeds: 1", "seeds: 2"))
    assert Run(read_config(done.folder)).comparison().about["seeds"] == 2


def test_rows_of_other_tuning_stay_in_the_journal(done: Run, workspace: Path) -> None:
    rows = Comparison.load(done.folder / "comparison.json").rows
    assert opened(workspace, tuning=1).comparison().about["tuned"]
    assert opened(workspace).comparison().rows == rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("stability.json", "{}"), ("latency.json", '{"rows": null}'), ("conditional.json", "[{}]"), ("evaluation.json", '{"calibration": {}}'),
        ("evaluation.json", "[]"),
        ("probe.json", "[]"), ("probe.json", '{"earlier_points": 0}'), ("search.json", '{"trials": [{}]}'), ("log/training.jsonl", '{"step": 1, "loss"'),
    ],
)  # fmt: skip
def test_a_damaged_artefact_is_one_line_or_no_matter(done: Run, name: str, content: str) -> None:
    path = done.folder / name
    path.write_text(content)
    try:
        Run(read_config(done.folder)).report()
    except SelfInformedError as error:
        assert "delete" in str(error)
        assert path.name in str(error)


@pytest.mark.parametrize("change", [{"rows": []}, {"rows": None}, {"about": {}}, {"rows": "first"}])
def test_a_damaged_comparison_is_one_line(done: Run, change: dict[str, object]) -> None:
    path = done.folder / "comparison.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"seeds": 9}))
    with pytest.raises(SelfInformedError, match="checksum is of another content; delete it to have it made again, or, if the change is yours, its line"):
        Comparison.load(path)
    del content["checksum"]
    path.write_text(json.dumps(content | ({"rows": [{"arm": "base", "seed": 0}]} if change == {"rows": "first"} else change)))
    with pytest.raises(SelfInformedError, match=r"comparison\.json: not a valid comparison"):
        Comparison.load(path)


def test_a_configuration_that_made_nothing_yet_may_be_mended(workspace: Path) -> None:
    with pytest.raises(SelfInformedError, match="does not exist"):
        opened(workspace, holdout=str(workspace / "absent")).counts()
    run = opened(workspace)
    assert run.counts().n_examples == 240
    assert read_config(run.folder) == run.config


def test_a_run_is_of_one_network(workspace: Path, monkeypatch) -> None:
    weights = workspace / "weights.safetensors"
    network = opened(workspace).net.model
    save_file(network.state_dict(), weights)
    run = opened(workspace, checkpoint=str(weights), output=str(workspace / "other"))
    run.groups()
    kept = files(run.folder)
    wrapped = []
    monkeypatch.setattr(Inputs, "network", lambda self, network=Inputs.network: wrapped.append(1) or network(self))
    assert Run(run.config).folder == run.folder
    assert not wrapped  # what is there is read without the network as long as its file is what it was
    os.utime(weights, (1, 1))
    Run(run.config)  # the same weights in another file
    Run(run.config)
    assert len(wrapped) == 1
    save_file({name: value + 1 if value.is_floating_point() else value for name, value in network.state_dict().items()}, weights)
    for _ in range(2):
        with refused("other holds a run of", "with other weights than it has now; choose another --output, or delete the folder"):
            Run(run.config)
    assert {name: data for name, data in files(run.folder).items() if name != "network.json"} == {
        name: data for name, data in kept.items() if name != "network.json"
    }
    assert Run(read_config(write_config(workspace, checkpoint=str(weights), output=str(workspace / "third")))).counts().n_examples == 240


def test_weights_that_a_function_reads_are_noticed(done: Run, workspace: Path) -> None:
    assert opened(workspace).evaluation()
    model = workspace / "model.py"
    text = (workspace / "data" / "model.py").read_text()
    model.write_text(text.replace("torch.manual_seed(0)", "torch.manual_seed(SEED)") + "SEED = 0\n")
    config = done.folder / "config.yaml"
    config.write_text(config.read_text().replace(str((workspace / "data" / "model.py").resolve()), str(model)))
    before = Run(read_config(done.folder)).evaluation()
    model.write_text(model.read_text().replace("SEED = 0", "SEED = 1"))
    with refused("with other weights than it has now"):
        Run(read_config(done.folder))
    model.write_text(model.read_text().replace("SEED = 1", "SEED = 0"))
    assert Run(read_config(done.folder)).evaluation() == before


def test_other_code_with_the_same_weights_is_noticed(done: Run, workspace: Path) -> None:
    model = workspace / "model.py"
    text = (workspace / "data" / "model.py").read_text()
    model.write_text(text)
    config = done.folder / "config.yaml"
    config.write_text(config.read_text().replace(str((workspace / "data" / "model.py").resolve()), str(model)))
    (done.folder / "evaluation.json").unlink()
    before = Run(read_config(done.folder)).evaluation()
    (done.folder / "evaluation.json").unlink()
    model.write_text(text.replace("self.trunk(x)", "self.trunk(-x)"))
    with refused("holds features that the network does not give any more, though its weights are the same: the model's code has changed"):
        Run(read_config(done.folder)).evaluation()
    model.write_text(text)
    assert Run(read_config(done.folder)).evaluation() == before


@pytest.mark.parametrize("split", ["train", "holdout", "test"])
def test_data_that_were_written_anew_are_noticed(done: Run, workspace: Path, split: str) -> None:
    path = workspace / f"{split}.npz"
    shutil.copy(workspace / "data" / f"{split}.npz", path)
    config = done.folder / "config.yaml"
    config.write_text(config.read_text().replace(str((workspace / "data" / path.name).resolve()), str(path)))
    Run(read_config(done.folder))  # the same data in another file
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, "inputs": arrays["inputs"] + 1})
    for _ in range(2):
        with refused("of other data"):
            Run(read_config(done.folder))
    shutil.copy(workspace / "data" / f"{split}.npz", path)
    assert Run(read_config(done.folder)).evaluation()


@pytest.mark.parametrize("how", ["moved", "deleted", "in a shard"])
def test_images_that_come_and_go_are_noticed(workspace: Path, how: str) -> None:
    options, images = write_images(workspace), workspace / "images"
    shards = [workspace / f"test-{i}.tar" for i in range(2)]
    for shard, labels in zip(shards, (range(6), range(6, 12)), strict=True):
        write_shard(shard, images, labels)
    changes = options | {"labels": None, "image_size": 6} | ({"test": str(workspace / "test-{0..1}.tar")} if how == "in a shard" else {})
    assert opened(workspace, **changes).evaluation()
    before = {path: path.stat().st_mtime_ns for path in (images, images / "class 3")}
    if how == "moved":
        (images / "class 3" / "0.png").rename(images / "class 4" / "9.png")
    elif how == "deleted":
        (images / "class 3" / "0.png").unlink()
    else:
        write_shard(shards[1], images, range(11, 5, -1))
    assert how == "in a shard" or before[images] == images.stat().st_mtime_ns  # only the subfolders know
    with refused("of other data"):
        opened(workspace, **changes)


def write_shard(path: Path, images: Path, labels: Iterable[int]) -> None:
    """Of each label one image; called by place, so that only what is in it differs."""
    with tarfile.open(path, "w") as tar:
        for place, label in enumerate(labels):
            for ending, data in (("png", (images / f"class {label}" / "0.png").read_bytes()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{place}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_label_names_that_were_edited_are_noticed(done: Run, workspace: Path) -> None:
    names = workspace / "labels.txt"
    names.write_text((workspace / "data" / "labels.txt").read_text())
    config = done.folder / "config.yaml"
    config.write_text(config.read_text().replace(str((workspace / "data" / "labels.txt").resolve()), str(names)))
    (done.folder / "groups.json").unlink()
    Run(read_config(done.folder)).groups()  # keeps what the names are
    names.write_text("\n".join(reversed(names.read_text().split("\n"))))
    with refused(r"holds what was made when .*labels\.txt \(labels\) had another content than it has now; choose another --output"):
        Run(read_config(done.folder))
    names.write_text((workspace / "data" / "labels.txt").read_text())
    assert Run(read_config(done.folder)).evaluation()  # written anew, as it was


def test_saved_predictions_that_were_written_anew_are_noticed(tmp_path: Path) -> None:
    config = RunConfig().with_changes({"predictions": str(tmp_path / "p.npz"), "n_labels": 6, "output": str(tmp_path / "out"), "n_groups": 2})
    rng = np.random.default_rng(0)
    for n in (50, 60):
        np.savez(tmp_path / "p.npz", ids=np.argsort(rng.random((n, 6)), axis=1)[:, :4], labels=rng.integers(0, 6, n))
        if n == 50:
            assert Run(config).counts().n_examples == 50
    with refused(r"holds what was made when .*p\.npz \(predictions\) had another content than it has now"):
        Run(config)


def test_another_mapping_in_the_same_file_is_noticed(done: Run, workspace: Path) -> None:
    mapping, recalls = workspace / "map.csv", []
    for n in (4, 8, 8):
        mapping.write_text("source,target\n" + "".join(f"class {i},class {i}\n" for i in range(n)))
        run = opened(workspace, mapping=str(mapping))
        recalls.append(run.evaluation()["recall_at"])
    assert recalls[0] != recalls[1] == recalls[2]


def test_milliseconds_are_of_the_heads_that_are_there(done: Run, workspace: Path) -> None:
    before = done.latency()["extra_computation"]
    config = done.folder / "config.yaml"
    config.write_text(config.read_text().replace("budget: 0.5", "budget: 1.0"))
    for name in ("probe.json", "plan.json", "config.json", "evaluation.json", "comparison.json"):  # not latency.json
        (done.folder / name).unlink()
    run = Run(read_config(done.folder))
    assert run.evaluation()["extra_computation"] == run.latency()["extra_computation"] > before
    kept = (done.folder / "latency.json").read_bytes()
    assert Run(read_config(done.folder)).latency()
    assert (done.folder / "latency.json").read_bytes() == kept


def test_of_two_that_begin_a_folder_at_once_one_is_refused(workspace: Path) -> None:
    two, three = opened(workspace, n_groups=2), opened(workspace, n_groups=3)  # nothing was made, so the second wrote its options over the first's
    with refused("holds a run with another n_groups; choose another --output"):
        two.groups()
    assert len(three.groups()) == 3


def test_only_files_that_writers_leave_are_cleared_away(done: Run) -> None:
    mine, theirs = done.folder / "figures" / ".cost.png.abcd1234.part", [done.folder / "mine" / ".a.zip.abcd1234.part", done.folder / ".download.zip.part"]
    theirs[0].parent.mkdir()
    for path in (mine, *theirs):
        path.write_text("")
        os.utime(path, (0, 0))
    (done.folder / "evaluation.json").unlink()
    assert Run(read_config(done.folder)).evaluation()
    assert (mine.exists(), *(path.exists() for path in theirs)) == (False, True, True)


@pytest.mark.parametrize("kept", ["config.json", "detections", "features"])
def test_a_run_folder_without_the_file_of_its_network_gets_one(done: Run, workspace: Path, kept: str) -> None:
    fingerprint = json.loads((done.folder / "network.json").read_text())["fingerprint"]
    for name in {"network.json", "config.json"} - {kept}:  # of an earlier version, or of a process that ended before anything was whole
        (done.folder / name).unlink()
    for name in {"detections", "features"} - {kept}:
        shutil.rmtree(done.folder / name)
    model = workspace / "data" / "model.py"
    other = (workspace / "other.py")
    other.write_text(model.read_text().replace("torch.manual_seed(0)", "torch.manual_seed(1)"))
    (done.folder / "config.yaml").write_text((done.folder / "config.yaml").read_text().replace(str(model.resolve()), str(other)))
    with refused("with other weights than it has now"):
        _ = Run(read_config(done.folder)).net
    assert not (done.folder / "network.json").exists()
    (done.folder / "config.yaml").write_text((done.folder / "config.yaml").read_text().replace(str(other), str(model.resolve())))
    assert opened(workspace).net.fingerprint == fingerprint
    assert json.loads((done.folder / "network.json").read_text())["fingerprint"] == fingerprint


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "selfinformed.network/9", "fingerprint": "a"}', '{"format": "selfinformed.network/1"}', "{"])
def test_a_damaged_file_of_the_network_is_one_line(done: Run, workspace: Path, content: str) -> None:
    (done.folder / "network.json").write_text(content)
    with refused("network.json"):
        opened(workspace)


def test_the_configuration_of_a_run_folder_is_that_of_this_folder(done: Run, workspace: Path) -> None:
    copied = shutil.copytree(done.folder, workspace / "copied")
    assert read_config(copied / "config.yaml") == read_config(copied) == replace(done.config, output=str(copied))
    shutil.copy(done.folder / "counts.safetensors", workspace)  # beside a configuration of one's own
    assert read_config(workspace / "config.yaml").output == str(done.folder)


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
    "name", ["counts.safetensors", "groups.json", "plan.json", "config.json", "heads.safetensors", "features/test/unit-000002.safetensors", "comparison.json"]
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
    monkeypatch.setattr(structures_module, "fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run.augmented()
    assert not {"heads.safetensors", "config.json", "history.jsonl"} & files(run.folder).keys()
    monkeypatch.undo()
    complete(opened(workspace))
    assert set(files(run.folder)) == DOCUMENTED


def test_a_training_that_was_killed_goes_on_to_the_same_weights(workspace: Path, monkeypatch) -> None:
    changes = {"epochs": 3, "batch_size": 64, "patience": 3, "label_smoothing": 0.1, "log": True}
    whole = opened(workspace, output=str(workspace / "whole"), **changes).augmented()
    original, taken = Training._step, []

    def step(self, rows) -> None:
        taken.append(self.state.step)
        if len(taken) == 11:
            raise KeyboardInterrupt
        original(self, rows)

    monkeypatch.setattr(Training, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        opened(workspace, **changes).augmented()
    run = opened(workspace, **changes)
    again = run.augmented()
    assert taken == [*range(11), *range(8, 12)]
    assert all(torch.equal(a, b) for a, b in zip(whole.new_parameters(), again.new_parameters(), strict=True))
    assert not (run.folder / "training.safetensors").exists()
    rows = [json.loads(line) for line in (run.folder / "history.jsonl").read_text("utf-8").splitlines()]
    assert sum(row["kept"] for row in rows) == 1
    assert [json.loads(line)["step"] for line in (run.folder / "log" / "training.jsonl").read_text("utf-8").splitlines()][-1] == 12


def test_the_comparison_trains_by_the_same_recipe(workspace: Path, monkeypatch) -> None:
    given = []
    fit = arms_module.fit
    monkeypatch.setattr(arms_module, "fit", lambda *args, **options: given.append(options.get("recipe")) or fit(*args, **options))
    opened(workspace, label_smoothing=0.1).comparison()
    assert given == [{"label_smoothing": 0.1}] * 2


def test_heads_are_trained_as_the_probe_found_better(workspace: Path, monkeypatch) -> None:
    given = []
    fit = structures_module.fit
    monkeypatch.setattr(structures_module, "fit", lambda *args, **options: given.append(options.get("recipe")) or fit(*args, **options))
    run = opened(workspace, residual="auto")
    run.augmented()
    assert given == [{"residual": run.headroom()["residual"]}]
    probe = run.folder / "probe.json"
    content = json.loads(probe.read_text("utf-8"))
    del content["residuals"], content["checksum"]  # as an earlier version wrote it
    probe.write_text(json.dumps(content), "utf-8")
    (run.folder / "config.json").unlink()
    opened(workspace, residual="auto").augmented()
    assert given[0] == given[1]
    assert json.loads(probe.read_text("utf-8"))["residuals"] == [1.0, 0.25, 0.0]


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
    found = json.loads((run.folder / "search.json").read_text())
    assert HeadPlan.from_dict(found["plan"]).extra_computation > 1
    # executed on average; other examples choose heads a little differently
    assert [row["structure"] for row in found["trials"] if row["extra_computation"] > 1.52] == []


def test_earlier_points_kept_as_maps_are_searched_and_what_wins_is_compared(workspace: Path) -> None:
    run = opened(workspace, attach="trunk.0:map, trunk", arms=["base", "dense", "searched"], candidates=64, rounds=1)
    choices = [row["choice"] for row in run.search()["trials"]]
    assert {choice["attach"] for choice in choices} == {"trunk.0", "trunk"}
    assert any(choice["copy"] for choice in choices)
    assert any(choice["kernel"] == 3 for choice in choices)
    assert run.plan().sources[0].start == run.net.shapes[0].size  # heads read the trunk's output unless told otherwise
    assert run.comparison().arms == ["base", "dense", "searched"]


def test_what_the_search_found_is_trained_judged_and_kept(workspace: Path) -> None:
    planned = opened(workspace)
    planned.augmented(), planned.evaluation()
    heads = (planned.folder / "heads.safetensors").read_bytes()
    options = {"structure": "searched", "candidates": 4, "rounds": 1, "budget": 0.5}
    for asked in (Run.augmented, Run.evaluation, Run.conditional):
        with refused("has heads of another structure than searched", "selfinformed fit", "--structure searched"):
            asked(opened(workspace, **options))
    assert (planned.folder / "heads.safetensors").read_bytes() == heads
    run = opened(workspace, **options)
    aug = run.augmented(replace_others=True)
    best = Structure.from_dict(run.search()["best"])
    assert aug.plan.to_dict() == best.plan.to_dict() != planned.plan().to_dict()
    assert aug.top_groups == best.top_groups
    figures = run.evaluation()
    assert figures["multiply_adds"] <= aug.plan.multiply_adds
    expected, _ = best.train(
        run.net, run.features("train"), holdout=run.features("holdout"), epochs=1, seed=0, batch_size=256, learning_rate=6e-3, classifier_learning_rate=3e-3
    )
    inputs = run.inputs.examples("test").read(range(20))
    torch.testing.assert_close(aug.logits(inputs), expected.logits(inputs))
    again = opened(workspace, **options)
    assert torch.equal(again.augmented().logits(inputs), aug.logits(inputs))
    assert again.evaluation().items() >= json.loads(json.dumps(figures)).items()
    assert [row["top_groups"] for row in again.conditional()] == sorted({0, aug.top_groups or len(aug.plan.groups), len(aug.plan.groups)})
    with refused("of another structure than planned", "to go on with them: --structure searched; to replace them: selfinformed fit"):
        opened(workspace).evaluation()
    assert planned.is_trained is False is not again.is_trained
    back = opened(workspace)
    assert back.augmented(replace_others=True).plan.to_dict() == planned.plan().to_dict()
    assert back.evaluation()["multiply_adds"] == planned.plan().multiply_adds
    assert opened(workspace).evaluation()["multiply_adds"] == planned.plan().multiply_adds


def test_heads_of_an_earlier_search_are_noticed(workspace: Path) -> None:
    """Also where the later one found the same heads, trained otherwise."""
    options = {"structure": "searched", "candidates": 2, "rounds": 1}
    opened(workspace, **options).evaluation()
    search = workspace / "out" / "search.json"
    content = json.loads(search.read_text("utf-8"))
    content["best"]["rate"] = 0.125
    content.pop("checksum")
    search.write_text(json.dumps(content), "utf-8")
    run = opened(workspace, **options)
    assert not run.is_trained
    with refused("or of an earlier search", "selfinformed fit"):
        run.evaluation()
    before = (run.folder / "heads.safetensors").read_bytes()
    run.augmented(replace_others=True)
    assert (run.folder / "heads.safetensors").read_bytes() != before
    assert opened(workspace, **options).is_trained
    search.unlink()  # a folder that is served has none
    assert opened(workspace, **options).is_trained


def test_heads_are_never_described_by_the_configuration_of_others(workspace: Path, monkeypatch) -> None:
    """A process that ends between the two files leaves a training that goes on, and not the weights of one network under the name of the other."""
    opened(workspace, structure="searched", candidates=2, rounds=1).augmented()
    write = saved_module.write_json
    monkeypatch.setattr(saved_module, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        opened(workspace).augmented(replace_others=True)
    monkeypatch.setattr(saved_module, "write_json", write)
    run = opened(workspace)
    assert not run.is_trained
    assert run.augmented().plan.to_dict() == run.plan().to_dict()
    assert run.evaluation()["multiply_adds"] == run.plan().multiply_adds


def test_a_comparison_that_did_not_try_the_rate_of_what_was_found_is_made_again(workspace: Path) -> None:
    options = {"candidates": 2, "rounds": 1, "arms": ["base", "classifier", "searched"]}
    run = opened(workspace, **options)
    run.comparison()
    for rate, again in ((1.0, False), (0.5, True)):
        search, comparison = (json.loads((run.folder / f"{name}.json").read_text("utf-8")) for name in ("search", "comparison"))
        search["best"]["rate"] = rate
        comparison["about"].pop("revision", None)  # as earlier versions wrote it
        for name, content in (("search", search), ("comparison", comparison)):
            content.pop("checksum", None)
            (run.folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
        assert ("revision" in opened(workspace, **options).comparison().about) is again


def test_what_a_later_search_finds_is_compared_too(workspace: Path) -> None:
    changes = {"arms": None, "output": str(workspace / "later"), "candidates": 2, "rounds": 1, "epochs": 1, "seeds": 1}
    run = opened(workspace, **changes)
    assert "searched" not in run.comparison().arms
    run.search()
    table = opened(workspace, **changes).comparison()
    assert "searched" in table.arms
    assert table.method == "searched"
    content = json.loads((run.folder / "search.json").read_text())
    (run.folder / "search.json").write_text(json.dumps({"trials": content["trials"], "format": "another/2"}))
    with pytest.raises(SelfInformedError, match="expected selfinformed.search/1, found 'another/2'; delete it"):
        opened(workspace, **changes).search()


def test_a_search_is_replaced_by_the_verb_search_alone(workspace: Path) -> None:
    opened(workspace, candidates=2, rounds=1).search()
    before = (workspace / "out" / "search.json").read_bytes()
    other = opened(workspace, candidates=3, rounds=1, arms=["base", "confusions", "searched"])
    for verb in (other.comparison, other.report):
        with refused("search.json is of a search with other options than these", "name the run folder"):
            verb()
    assert (workspace / "out" / "search.json").read_bytes() == before
    other.search()
    assert (workspace / "out" / "search.json").read_bytes() != before


def test_another_dense_head_of_a_search_is_compared_again_and_nothing_else(workspace: Path) -> None:
    options = {"candidates": 4, "rounds": 1, "budget": 0.5, "arms": ["base", "classifier", "searched", "searched_dense"]}
    run = opened(workspace, **options)
    found = run.search()
    search = workspace / "out" / "search.json"
    other = {**found["dense"], "rate": 0.125}
    if found["best"] == found["dense"]:
        assert run.comparison().arms == ["base", "classifier", "searched"]
        assert opened(workspace, **options).comparison().rows == run.comparison().rows

    def with_dense(dense: dict) -> Comparison:
        content = json.loads(search.read_text("utf-8")) | {"dense": dense}
        content.pop("checksum", None)
        search.write_text(json.dumps(content), "utf-8")
        return opened(workspace, **options).comparison()

    first = with_dense(other)
    second = with_dense({**other, "rate": 8.0})
    assert first.arms == second.arms == options["arms"]
    for one, two in zip(first.rows, second.rows, strict=True):
        assert (one == two) == (one["arm"] != "searched_dense")
    assert with_dense(found["best"]).arms == ["base", "classifier", "searched"]  # the structure itself is a dense head


def test_latency_is_measured_on_mixed_examples_that_can_be_read(workspace: Path) -> None:
    by_time = {"budget_of": "latency", "output": str(workspace / "timed")}
    examples = opened(workspace).inputs.examples("holdout")
    for size, batches in ((1, 10), (10, 6), (70, 1)):
        found = opened(workspace, **by_time, latency_batch=size).inputs.batches_to_time()
        assert [len(batch) for batch in found] == [size] * batches
        together = torch.cat(found)
        assert len(torch.unique(together, dim=0)) == len(together)
        assert not torch.equal(together, examples.read(range(len(together))))
    with refused(f"latency_batch: expected at most the {len(examples):,} hold-out examples, got 5,000"):
        opened(workspace, **by_time, latency_batch=5_000).inputs.batches_to_time()
    damaged = opened(workspace, **by_time, latency_batch=10, skip_bad=3)

    def read(rows: list[int]) -> torch.Tensor:
        if any(row % 40 == 0 for row in rows):
            raise SelfInformedError("broken")
        return examples.read(rows)

    found = [len(batch) for batch in _batches_of(damaged, replace(examples, read=read, skip_bad=99))]
    assert found == [10] * len(found)


def _batches_of(run: Run, examples: Examples) -> list[torch.Tensor]:
    run.inputs.examples = lambda part: examples
    return run.inputs.batches_to_time()


def test_hintons_heads_are_as_many_at_the_methods_cost_and_learning_rates_are_tried(workspace: Path, monkeypatch) -> None:
    asked, cluster = [], module.cluster

    def watched(counts, *args, method="spectral"):
        asked.append((counts.kind, args[0], method))
        return cluster(counts, *args)

    run = opened(workspace, arms=["base", "confusions", "hinton"], tuning=2)
    heads = run.plan()
    monkeypatch.setattr(module, "cluster", watched)
    table = run.comparison()
    assert asked == [("codetections", len(heads.groups), "hinton")]
    assert table.arms == ["base", "confusions", "hinton"]
    assert heads.multiply_adds - len(heads.groups) * (144 + 12) < table.values("hinton", "multiply_adds")[0] <= heads.multiply_adds
    assert table.about["tuned"].keys() == {"confusions", "hinton"}
    assert [tried["factor"] for tried in table.about["tuned"]["hinton"]["tries"]] == [1.0, 2.0]


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
    assert store.attached is store.penultimate  # this network has no stack
    assert estimate["cache_bytes"] == 4 * store.attached.numel()
    assert estimate["cache_seconds"] > 0
    assert estimate["training_seconds"] > 0


def test_features_in_float16_take_half_and_train_as_well(workspace: Path) -> None:
    said: list[str] = []
    run = Run(read_config(write_config(workspace, feature_dtype="float16")), said.append)
    assert run.estimate()["cache_bytes"] == 2 * 240 * 144
    assert run.features("train").attached.dtype == torch.float16
    assert run.features("train").batch(torch.tensor([0]))[0].dtype == torch.float32
    assert run.evaluation()["mean_average_precision"] > run.evaluation()["base"]["mean_average_precision"]
    assert sum("features/train will take 0 MB of disk and about 0 s in all" in line for line in said) == 1


def test_a_stopped_cache_goes_on_where_it_was(done: Run, workspace: Path) -> None:
    folder = done.folder / "features" / "train"
    before = {path.name: path.read_bytes() for path in folder.glob("unit-*")}
    (folder / "unit-000001.safetensors").unlink()
    (inode,) = {path.stat().st_ino for path in folder.glob("unit-000003.*")}
    store = opened(workspace).features("train")
    assert len(store) == 240
    assert {path.name: path.read_bytes() for path in folder.glob("unit-*")} == before
    assert (folder / "unit-000003.safetensors").stat().st_ino == inode


def test_features_that_an_older_version_kept_in_one_file_are_read(done: Run, workspace: Path, monkeypatch) -> None:
    store = done.features("test")
    shutil.rmtree(done.folder / "features" / "test")
    store.save(done.folder / "features" / "test.safetensors")
    monkeypatch.setattr(module.FeatureStore, "build", lambda *_, **__: pytest.fail("features were computed again"))
    again = opened(workspace).features("test")
    assert torch.equal(again.attached, store.attached)
    assert not (done.folder / "features" / "test").exists()


def test_unreadable_images_are_set_aside_listed_and_stay_so_on_resuming(workspace: Path) -> None:
    options = write_images(workspace, bad="class 3/2.png")
    with pytest.raises(SelfInformedError, match=r"class 3/2\.png cannot be read"):
        opened(workspace, **options).features("train")
    options |= {"skip_bad": 1, "arms": ["base", "confusions", "finetune"]}  # as the error says, in the same folder
    first = opened(workspace, **options)
    store = first.features("train")
    assert len(store) == len(store.targets) == 47
    (listed,) = read_artefact(first.folder / "skipped-train.json")
    assert listed["example"] == [str(p) for p in first.inputs.examples("train").names].index(str(workspace / "images" / "class 3" / "2.png"))
    assert "class 3/2.png cannot be read" in listed["reason"]
    again = opened(workspace, **options)
    assert len(again.features("train").examples) == 47
    assert read_config(again.folder).skip_bad == 1
    assert again.comparison().arms == ["base", "confusions", "finetune"]


def test_the_conditional_curve_is_made_for_other_numbers_of_heads_in_the_same_folder(workspace):
    config = read_config(workspace / "config.yaml")
    assert [row["top_groups"] for row in Run(config).conditional()] == [0, 3]
    assert [row["top_groups"] for row in Run(config.with_changes({"top_groups": [1, 9]})).conditional()] == [0, 1, 3]
    assert (workspace / "out" / "figures" / "conditional.png").exists()


def test_the_probe_is_made_again_for_more_attach_points_only(workspace: Path, monkeypatch) -> None:
    def rows(run: Run) -> list[str]:
        return [row["attach"] for row in run.headroom()["attach_points"]]

    config, said = read_config(workspace / "config.yaml"), []
    more = config.with_changes({"attach_points": 1})
    assert rows(Run(config)) == ["the input of 'classifier'"]
    assert rows(Run(more)) == ["the input of 'classifier'"]  # its one convolution ends the trunk
    (workspace / "out" / "probe.json").unlink()
    with_pooled = [AttachPoint("trunk.2", "output", "mean"), AttachPoint("classifier", "input")]
    monkeypatch.setattr(module, "with_earlier_points", lambda net, n: wrap(net.model, net.example_inputs, labels=net.labels, attach=with_pooled[-1 - n :]))
    three = ["the output of 'trunk.2'", "the input of 'classifier'", "all attach points side by side"]
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(module, "probe", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        rows(Run(more))
    cached = [workspace / "out" / "features" / f"{part}-1-earlier" for part in ("train", "holdout")]
    times = [path.stat().st_mtime_ns for folder in cached for path in sorted(folder.glob("unit-*"))]
    assert times  # what was cached is there for the next call
    unlinked = []

    def remove(folder: Path, ignore_errors: bool) -> None:
        unlinked.extend(path.stat().st_mtime_ns for path in sorted(folder.glob("unit-*")))
        shutil.rmtree(folder, ignore_errors)

    monkeypatch.setattr(module, "rmtree", remove)
    assert rows(Run(more, said.append)) == three
    assert unlinked == times  # which has read it
    assert not any(folder.exists() for folder in cached)
    assert any("heads may read the output of 'trunk.2'" in line and "takes about" in line for line in said)
    monkeypatch.setattr(module, "probe", lambda *_, **__: pytest.fail("it was probed again"))
    assert rows(Run(config)) == rows(Run(more)) == three
    assert list(json.loads((workspace / "out" / "probe.json").read_text())["forecast"]) == ["gain", "interval", "choice", "optimism", "budget"]


def test_the_probe_forecasts_for_what_the_plan_costs(workspace: Path) -> None:
    assert opened(workspace).headroom()["forecast"]["budget"] == 0.5
    given = opened(workspace, hidden=[4], output=str(workspace / "given"))
    assert given.headroom()["forecast"]["budget"] == pytest.approx(given.plan().extra_computation - 1)
def test_groups_are_found_by_the_method_that_was_chosen(workspace: Path) -> None:
    run = opened(workspace, grouping="greedy")
    assert run.groups().method == run.groups("codetections").method == "greedy"
    by_covariance = opened(workspace, grouping="hinton", output=str(workspace / "hinton"))
    assert by_covariance.groups().method == "hinton"  # which needs co-detections
    assert by_covariance.counts("codetections").kind == "codetections"
    assert by_covariance.groups("codetections").method == "spectral"  # else both arms of a comparison would be one
    unannotated = opened(workspace, grouping="codetections", output=str(workspace / "codetections"))
    assert unannotated.groups().method == "codetections"
    assert unannotated.groups().to_dict()["members"] == cluster(unannotated.counts("codetections"), 3, labels=unannotated.labels).to_dict()["members"]
    assert not (unannotated.folder / "counts.safetensors").exists()
    assert unannotated.stability()["n_groups"] == 3


def test_a_second_view_of_the_test_examples_is_an_arm(workspace: Path) -> None:
    mirrored = opened(workspace, second_view="mirrored", arms=["base", "classifier", "views"])
    images, flipped = (mirrored.inputs.examples(part) for part in ("test", "second_view"))
    assert torch.equal(flipped.read([0, 3]), images.read([0, 3]).flip(3))
    assert flipped.fingerprint != images.fingerprint
    table = mirrored.comparison()
    assert table.arms == ["base", "classifier", "views"]
    assert 1 < table.values("views", "extra_computation")[0] <= mirrored.plan().extra_computation
    same = opened(workspace, second_view=mirrored.config.test, arms=["classifier", "views"], output=str(workspace / "same")).comparison()
    assert same.values("views") == pytest.approx(same.values("classifier"))


def test_the_probe_trains_as_fit_does(workspace: Path, monkeypatch) -> None:
    given: dict[str, object] = {}
    probe = module.probe
    monkeypatch.setattr(module, "probe", lambda *args, **options: given.update(options) or probe(*args, **options))
    opened(workspace, residual=0.25, learning_rate=1e-3, head_input="raw", epsilon=1e-4).headroom()
    assert given["recipe"] == {"residual": 0.25, "epsilon": 1e-4}
    assert (given["learning_rate"], given["head_input"]) == (1e-3, "raw")


def test_another_network_teaches_all_that_is_trained(workspace: Path, monkeypatch) -> None:
    given = []
    for place in (structures_module, arms_module):
        fit = place.fit
        monkeypatch.setattr(place, "fit", lambda *args, fit=fit, **options: given.append(options["teacher"]) or fit(*args, **options))
    data = (workspace / "data").resolve()
    (workspace / "teacher.py").write_text((data / "model.py").read_text("utf-8"), "utf-8")
    options = {"soft_targets": 0.5, "teacher": f"{workspace / 'teacher.py'}:make"}
    run = opened(workspace, **options)
    run.headroom(), run.augmented(), run.comparison()
    assert len(given) == 3
    assert given[0] is given[1] is given[2]
    assert sorted(path.name for path in (run.folder / "features").iterdir()) == ["holdout", "teacher", "test", "train"]
    inputs, rows = run.inputs.examples("train"), [5, 0, 17]
    with torch.no_grad():
        torch.testing.assert_close(given[0](torch.tensor(rows)), given[0].net.logits(inputs.read(rows)))
    journal = (run.folder / "comparison.jsonl").read_bytes()
    (run.folder / "comparison.json").unlink()
    monkeypatch.setattr(module.FeatureStore, "build", lambda *_, **__: pytest.fail("features were computed again"))
    opened(workspace, **options).comparison()
    assert (run.folder / "comparison.jsonl").read_bytes() == journal
    with refused("another", "teacher"):
        opened(workspace, soft_targets=0.5)
    teacher = workspace / "teacher.py"
    teacher.write_text(teacher.read_text("utf-8").replace("manual_seed(0)", "manual_seed(1)"), "utf-8")
    (run.folder / "comparison.json").unlink()
    with refused("features/teacher holds features of another teacher", "choose another --output"):
        opened(workspace, **options).comparison()


def test_a_teacher_that_cannot_be_had_is_refused_before_anything_is_made(workspace: Path) -> None:
    options = {"soft_targets": 0.5, "teacher": f"{workspace / 'teacher.py'}:make"}
    with refused("teacher: model: the file", "does not exist"):
        opened(workspace, **options).augmented()
    assert [path.name for path in (workspace / "out").iterdir() if path.name != ".lock"] == ["config.yaml"]
    assert opened(workspace, soft_targets=0.5).plan()


def test_a_search_starts_from_the_classifier_that_fit_starts_from(workspace: Path, monkeypatch) -> None:
    given: dict[str, object] = {}
    search = module.search
    monkeypatch.setattr(module, "search", lambda *args, **options: given.update(options) or search(*args, **options))
    assert opened(workspace, keep_classifier=False, candidates=2, rounds=1).search()["trials"]
    assert given["classifier"] == "reinitialise"


def test_a_second_process_is_told_of_the_first(workspace: Path, monkeypatch) -> None:
    run = opened(workspace)
    run.counts()
    refused = []

    def elsewhere(*args, **kwargs):
        done = subprocess.run([sys.executable, "-m", "selfinformed", "cluster", str(workspace / "out")], capture_output=True, text=True)
        refused.append((done.returncode, done.stderr))
        assert opened(workspace).counts().n_examples == 240  # reading needs no lock
        return cluster(*args, **kwargs)

    cluster = module.cluster
    monkeypatch.setattr(module, "cluster", elsewhere)
    run.groups()
    [(code, said)] = refused
    assert code == 75
    assert f"out is in use by process {os.getpid()} on {socket.gethostname()} (cluster: " in said
    assert "wait for it, or choose another --output" in said
    monkeypatch.setattr(module, "cluster", lambda *args: pytest.fail("the first has made it"))
    assert len(opened(workspace).groups()) == len(run.groups())
    assert sorted(p.name for p in run.folder.glob(".*")) == [".lock"]


def test_an_artefact_says_itself_what_it_was_made_with(workspace: Path, monkeypatch) -> None:
    """A process that ends between an artefact and config.yaml leaves no doubt which options made it."""
    before = opened(workspace, bootstraps=3).stability()
    monkeypatch.setattr(RunFolder, "_keep_options", lambda *_: None)
    after = opened(workspace, bootstraps=4).stability()
    monkeypatch.undo()
    assert read_config(workspace / "out").bootstraps == 3
    forbid(monkeypatch, "stability")
    assert opened(workspace, bootstraps=4).stability()["bootstraps"] == list(after["bootstraps"])
    monkeypatch.undo()
    assert opened(workspace, bootstraps=3).stability()["bootstraps"] == before["bootstraps"]  # made again


def test_what_a_process_left_behind_at_the_very_end_goes(done: Run) -> None:
    """Killed between a result and the removal of what led to it."""
    claim, checkpoint = done.folder / "features" / "test" / "claims" / "000000.json", done.folder / "training.safetensors"
    claim.write_text("{}")
    Checkpoint(checkpoint, {}).write({}, {"finished": True})
    again = Run(done.config)
    again.features("test"), again.augmented(replace_others=True)
    assert not claim.exists()
    assert not checkpoint.exists()


def test_who_reads_the_heads_leaves_a_training_of_others_alone(done: Run, monkeypatch) -> None:
    checkpoint = done.folder / "training.safetensors"
    Checkpoint(checkpoint, {}).write({}, {"finished": True})
    Run(done.config).augmented()
    assert checkpoint.exists()  # its process may be about to save the heads
    Checkpoint(checkpoint, {}).write({}, {"finished": False})
    Run(done.config).augmented(replace_others=True)
    assert checkpoint.exists()  # of another structure, stopped within its training
    checkpoint.unlink()

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)  # what a read-only mount says of a file that is not there, too
    Run(done.config).augmented()
