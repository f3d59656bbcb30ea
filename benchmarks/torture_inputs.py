"""Thousands of malformed inputs of every kind through the command line's own entry: tracebacks, answers that do not name the file, peak memory.

Run: python benchmarks/torture_inputs.py [--inputs 10000] [--seed 0] [--only NAME]
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from common import save

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from malformed import Reader, call, damaged, given, readers, verdict, write_sound


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", type=int, default=100, help="how many of them are given to a process of their own too")
    parser.add_argument("--only", help="one kind of input")
    parser.add_argument("--folder", help="keep the sound files here, and take them from here")
    parser.add_argument("--dry", action="store_true", help="write no result")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        sound, copy = Path(options.folder or temporary, "sound"), Path(options.folder or temporary, "copy")
        if not sound.exists():
            write_sound(copy)
            copy.rename(sound)
        chosen = [reader for reader in readers() if options.only in (None, reader.name)]
        others = [(sound / reader.file).read_bytes() for reader in readers()]
        for reader in chosen:  # undamaged, each is read: else the verb would not reach the file at all
            answer = given(reader, sound, copy, (sound / reader.file).read_bytes())
            assert answer == "sound", (reader.name, answer, call(*reader.verb(copy))[2][-600:])
        before, start = peak(), time.perf_counter()
        answers: dict[str, Counter[str]] = {reader.name: Counter() for reader in chosen}
        wrong: list[dict[str, object]] = []
        slowest = (0.0, "")
        sample = max(1, options.inputs // options.alone) if options.alone else options.inputs + 1
        processes = 0
        for number in range(options.inputs):
            reader = chosen[number % len(chosen)]
            rng = random.Random(f"{options.seed} {number}")
            content = damaged(Path(reader.file), (sound / reader.file).read_bytes(), rng, others)
            began = time.perf_counter()
            answer = given(reader, sound, copy, content)
            slowest = max(slowest, (time.perf_counter() - began, f"{reader.name} {number}"))
            if number % sample == sample - 1:
                processes += 1
                answer = alone(reader, copy) if answer in ("sound", "refused") else answer
            answers[reader.name][answer if answer in ("sound", "refused") else "wrong"] += 1
            if answer not in ("sound", "refused"):
                wrong.append({"number": number, "kind": reader.name, "answer": answer})
                print(wrong[-1], file=sys.stderr, flush=True)
        totals = sum(answers.values(), Counter())
        row = {
            "inputs": options.inputs, "seed": options.seed, "kinds": len(chosen), "refused": totals["refused"], "read as sound": totals["sound"],
            "tracebacks or untold": totals["wrong"], "of them in a process of their own": processes, "peak_bytes": peak(), "peak_bytes_before": before,
            "slowest_seconds": round(slowest[0], 2), "slowest": slowest[1], "seconds": round(time.perf_counter() - start, 1),
            "by_kind": {name: dict(found) for name, found in answers.items()}, "wrong": wrong[:50],
        }  # fmt: skip
        if options.dry:
            print({k: v for k, v in row.items() if k not in ("by_kind", "wrong")})
        else:
            save("torture_inputs", row)


def alone(reader: Reader, copy: Path) -> str:
    """The same in a process of its own, on what the first call left."""
    done = subprocess.run([sys.executable, "-m", "selfinformed", *map(str, reader.verb(copy))], capture_output=True, text=True, errors="replace", timeout=300)
    return verdict(reader, (done.returncode, done.stdout, done.stderr))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
