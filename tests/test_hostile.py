"""Files made to do harm: none runs code, leads out of its folder, takes more memory than its kind may, or puts a script into a report."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hostile import HOSTILE
from malformed import YAML, call, png, write_data
from selfinformed.data.labels import LabelSpace
from selfinformed.evidence.papers import to_csv
from selfinformed.evidence.reporting import Findings, report
from selfinformed.evidence.runs import RunFindings, report_runs
from selfinformed.runtime.tabular import Table


@dataclass(frozen=True)
class Place:
    """Where a test works: `data` is shared and sound, `here` its own; code that runs would make `canary`; nothing may be written `outside`."""

    data: Path
    here: Path
    canary: Path
    outside: Path

    def measure(self, *options: object) -> tuple[int | BaseException, str, str]:
        return call("measure", self.data / "config.yaml", "--output", self.here / "out", *options)

    def count(self, file: Path, *options: object) -> tuple[int | BaseException, str, str]:
        return call("measure", "--predictions", file, "--n-labels", 60, "--output", self.here / "out", *options)

    def config(self, **options: Any) -> tuple[int | BaseException, str, str]:
        content = yaml.safe_load((self.data / "config.yaml").read_text()) | {"output": str(self.here / "out")} | options
        (self.here / "config.yaml").write_text(yaml.safe_dump(content))
        return call("measure", self.here / "config.yaml")

    def counted(self) -> Path:
        """A run folder with counts and groups."""
        code, _, err = call("cluster", "--predictions", self.data / "p.npz", "--n-labels", 60, "--n-groups", 4, "--bootstraps", 0, "--output",
        self.here / "run")
        assert code == 0, err
        return self.here / "run"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    write_data(folder := tmp_path_factory.mktemp("hostile data"))
    return folder


@pytest.fixture
def place(data: Path, tmp_path: Path) -> Place:
    for name in ("here", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside" / "kept.txt").write_text("kept")
    return Place(data, tmp_path / "here", tmp_path / "canary", tmp_path / "outside")


def assert_refused(place: Place, result: tuple[int | BaseException, str, str], *parts: str) -> None:
    code, out, err = result
    assert code == 2, (code, out[-300:], err[-500:])
    last = err.splitlines()[-1]
    assert last.startswith("selfinformed: "), err
    assert all(part in last for part in parts), err
    assert "Traceback" not in err
    assert_untouched(place)


def assert_untouched(place: Place) -> None:
    assert not place.canary.exists(), "code was run"
    assert [p.name for p in place.outside.iterdir()] == ["kept.txt"]
    assert (place.outside / "kept.txt").read_text() == "kept"


class Evil:
    """Pickled, it would make the canary when opened."""

    def __init__(self, canary: Path, how: str = "system") -> None:
        self.canary, self.how = str(canary), how

    def __reduce__(self) -> tuple[Any, ...]:
        if self.how == "exec":
            return exec, (f"open({self.canary!r}, 'w')",)
        if self.how == "getattr":
            return getattr, (Path(self.canary), "touch")
        return os.system, (f"touch '{self.canary}'",)


# Pickles


@pytest.mark.parametrize("how", ["system", "exec", "getattr"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors"])
def test_a_checkpoint_that_is_a_pickle_of_more_than_tensors(place: Place, how: str, legacy: bool, suffix: str) -> None:
    torch.save({"state_dict": {"classifier.bias": Evil(place.canary, how)}}, place.here / f"evil.{suffix}", _use_new_zipfile_serialization=not legacy)
    assert_refused(place, place.measure("--checkpoint", place.here / f"evil.{suffix}"), f"evil.{suffix}")


def test_a_bare_pickle_as_anything(place: Place) -> None:
    content = pickle.dumps(Evil(place.canary))
    for name in ("evil.pt", "evil.npz", "evil.parquet", "evil.csv", "evil.safetensors", "evil.yaml", "evil.txt"):
        (place.here / name).write_bytes(content)
    assert_refused(place, place.measure("--checkpoint", place.here / "evil.pt"), "evil.pt")
    assert_refused(place, place.measure("--holdout", place.here / "evil.npz"), "evil.npz")
    assert_refused(place, place.measure("--labels", place.here / "evil.txt"), "evil.txt")
    assert_refused(place, call("measure", place.here / "evil.yaml"), "evil.yaml")
    for kind in ("npz", "parquet", "csv", "safetensors"):
        assert_refused(place, place.count(place.here / f"evil.{kind}"), f"evil.{kind}")


@pytest.mark.parametrize("name", ["inputs", "targets"])
def test_objects_in_examples(place: Place, name: str) -> None:
    arrays: dict[str, Any] = {"inputs": np.zeros((4, 1, 6, 6), np.float32), "targets": np.arange(4)} | {name: np.array([Evil(place.canary)] * 4, object)}
    np.savez(place.here / "evil.npz", **arrays)
    assert_refused(place, place.measure("--holdout", place.here / "evil.npz"), "evil.npz")


@pytest.mark.parametrize("name", ["ids", "labels", "scores"])
def test_objects_in_predictions(place: Place, name: str) -> None:
    arrays: dict[str, Any] = {"ids": np.zeros((4, 1), int), "labels": np.arange(4), "scores": np.ones((4,
    1))} | {name: np.array([Evil(place.canary)] * 4, object)}
    np.savez(place.here / "evil.npz", **arrays)
    assert_refused(place, place.count(place.here / "evil.npz"), "evil.npz")


def test_a_whole_network_as_a_checkpoint(place: Place) -> None:
    torch.save(torch.nn.Linear(2, 2), place.here / "whole.pt")
    assert_refused(place, place.measure("--checkpoint", place.here / "whole.pt"), "whole.pt", "could run code")


# Configurations


@pytest.mark.parametrize("tag", ["object/apply:os.system [touch {}]", "object/new:os.system [touch {}]", "name:os.system ''", "module:os ''",
"object:os.system {{}}"])
def test_tags_of_yaml(place: Place, tag: str) -> None:
    (place.here / "evil.yaml").write_text(f"seed: !!python/{tag.format(place.canary)}\n")
    assert_refused(place, call("measure", place.here / "evil.yaml"), "evil.yaml")


def test_yaml_that_stands_for_more_than_memory_holds(place: Place) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (place.here / "laughs.yaml").write_text("\n".join([*lines, "model_options: {a: *a11}"]))
    assert_refused(place, call("measure", place.here / "laughs.yaml"), "laughs.yaml", "an anchor, an alias or a tag")


@pytest.mark.parametrize("text", [text for text in YAML if len(text) > 1_000])
def test_yaml_that_is_deep_or_long(place: Place, text: str) -> None:
    (place.here / "long.yaml").write_text(text)
    assert_refused(place, call("measure", place.here / "long.yaml"))


@pytest.mark.parametrize(
    "name",
    ["os:abort", "builtins:breakpoint", "pdb:set_trace", "antigravity:geohash", "subprocess:Popen", "os.path:abspath", "pty:spawn", "numpy:zeros",
    "torch:Tensor",
     "collections:OrderedDict", "importlib:import_module", "pickle:loads"],
)  # fmt: skip
def test_dotted_names_that_are_no_networks(place: Place, name: str) -> None:
    assert_refused(place, place.config(model=name), "model: ")


@pytest.mark.parametrize("link", [False, True])
def test_a_run_folder_brings_no_code(place: Place, link: bool) -> None:
    evil = place.here / ("elsewhere" if link else "out") / "evil.py"
    evil.parent.mkdir()
    evil.write_text(f"open({str(place.canary)!r}, 'w')\ndef make(): pass\n")
    if link:
        (place.here / "out").symlink_to(evil.parent)
    assert_refused(place, place.config(model=f"{place.here / 'out' / 'evil.py'}:make"), "never code")


# Sizes


def npz_that_says(path: Path, name: str, shape: str, others: dict[str, np.ndarray]) -> None:
    np.savez(path, **others)
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(1000))


@pytest.mark.parametrize("shape", ["(1099511627776,)", "(4, 1099511627776)", "(-1, 4)", "(4, 9223372036854775807, 9223372036854775807)", "(0, 0, 0)"])
def test_arrays_that_are_not_as_long_as_they_say(place: Place, shape: str) -> None:
    npz_that_says(place.here / "bomb.npz", "inputs", shape, {"targets": np.arange(4)})
    assert_refused(place, place.measure("--holdout", place.here / "bomb.npz"), "bomb.npz")
    npz_that_says(place.here / "ids.npz", "ids", shape, {"labels": np.arange(4)})
    assert_refused(place, place.count(place.here / "ids.npz"), "ids.npz")


def test_an_archive_that_unpacks_to_more_than_is_free(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(place.here / "bomb.npz", inputs=np.zeros((4, 1, 1000, 1000), np.float32), targets=np.arange(4))
    assert (place.here / "bomb.npz").stat().st_size < 20_000
    monkeypatch.setattr("selfinformed.data.arrays.free_memory", lambda: 15_000_000)
    assert_refused(place, place.measure("--holdout", place.here / "bomb.npz"), "bomb.npz", "15,000,000 are free")
    np.savez_compressed(place.here / "bomb.npz", inputs=np.zeros((4, 1, 6, 6), np.float32), targets=np.arange(4), offsets=np.zeros(2_000_000, np.int64))
    assert_refused(place, place.measure("--holdout", place.here / "bomb.npz"), "bomb.npz", "15,000,000 are free")


def test_a_text_in_parquet_that_stands_in_every_row(place: Place) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    same = pa.array(np.zeros(100_000, np.int32))
    bomb = pa.table({"path": pa.DictionaryArray.from_arrays(same, ["x" * 1_000_000]), "labels": pa.DictionaryArray.from_arrays(same, ["a"])})
    pq.write_table(bomb, place.here / "bomb.parquet", store_schema=False)
    assert (place.here / "bomb.parquet").stat().st_size < 60_000  # 100 GB
    assert_refused(place, place.measure("--holdout", place.here / "bomb.parquet"), "bomb.parquet", "1,000,000 bytes")


ROW = """
import sys
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

row = pa.ListArray.from_arrays(pa.array([0, 20_000_000], pa.int32()), pa.array(np.ones(20_000_000, np.int64)))
pq.write_table(pa.table({"ids": row, "labels": [1]}), sys.argv[1])
"""


def test_a_row_of_parquet_without_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    subprocess.run([sys.executable, "-c", ROW, place.here / "bomb.parquet"], check=True)  # memory that made it would be free for pyarrow here
    assert (place.here / "bomb.parquet").stat().st_size < 2_000
    monkeypatch.setattr("selfinformed.runtime.memory.free_memory", lambda: 50_000_000)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    assert_refused(place, place.count(place.here / "bomb.parquet"), "bomb.parquet", "MemoryError")
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize("size", [(65_535, 65_535), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (20_000, 20_000)])
def test_pictures_of_more_pixels_than_are_read(place: Place, size: tuple[int, int]) -> None:
    (place.here / "pictures" / "class 0").mkdir(parents=True)
    (place.here / "pictures" / "class 0" / "bomb.png").write_bytes(png(*size))
    options = ("--model", f"{place.data / 'colour.py'}:make", "--holdout", place.here / "pictures", "--image-size", 6)
    assert_refused(place, place.measure(*options), "bomb.png")


def test_a_picture_that_would_grow_without_end(place: Place) -> None:
    (place.here / "pictures" / "class 0").mkdir(parents=True)
    Image.new("L", (1, 60_000)).save(place.here / "pictures" / "class 0" / "thin.png")
    options = ("--model", f"{place.data / 'colour.py'}:make", "--holdout", place.here / "pictures", "--image-size", 224)
    assert_refused(place, place.measure(*options), "thin.png", "before it is cropped")


@pytest.mark.parametrize("format", ["EPS", "PDF", "ICO"])
def test_pictures_of_other_formats_under_a_known_name(place: Place, format: str) -> None:
    (place.here / "pictures" / "class 0").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(place.here / "pictures" / "class 0" / "odd.png", format=format)  # for EPS Pillow would start Ghostscript
    options = ("--model", f"{place.data / 'colour.py'}:make", "--holdout", place.here / "pictures", "--image-size", 6)
    assert_refused(place, place.measure(*options), "odd.png", "cannot be read")


@pytest.mark.parametrize("name", ["groups.json", "counts.safetensors", "config.yaml"])
def test_files_of_a_run_that_are_huge_or_deep(place: Place, name: str) -> None:
    run = place.counted()
    with (run / name).open("r+b") as file:
        file.truncate(2**40)  # a hole
        file.write((2**63).to_bytes(8, "little") if name.endswith("safetensors") else b"[" * 1_000)
    assert_refused(place, call("cluster", run), name)


def test_labels_without_number(place: Place) -> None:
    assert_refused(place, place.count(place.data / "p.npz", "--n-labels", 10**12), "n_labels")
    run = place.counted()
    content = json.loads((run / "groups.json").read_text())
    (run / "groups.json").write_text(json.dumps(content | {"n_labels": 10**12, "members": [[10**12 - 1]], "names": ["x"]}))
    assert_refused(place, call("cluster", run), "groups.json")


# Paths


@pytest.mark.parametrize("member", ["../../outside/x", "/outside/x", "..\\..\\outside\\x"])
def test_archives_whose_members_lead_out(place: Place, member: str) -> None:
    np.savez(place.here / "evil.npz", inputs=np.zeros((4, 1, 6, 6), np.float32), targets=np.arange(4))
    with zipfile.ZipFile(place.here / "evil.npz", "a") as archive:
        archive.writestr(member.replace("/outside", str(place.outside), 1) if member.startswith("/") else member, b"x")
    place.measure("--holdout", place.here / "evil.npz")  # nothing is ever unpacked to disk
    assert_untouched(place)


@pytest.mark.parametrize("name", ["detections", "features", "figures", "tables", "log"])
def test_folders_of_a_run_that_lead_out(place: Place, name: str) -> None:
    run = place.counted()
    (run / name).exists() or (run / name).symlink_to(place.outside)
    assert_refused(place, call("cluster", run), name, "leads out of the run folder")


@pytest.mark.parametrize("name", ["groups.json", "stability.json", "counts.safetensors"])
def test_files_of_a_run_that_lead_out_are_not_written_through(place: Place, name: str) -> None:
    run = place.counted()
    (run / name).unlink()
    (run / name).symlink_to(place.outside / "new")  # nothing is there yet
    code, _, err = call("cluster", run)
    assert code == 0, err
    assert not (run / name).is_symlink()
    assert_untouched(place)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
@pytest.mark.parametrize("what", ["groups", "labels", "examples", "predictions", "image", "config"])
def test_what_is_no_file(place: Place, kind: str, what: str) -> None:
    run = place.counted() if what == "groups" else place.here
    name = {"groups": "groups.json", "labels": "l.txt", "examples": "x.npz", "predictions": "p.csv", "image": "images/class 0/x.png", "config": "c.yaml"}[what]
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    make: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir, "loop": lambda: path.symlink_to(path),
    }  # fmt: skip
    make[kind]()
    if kind == "loop" and what == "groups":
        return  # like a link to nothing: made again
    answers: dict[str, Callable[[], Any]] = {
        "groups": lambda: call("cluster", run), "labels": lambda: place.measure("--labels", path), "examples": lambda: place.measure("--holdout", path),
        "predictions": lambda: place.count(path), "config": lambda: call("measure", path),
        "image": lambda: place.measure("--model", f"{place.data / 'colour.py'}:make", "--holdout", place.here / "images"),
    }  # fmt: skip
    assert_refused(place, answers[what]())


def test_an_exported_network_replaces_links_and_has_no_data_beside_it(place: Place, problem: Any) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    from selfinformed.augmented.exported import export_onnx
    from selfinformed.augmented.network import augment

    for name in ("model.onnx", "model.onnx.data"):
        (place.here / name).symlink_to(place.outside / "kept.txt")
    export_onnx(augment(problem.net, problem.plan()), place.here / "model.onnx", problem.test.read(range(4)))
    assert_untouched(place)
    assert not (place.here / "model.onnx").is_symlink()
    loaded = onnx.load(str(place.here / "model.onnx"), load_external_data=False)
    assert not [t.name for t in loaded.graph.initializer if t.external_data]


# Networks of other packages


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}, "model_type": "evil"}, "config.json"),
        ({"auto_map": {"AutoModelForImageClassification": "evil.Model"}, "model_type": "resnet", "architectures": ["EvilForImageClassification"]}, "ends in"),
        ({"model_type": "resnet", "architectures": ["AutoModelForImageClassification"]}, "ends in"),
        ({"model_type": "resnet", "architectures": ["os", "../evil", 3]}, ""),
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"], "attn_implementation": "someone/kernel"}, "someone/kernel"),
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"], "quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised"),
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 12 * 10**12}, "cannot be"),
    ],
)
def test_transformers_folders_that_bring_code(place: Place, config: dict[str, Any], said: str) -> None:
    pytest.importorskip("transformers")
    folder = place.here / "network"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(place.canary)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    assert_refused(place, place.config(model=f"transformers:{folder}", labels=None), "network", said)


@pytest.mark.parametrize("option", ["trust_remote_code", "allow_all_kernels", "attn_implementation", "weights_only", "use_safetensors", "quantization_config"])
def test_options_that_would_let_code_in(place: Place, option: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = place.here / "network"
    transformers.ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1],
    architectures=["ResNetForImageClassification"]).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    assert_refused(place, place.config(model=f"transformers:{folder}", labels=None, model_options={option: True}), "model_options", option)


def test_transformers_weights_that_are_a_pickle(place: Place) -> None:
    transformers = pytest.importorskip("transformers")
    folder = place.here / "network"
    transformers.ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1],
    architectures=["ResNetForImageClassification"]).save_pretrained(folder)
    torch.save({"x": Evil(place.canary)}, folder / "pytorch_model.bin")
    assert_refused(place, place.config(model=f"transformers:{folder}", labels=None), "pickle")


# Names

MARKUP = [
    *HOSTILE, "</script><script>alert(1)</script>", "<svg/onload=alert(1)>", "javascript:alert(1)", "]]><script>x</script>", "<!--<script>",
    "</style><script>x</script>",
    "\u2028alert(1)", "&lt;script&gt;", "<iframe srcdoc='<script>x</script>'>", "\x1b]0;title\x07", "{% include '/etc/passwd' %}",
    "data:text/html,<script>x</script>",
]  # fmt: skip


_LINKS = ("href", "src", "action", "formaction", "xlink:href", "data", "srcdoc")


def _runs(link: str) -> bool:
    return link.strip().lower().startswith(("javascript:", "data:text", "<"))


class Scripts(HTMLParser):
    """What of a page could run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag in ("iframe", "object", "embed", "base", "form") or (tag == "script" and given.get("type") != "application/json"):
            self.found.append(tag)
        self.found += [f"{tag} {name}={value}" for name, value in attributes if name.startswith("on") or (name in _LINKS and _runs(value or ""))]
        if tag == "img" and not (given.get("src") or "").startswith("data:image/"):
            self.found.append(f"img {given}")


def scripts(page: Path) -> list[str]:
    parser = Scripts()
    parser.feed(page.read_text("utf-8"))
    return parser.found


def test_names_put_no_script_into_a_report(findings: Findings, tmp_path: Path) -> None:
    names = LabelSpace([*MARKUP, *(f"label {i}" for i in range(len(MARKUP), 36))])
    evaluation = json.loads(json.dumps(findings.evaluation))
    evaluation["confident_mistakes"]["name"] = [MARKUP[7]]
    evaluation["mistakes"] = [{"taken": MARKUP[0], "annotated": MARKUP[8], "base": 12, "augmented": 3}]
    changed = replace(
        findings, title=MARKUP[7], labels=names, groups=findings.groups.renamed(names), evaluation=evaluation, config={"model": MARKUP[8],
        MARKUP[9]: MARKUP[7]},
        headroom={**findings.headroom, "verdict": MARKUP[7], "attach": MARKUP[8]}, search={**findings.search, "verdict": MARKUP[7]},
    )  # fmt: skip
    page = report(changed, tmp_path / "hostile")
    assert scripts(page) == ["script"]  # the page's own, whose hash its policy names; no other may run
    assert "script-src 'sha256-" in unescape(page.read_text("utf-8"))
    runs = [RunFindings(tmp_path / name, list(names.names), findings.comparison, {}, 6, {"model": MARKUP[7]}) for name in ("<script>a</script>", "b")]
    assert "script" not in scripts(report_runs(runs, tmp_path / "runs.html"))[1:]
    assert [p for p in (tmp_path / "hostile" / "figures").glob("*.svg") if scripts(p)] == []


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0", '=HYPERLINK("http://x")', "＝1", "'=1"])
def test_names_are_no_formulas(name: str) -> None:
    (row,) = list(csv.reader(io.StringIO(to_csv(Table.of("x", [{"name": name}], ("name",))), newline="")))[1:]
    assert row[0] == f"'{name}"


def test_names_do_not_steer_the_terminal(place: Place) -> None:
    (place.here / "l.txt").write_text("".join(f"\x1b]0;t{i}\x07\n" for i in range(60)), "utf-8")
    code, out, err = call("measure", "--predictions", place.data / "p.npz", "--labels", place.here / "l.txt", "--output", place.here / "out")
    assert code == 0, err
    assert "\x1b" not in out + err
    (place.here / "l.txt").write_text("\x1b]0;t\x07\n" * 60, "utf-8")
    assert "\x1b" not in "".join(call("measure", "--predictions", place.data / "p.npz", "--labels", place.here / "l.txt", "--output", place.here / "o2")[1:])
