"""Coverage-guided fuzzing of the readers of files by atheris: whatever the bytes, a reader answers or raises `SelfInformedError`.

Run: python benchmarks/fuzz.py READER [--minutes 60]; READER is one of the names below, or `all`. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RISKIEST = ("predictions", "examples", "tensors", "artefacts", "config")
MOST_BYTES = 4 * 2**30  # of memory; more is a crash


def targets(folder: Path) -> dict[str, tuple[list[Path], Callable[[Path], object]]]:
    """Of each reader: sound files to begin with, and what reads a file."""
    import malformed
    from selfinformed.data.opening import open_dataset
    from selfinformed.data.predictions import open_predictions
    from selfinformed.evidence.comparison import Comparison
    from selfinformed.pipeline.artefacts import read_artefact, read_history
    from selfinformed.pipeline.config import read_config
    from selfinformed.pipeline.inputs import _read_checkpoint
    from selfinformed.structure.counts import ConfusionCounts
    from selfinformed.structure.groups import LabelGroups
    from selfinformed.structure.measuring import count
    from selfinformed.structure.plans import HeadPlan
    from selfinformed.training.checkpoints import Checkpoint

    malformed.write_data(folder)
    counts = folder / "counts.safetensors"
    predictions = open_predictions(folder / "p.npz", 60)
    count(predictions).save(counts)
    groups = LabelGroups(6, (malformed.np.arange(3), malformed.np.arange(3, 6)))
    groups.save(folder / "groups.json")
    HeadPlan(groups, ((4,), (4,)), 10, 1000, 100).save(folder / "plan.json")
    stability = folder / "stability.json"
    stability.write_text(json.dumps({"halves": 0.5, "bootstraps": [0.5], "text": "x", "n_groups": 2}))
    artefacts = {
        "groups.json": LabelGroups.load, "plan.json": HeadPlan.load, "comparison.json": Comparison.load, "history.jsonl": read_history,
        **{f"{name}.json": read_artefact for name in ("evaluation", "probe", "stability", "sweep", "conditional", "latency", "search", "skipped-train")},
    }  # fmt: skip

    def one_of(readers: dict[str, Callable[[Path], object]]) -> Callable[[Path], object]:
        """The first byte says which reader takes the rest."""

        def read(path: Path) -> object:
            content = path.read_bytes()
            name = list(readers)[content[0] % len(readers)] if content else next(iter(readers))
            return readers[name](_put(path.with_name(name), content[1:]))

        return read

    def images(path: Path) -> object:
        found = open_dataset(path, image_size=8)
        return found.read(range(min(4, len(found))))

    def picture(path: Path) -> object:
        from selfinformed.data.images import ImageFiles, image_transform

        return ImageFiles([path], [[0]], _one_label()).read(0, image_transform(8))

    saved = {f"p.{kind}": lambda path: count(open_predictions(path, 60)) for kind in ("npz", "safetensors", "parquet", "csv")}
    tensors = {
        "counts.safetensors": ConfusionCounts.load, "training.safetensors": lambda path: Checkpoint(path, {}).read(), "weights.safetensors": _read_checkpoint,
        "weights.pt": _read_checkpoint,
    }  # fmt: skip
    manifests = {"manifest.csv": images, "manifest.parquet": images, "holdout.tar": images, "holdout.npz": lambda path: open_dataset(path).example_inputs()}
    seeds = {
        "predictions": [folder / name for name in saved], "tensors": [counts, folder / "weights.safetensors", folder / "weights.pt"],
        "examples": [folder / name for name in manifests], "artefacts": [folder / "groups.json", folder / "plan.json", stability],
        "config": [folder / "config.yaml"], "image": sorted(folder.glob("*/class 0/0.*")),
    }  # fmt: skip
    readers: dict[str, Callable[[Path], object]] = {
        "predictions": one_of(saved), "examples": one_of(manifests), "tensors": one_of(tensors), "artefacts": one_of(artefacts), "config": read_config,
        "image": picture,
    }  # fmt: skip
    return {name: (seeds[name], reader) for name, reader in readers.items()}


def fuzz(name: str, seconds: int, folder: Path) -> None:
    """Fuzzes one reader in this process, which libFuzzer ends."""
    import atheris

    # numba compiles the kernels, which it could not with what atheris puts in
    with atheris.instrument_imports(include=["selfinformed", "tarfile"], exclude=["selfinformed.structure.kernels", "selfinformed.augmented.choosing"]):
        from malformed import without_checksum  # imports readers, which are instrumented only the first time

        found = targets(folder)
    from selfinformed.runtime.errors import SelfInformedError

    files, read = found[name]
    corpus, suffix = folder / "corpus", ".yaml" if name == "config" else ".bin"
    corpus.mkdir()
    n_files = len(files)
    for i, file in enumerate(files):
        content = without_checksum(file.read_bytes())  # which no change would get past
        for number in range(n_files if name not in ("config", "image") else 1):
            prefix = b"" if name in ("config", "image") else bytes([(i + number) % 256])
            (corpus / f"{i}-{number}").write_bytes(prefix + content)
    given = folder / f"given{suffix}"
    answers = {"read": 0, "refused": 0}

    def one(data: bytes) -> None:
        try:
            read(_put(given, data))
            answers["read"] += 1
        except SelfInformedError as error:
            if "\n" in str(error) or len(str(error)) > 3_000:
                raise AssertionError(f"not one line: {error}") from None
            answers["refused"] += 1
        if sum(answers.values()) % 64 == 0:
            _put(folder / "answers.json", json.dumps(answers).encode())

    options = [f"-max_total_time={seconds}", "-timeout=60", "-max_len=65536", f"-rss_limit_mb={MOST_BYTES >> 20}",
    f"-artifact_prefix={folder}/crash-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("reader", choices=[*RISKIEST, "image", "all"])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "tests"))
    if options.folder:
        fuzz(options.reader, round(60 * options.minutes), Path(options.folder))
        return
    from common import save

    rows = [of_process(name, options.minutes) for name in (RISKIEST if options.reader == "all" else [options.reader])]
    for row in rows:
        save(f"fuzz_{row['reader']}", row)
    sys.exit(any(row["crashes"] for row in rows))


def of_process(name: str, minutes: float) -> dict[str, Any]:
    """Fuzzes in a process of its own, so that a crash of it is a figure here."""
    with tempfile.TemporaryDirectory() as temporary:
        start = time.perf_counter()
        command = [sys.executable, __file__, name, "--minutes", str(minutes), "--folder", temporary]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        try:
            _, log = process.communicate(timeout=60 * minutes + 600)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            _, log = process.communicate()
        kept = HERE.parent / "runs" / "fuzz"
        crashes = sorted(Path(temporary).glob("crash-*"))
        for crash in crashes:  # to be looked into
            kept.mkdir(parents=True, exist_ok=True)
            (kept / f"{name}-{crash.name}").write_bytes(crash.read_bytes())
        answers = Path(temporary, "answers.json")
        statistics = dict(line.removeprefix("stat::").split(":") for line in log.replace(" ", "").splitlines() if line.startswith("stat::"))
        if not int(statistics.get("new_units_added", 0)):
            sys.exit(f"fuzz: {name} found no input that runs other code than those it began with: the reader is not instrumented\n" + log[-3_000:])
        return {
            "reader": name, "minutes": minutes, "seconds": round(time.perf_counter() - start, 1), "crashes": max(len(crashes), int(process.returncode != 0)),
            "exit_code": process.returncode, "statistics": statistics, "answers": json.loads(answers.read_text()) if answers.exists() else {},
            "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, "tail": log.splitlines()[-30:] if process.returncode else [],
        }  # fmt: skip


def _put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _one_label() -> Any:
    from selfinformed.data.labels import LabelSpace

    return LabelSpace(["a"])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
