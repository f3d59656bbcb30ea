"""Malformed input of every kind that the command line reads: sound files, ways to damage them, and the verb that reads each.

Used by the tests (a few of each), by benchmarks/torture_inputs.py (thousands) and by benchmarks/fuzz.py (as seeds).
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import struct
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.numpy import save_file

from conftest import MODEL, draw
from selfinformed import cli

C = 12
DEEP = 100_000
NUMBERS = ["-1", "0", "1.5", "1e999", "NaN", "-Infinity", "4294967296", "9223372036854775808", "9" * 5000, "null", "true", '"x"', "[]", "{}",
"[" * DEEP, "٣", "0x10"]
VALUES: list[Any] = [
    None, True, -1, 0, 1.5, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "x", "\x00", "\ud800", "9" * 400, "<script>", "=1+1", [], [None], [[]],
    ["x", 1], {}, {"a": None}, {"": []}, [[1, 2], [3]], list(range(50)),
]  # fmt: skip
YAML = [
    "a: &a [x, x]\nb: &b [*a, *a]\nmodel_options: *b\n", "seed: !!python/object/apply:os.getcwd []\n", "seed: !!int ''\n", "seed: !!timestamp x\n",
    "seed: 2020-13-45\n", f"seed: {'9' * 5000}\n", "? [a]\n: 1\n", "seed: !!binary x\n", f"seed: {'[' * DEEP}\n", "output: \"a\\0b\"\n",
    "output: " + "x" * 5000 + "\n",
    "seed: 99999999999999999999\n", "n_labels: 1000000000000\n", "<<: {seed: 1}\n", "seed: 1\nseed: 2\n", "%YAML 9.9\n---\nseed: 1\n",
    "seed: 1\n---\nseed: 2\n",
    "train: \"\\uD800\"\n", "n_groups: .inf\n", "model_options: {a: 2020-13-45}\n", "top_k: 0b\n", "seed: 1:99:99\n", "seed: 0o9\n", "\t\n", "{",
    "hidden: [1e400]\n",
    "arms: [base, base]\n", "image_size: 1000000000\n", "batch_size: 99999999999\n", "budget: .inf\n", "labels: /\n", "checkpoint: .\n",
    "attach: \",,\"\n", "*a", "!x y",
]  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """One kind of input.

    Attributes:
        name: of the kind.
        file: which file is damaged, within a copy of the whole folder.
        verb: gives, for the copy, the arguments of the command line that reads it.
        absent: what else is removed first, so that the file is read.
    """

    name: str
    file: str
    verb: Callable[[Path], list[Any]]
    absent: tuple[str, ...] = ()


def call(*arguments: object) -> tuple[int | BaseException, str, str]:
    """The command line in this process: its exit code, or what it let through; its output; its errors."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["selfinformed", *map(str, arguments)]
    code: int | BaseException = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except BaseException as escaped:
        code = escaped
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


def verdict(reader: Reader, result: tuple[int | BaseException, str, str]) -> str:
    """`sound` (it was read), `refused` (one line that names the file), or what was wrong with the answer."""
    code, _, err = result
    if isinstance(code, BaseException):
        return f"let through {type(code).__name__}: {code}"[:300]
    last = (err.splitlines() or [""])[-1]
    if "Traceback" in err or code not in (0, 2):
        return f"exit code {code}: {last}"[:300]
    if code == 0:
        return "sound"
    name = Path(reader.file).name
    known = (name, Path(reader.file).stem, Path(reader.file).parts[0], "/copy/")
    return "refused" if last.startswith("selfinformed: ") and len(last) < 2_000 and any(part in last for part in known) else f"not told: {last}"[:300]


def given(reader: Reader, sound: Path, copy: Path, content: bytes) -> str:
    """The answer of the command line to this content of the reader's file."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in sound.iterdir():  # a run's folder is copied, data are linked
        if path.name in ("run", "counted"):
            if Path(reader.file).parts[0] == path.name or str(reader.verb(copy)[1]).endswith(path.name):
                shutil.copytree(path, copy / path.name, ignore=_of_reports)
        else:
            (copy / path.name).hardlink_to(path) if path.is_file() else shutil.copytree(path, copy / path.name)
    target = copy / reader.file
    target.unlink()
    target.write_bytes(content)
    for name in reader.absent:
        (copy / name).unlink()
    return verdict(reader, call(*reader.verb(copy)))


def _of_reports(folder: str, names: list[str]) -> list[str]:
    """What a report writes; pictures that stand beside an artefact stay, or it would be made again."""
    return [n for n in names if n in ("tables", "report.html") or (Path(folder).name == "figures" and n not in ("sweep.png", "conditional.png"))]


def readers() -> list[Reader]:
    """Every kind of input, with the verb that reads it."""

    def saved(file: str) -> Callable[[Path], list[Any]]:
        return lambda at: ["measure", "--predictions", at / file, "--n-labels", 60, "--output", at / "new"]

    def on(verb: str, folder: str = "run", *options: object) -> Callable[[Path], list[Any]]:
        return lambda at: [verb, at / folder, *options]

    def fresh(*options: str) -> Callable[[Path], list[Any]]:
        """A run from the start; options that name files name those of the copy."""
        return lambda at: ["measure", at / "config.yaml", "--output", at / "new", *(o if o.startswith("-") or o.isdigit() else at / o for o in options)]

    made = ("counts.safetensors", "groups.json", "stability.json", "sweep.json")
    return [
        Reader("config", "config.yaml", lambda at: ["measure", at / "config.yaml", "--print-config"]),
        Reader("run folder's config", "counted/config.yaml", on("measure", "counted")),
        Reader("labels", "labels.txt", lambda at: ["measure", "--predictions", at / "p.npz", "--labels", at / "labels.txt", "--output", at / "new"]),
        *(Reader(f"predictions {kind}", f"p.{kind}", saved(f"p.{kind}")) for kind in ("safetensors", "npz", "parquet", "csv")),
        *(Reader(name, f"counted/{name}", on("cluster", "counted")) for name in made),
        Reader("detections/manifest.json", "run/detections/manifest.json", on("measure"), ("run/counts.safetensors",)),
        Reader("detections/unit", "run/detections/unit-000000.safetensors", on("measure"), ("run/counts.safetensors",)),
        Reader("plan.json", "run/plan.json", on("plan")),
        Reader("features/manifest.json", "run/features/train/manifest.json", on("probe"), ("run/probe.json",)),
        Reader("features/unit", "run/features/holdout/unit-000000.safetensors", on("probe"), ("run/probe.json",)),
        Reader("features/seconds", "run/features/train/seconds/unit-000000.json", on("probe"), ("run/probe.json",)),
        Reader("probe.json", "run/probe.json", on("probe")),
        Reader("config.json", "run/config.json", on("fit")),
        Reader("heads.safetensors", "run/heads.safetensors", on("fit")),
        Reader("history.jsonl", "run/history.jsonl", on("fit")),
        Reader("training.safetensors", "run/training.safetensors", on("fit"), ("run/heads.safetensors", "run/config.json")),
        Reader("evaluation.json", "run/evaluation.json", on("evaluate")),
        Reader("conditional.json", "run/conditional.json", on("evaluate", "run", "--top-groups", "1")),
        Reader("comparison.json", "run/comparison.json", on("compare")),
        Reader("comparison.jsonl", "run/comparison.jsonl", on("compare"), ("run/comparison.json",)),
        Reader("search.json", "run/search.json", on("search")),
        Reader("search.jsonl", "run/search.jsonl", on("search"), ("run/search.json",)),
        *(Reader(f"report: {name}", f"run/{name}", on("report")) for name in ("evaluation.json", "probe.json", "stability.json", "latency.json", "search.json",
                                                                            "conditional.json", "log/training.jsonl")),
        *(Reader(f"runs: {name}", f"run/{name}", lambda at: ["report", at / "run", at / "run", "--output", at / "runs.html"])
          for name in ("comparison.json", "evaluation.json", "probe.json", "groups.json", "config.yaml")),
        Reader("mapping", "mapping.csv", lambda at: ["evaluate", at / "run", "--mapping", at / "mapping.csv"]),
        Reader("examples npz", "holdout.npz", fresh("--holdout", "holdout.npz")),
        Reader("manifest csv", "manifest.csv", fresh("--model", "colour.py:make", "--holdout", "manifest.csv", "--image-size", "6")),
        Reader("manifest parquet", "manifest.parquet", fresh("--model", "colour.py:make", "--holdout", "manifest.parquet", "--image-size", "6")),
        Reader("examples tar", "holdout.tar", fresh("--model", "colour.py:make", "--holdout", "holdout.tar", "--image-size", "6")),
        *(Reader(f"image {kind}", f"{kind}/class 0/0.{kind}", fresh("--model", "colour.py:make", "--holdout", kind, "--image-size", "6"))
          for kind in ("png", "jpg", "gif", "bmp", "webp", "tif", "ppm")),
        Reader("checkpoint safetensors", "weights.safetensors", fresh("--checkpoint", "weights.safetensors")),
        Reader("checkpoint pt", "weights.pt", fresh("--checkpoint", "weights.pt")),
    ]  # fmt: skip


def write_sound(folder: Path, report: bool = True) -> None:
    """All of the files, sound: data, predictions, a run in `run` (complete with `report`) and one of counts alone in `counted`."""
    write_data(folder)
    run = folder / "run"
    begin: list[list[object]] = [["run", folder / "config.yaml"]] if report else [[verb, folder / "config.yaml"] for verb in ("probe", "evaluate", "compare")]
    for arguments in (*begin, ["search", run], ["evaluate", run, "--top-groups", "1"], *([["report", run]] if report else [])):
        code, _, err = call(*arguments)
        assert code == 0, (arguments, err, code)
    _write_checkpoint(folder)
    saved = ["--predictions", folder / "p.npz", "--n-labels", 60, "--n-groups", 4, "--output", folder / "counted", "--sweep", "2,4", "--bootstraps", 1]
    code, _, err = call("cluster", *saved)
    assert code == 0, err


def write_data(folder: Path) -> None:
    """Data, predictions, networks and a configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, channels in (("model.py", 1), ("colour.py", 3)):
        (folder / name).write_text(MODEL.format(channels=channels, labels=C), "utf-8")
    names = [f"class {i}" for i in range(C)]
    (folder / "labels.txt").write_text("".join(f"label {i}\n" for i in range(60)), "utf-8")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names), "utf-8")
    (folder / "mapping.csv").write_text("source,target\n" + "".join(f"{name},{name}\n" for name in names), "utf-8")
    for seed, split in enumerate(("train", "holdout", "test")):
        np.savez(folder / f"{split}.npz", inputs=draw(96, seed)[0].numpy(), targets=np.arange(96) % C)
    _write_predictions(folder, rng)
    for kind in ("png", "jpg", "gif", "bmp", "webp", "tif", "ppm"):
        for name in names[:3]:
            (folder / kind / name).mkdir(parents=True)
            Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(folder / kind / name / f"0.{kind}")
    rows = [(f"png/{name}/0.png", name) for name in names[:3]]
    (folder / "manifest.csv").write_text("path,labels\n" + "".join(f"{path},{label}\n" for path, label in rows), "utf-8")
    _write_parquet(folder / "manifest.parquet", {"path": [path for path, _ in rows], "labels": [[label] for _, label in rows]})
    _write_shard(folder, names[:3])
    state = _state()
    torch.save(state, folder / "weights.pt")
    save_file({k: v.numpy() for k, v in state.items()}, folder / "weights.safetensors")
    options = {
        "output": str(folder / "run"), "model": f"{folder / 'model.py'}:make", "labels": str(folder / "classes.txt"),
        **{split: str(folder / f"{split}.npz") for split in ("train", "holdout", "test")}, "n_groups": 3, "budget": 0.5, "epochs": 1, "seeds": 1,
        "probe_width": 8, "arms": ["base", "confusions"], "top_groups": [1], "candidates": 2, "rounds": 1, "bootstraps": 0, "log": False,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(options), "utf-8")


def _write_checkpoint(folder: Path) -> None:
    """training.safetensors as a training that was stopped leaves it."""
    from selfinformed.pipeline.config import read_config
    from selfinformed.pipeline.run import Run
    from selfinformed.training.checkpoints import Checkpoint

    class Stopped(BaseException):
        pass

    write = Checkpoint.write

    def write_and_stop(self: Checkpoint, *state: Any) -> None:
        write(self, *state)
        raise Stopped

    shutil.copytree(folder / "run", folder / "stopped")
    for name in ("heads.safetensors", "config.json"):
        (folder / "stopped" / name).unlink()
    Checkpoint.write = write_and_stop  # type: ignore[method-assign]
    try:
        with contextlib.suppress(Stopped):
            Run(read_config(folder / "stopped")).augmented()
    finally:
        Checkpoint.write = write  # type: ignore[method-assign]
    (folder / "stopped" / "training.safetensors").rename(folder / "run" / "training.safetensors")
    shutil.rmtree(folder / "stopped")


def _state() -> dict[str, torch.Tensor]:
    scope: dict[str, Any] = {}
    exec(MODEL.format(channels=1, labels=C), scope)
    return scope["make"]().state_dict()


def _write_predictions(folder: Path, rng: np.random.Generator) -> None:
    own = rng.integers(0, 4, 200)
    ids = np.argsort(-(rng.random((200, 60)) + (np.arange(60) % 4 == own[:, None])), axis=1)[:, :5]
    labels, scores = 4 * rng.integers(0, 15, 200) + own, -np.sort(-rng.random((200, 5)))
    np.savez(folder / "p.npz", ids=ids, labels=labels, scores=scores)
    save_file({"ids": ids, "labels": labels, "scores": scores}, folder / "p.safetensors", {"n_labels": "60"})
    _write_parquet(folder / "p.parquet", {"ids": ids.tolist(), "labels": labels.tolist(), "scores": scores.tolist()})
    lines = [f"{';'.join(map(str, i))},{label},{';'.join(map(str, s))}" for i, label, s in zip(ids.tolist(), labels.tolist(), scores.tolist(), strict=True)]
    (folder / "p.csv").write_text("ids,labels,scores\n" + "\n".join(lines) + "\n", "utf-8")


def _write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


def _write_shard(folder: Path, names: list[str]) -> None:
    """The images once more, in a tar shard."""
    images = [(folder / "png" / name / "0.png").read_bytes() for name in names]
    with tarfile.open(folder / "holdout.tar", "w") as tar:
        for number, (image, name) in enumerate(zip(images, names, strict=True)):
            for ending, content in (("png", image), ("cls", name.encode())):
                info = tarfile.TarInfo(f"{number}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def damaged(path: Path, content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One of the ways to damage a file of its kind: half of them know what it holds, the others are blind. Half of the files have no checksum first."""
    if rng.random() < 0.5:
        content = without_checksum(content)
    knowing = {
        ".json": _json, ".jsonl": _json_lines, ".yaml": _yaml, ".csv": _cells, ".txt": _cells, ".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet,
        ".png": _png,
    }.get(path.suffix)  # fmt: skip
    if knowing is not None and rng.random() < 0.6:
        return knowing(content, rng)
    return _blind(content, rng, others)


def without_checksum(content: bytes) -> bytes:
    """As written by a version that had none: what is damaged is then looked into further."""
    return content.replace(b'"checksum"', b'"formerly"')


def _blind(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    at, n = rng.randrange(len(content) + 1), len(content)
    end = min(n, at + rng.choice([1, 2, 8, 64, 1000]))
    extreme = rng.choice([0, 1, 0x7F, 0xFF]).to_bytes(1, "little") * rng.choice([1, 4, 8])
    ways: list[Callable[[], bytes]] = [
        lambda: b"", lambda: content[:at], lambda: content[at:], lambda: content[:at] + content[end:], lambda: content + content,
        lambda: content[:at] + rng.randbytes(end - at) + content[end:], lambda: content[:at] + bytes(end - at) + content[end:],
        lambda: content[:at] + content[at:end] * rng.choice([2, 100]) + content[end:], lambda: content[:at] + extreme + content[at + len(extreme) :],
        lambda: rng.choice(others), lambda: rng.randbytes(rng.choice([1, 10, 1000])), lambda: b"\xef\xbb\xbf" + content, lambda: content + b"\0" * 100,
        lambda: content.replace(b"\n", b"\r\n"), lambda: content.decode("latin-1").encode("utf-16"), lambda: bytes(n), lambda: b"[" * DEEP,
        lambda: _flipped(content, rng), lambda: _flipped(content, rng), lambda: _flipped(content, rng),
    ]  # fmt: skip
    return rng.choice(ways)()


def _flipped(content: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8, 50]) if content else 0):
        flipped[rng.randrange(min(len(content), rng.choice([64, 1024, 10**9])))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value[:20]) if isinstance(value, list) else ():
        yield from _places(inner, (*at, key))


def _changed(value: Any, rng: random.Random) -> Any:
    """With one or two parts changed, left out, renamed or doubled."""
    for _ in range(rng.choice([1, 1, 1, 2])):
        at = rng.choice(list(_places(value)))
        if not at:
            value = rng.choice(VALUES) if rng.random() < 0.2 else value
            continue
        holder = value
        for key in at[:-1]:
            holder = holder[key]
        way = rng.random()
        if way < 0.7:
            holder[at[-1]] = rng.choice(VALUES)
        elif way < 0.85:
            del holder[at[-1]]
        elif isinstance(holder, dict):
            holder["new"] = holder.pop(at[-1])
        else:
            holder.extend(holder[at[-1] : at[-1] + 1])
    return value


def _json(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        return _token(content, rng)
    return json.dumps(_changed(json.loads(content), rng)).encode()


def _json_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines() or [b"{}"]
    at = rng.randrange(len(lines))
    lines[at] = _json(lines[at], rng)
    return b"\n".join(lines) + b"\n"


def _token(content: bytes, rng: random.Random) -> bytes:
    """One number of a text written as something else."""
    import re

    found = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    if not found:
        return content[: len(content) // 2]
    token = rng.choice(found)
    return content[: token.start()] + rng.choice(NUMBERS).encode() + content[token.end() :]


def _yaml(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return content + rng.choice(YAML).encode()
    if rng.random() < 0.2:
        return rng.choice(YAML).encode()
    return yaml.safe_dump(_changed(yaml.safe_load(content), rng)).encode("utf-8", "surrogatepass")


def _cells(content: bytes, rng: random.Random) -> bytes:
    lines = content.decode().splitlines()
    at = rng.randrange(len(lines))
    cells = lines[at].split(",")
    odd = ["", '"', "\0", "x" * 200_000, "1;2;3", ";;", "-1", "1e5", "nan", "99999999999999999999", "/etc/passwd", "../../x", "=1+1", "\ud800",
    "a\nb", "😀", " "]
    place = rng.randrange(len(cells))
    ways: list[Callable[[], list[str]]] = [
        lambda: [*cells[:place], rng.choice(odd), *cells[place + 1 :]], lambda: [*cells, "more"], lambda: cells[:place], lambda: [c + ";" for c in cells],
        lambda: cells[::-1],
    ]  # fmt: skip
    lines[at : at + 1] = rng.choice([[",".join(rng.choice(ways)())], [], [lines[at], lines[at]], ["", ""]])
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _npz(content: bytes, rng: random.Random) -> bytes:
    arrays = dict(np.load(io.BytesIO(content)))
    name = rng.choice(list(arrays))
    a = arrays[name]
    odd: list[Callable[[], Any]] = [
        lambda: a.astype(object), lambda: a.astype("U8"), lambda: a.astype(np.complex64), lambda: a.astype(">f8"), lambda: a.astype(np.uint64), lambda: a[:-1],
        lambda: np.array(3), lambda: a[..., None], lambda: np.zeros((0, *a.shape[1:]), a.dtype), lambda: np.full_like(a, 127), lambda: a.astype(bool),
        lambda: np.zeros(a.shape, "M8[s]"), lambda: np.zeros(a.shape, [("x", "i4")]), lambda: np.asfortranarray(a), lambda: -a,
        lambda: a.astype(np.float16) * np.nan,
        lambda: a.astype(np.float64) * np.inf, lambda: np.zeros((len(a), 0), a.dtype), lambda: a.astype(np.int8), lambda: np.full(a.shape, 2**62),
        lambda: a * 10**9,
        lambda: np.full(a.shape, 2**63, np.uint64), lambda: a.astype("S3"), lambda: a.astype(np.longdouble), lambda: np.concatenate([a, a]),
    ]  # fmt: skip
    way = rng.random()
    if way < 0.8:
        arrays[name] = rng.choice(odd)()
    elif way < 0.9:
        arrays.pop(name)
    else:
        arrays["new"] = arrays.pop(name)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _safetensors(content: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if rng.random() < 0.3:
        stated = rng.choice([0, 1, length - 1, length + 1, len(content), 2**31, 2**63, 2**64 - 1, 100_000_001])
        return stated.to_bytes(8, "little") + content[8:]
    known = header.get("__metadata__")
    if known and rng.random() < 0.5:
        name = rng.choice(list(known))
        try:
            known[name] = json.dumps(_changed(json.loads(known[name]), rng))
        except ValueError:
            known[name] = rng.choice(["", "x", "-1", "0", "1000000000000", "9" * 5000, "٣", "NaN", "{}"])
        if rng.random() < 0.2:
            known.pop(name)
    else:
        tensors = [name for name in header if name != "__metadata__"]
        name = rng.choice(tensors)
        entry = header[name]
        ways: list[Callable[[], Any]] = [
            lambda: entry.update(dtype=rng.choice(["F64", "F32", "I64", "U64", "I32", "BF16", "F16", "F8_E4M3", "BOOL", "X", "U8"])),
            lambda: entry.update(shape=rng.choice([[], [0], [-1], [2**40], [*entry["shape"], 1], entry["shape"][::-1], [2**63, 2**63], None, [1.5]])),
            lambda: entry.update(data_offsets=rng.choice([[0, 0], [0, 2**63], [8, 0], [-8, 8], entry["data_offsets"][::-1], [0], None])),
            lambda: header.pop(name), lambda: header.update(new=header.pop(name)), lambda: header.update({name: rng.choice(VALUES)}),
        ]  # fmt: skip
        rng.choice(ways)()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _parquet(content: bytes, rng: random.Random) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content))
    name = rng.choice(table.column_names)
    n, i = len(table), table.column_names.index(name)
    odd: list[Callable[[], Any]] = [
        lambda: [None] * n, lambda: [[None]] * n, lambda: [[]] * n, lambda: ["x"] * n, lambda: [b"\xff"] * n, lambda: [{"a": 1}] * n, lambda: [[[1]]] * n,
        lambda: [1.5] * n, lambda: [-1] * n, lambda: [[2**62]] * n, lambda: [True] * n, lambda: [[1, 2]] * n, lambda: pa.array([1] * n, pa.timestamp("s")),
        lambda: pa.array([1] * n, pa.decimal128(5)), lambda: [[float("nan")] * 5] * n, lambda: pa.array(["x\0y"] * n), lambda: [""] * n,
        lambda: pa.array(["a"] * n).dictionary_encode(), lambda: pa.array([2**63] * n, pa.uint64()), lambda: [["a", "a"]] * n, lambda: pa.nulls(n),
    ]  # fmt: skip
    way = rng.random()
    if way < 0.75:
        table = table.set_column(i, name, pa.array(made) if isinstance(made := rng.choice(odd)(), list) else made)
    elif way < 0.85:
        table = table.remove_column(i)
    elif way < 0.9:
        table = table.append_column(name, table.column(i))
    else:
        table = table.slice(0, 0)
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG whose header says what one likes, its checksums right."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def _png(content: bytes, rng: random.Random) -> bytes:
    side = [0, 1, 6, 2**16, 2**31 - 1, 2**32 - 1]
    return png(rng.choice(side), rng.choice(side), rng.choice([1, 8, 16, 3]), rng.choice([0, 2, 3, 4, 6, 7]), bytes(rng.choice([0, 10, 1000])))
