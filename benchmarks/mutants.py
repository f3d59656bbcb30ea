"""Mutants of the code that must not be wrong: small changes, one at a time, each of which some test should notice.

    python benchmarks/mutants.py --each 40 --seed 0 [--only counts.py groups.py] [--again]

Each mutant is written into a copy of the package and meets the tests of its file, in a process forked from one that has imported what the tests
need, so that it costs seconds. A test that fails, or that takes five times the time it takes without the change, has noticed it. Compiled loops run as
plain Python. With --only, the rows of the other files stay as they were (but for reasons found since);
with --again only the survivors nobody has explained are tried again.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, save

from selfinformed.runtime.files import read_json

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "selfinformed"
IMPORTED = """
torch torch.utils.flop_counter numpy numba scipy.sparse.csgraph scipy.linalg sklearn.cluster sklearn.metrics pandas PIL.Image yaml safetensors pytest hypothesis
"""
LEAST_CPU, LEAST_WALL, MEMORY = 5, 60.0, 24 << 30  # seconds a mutant gets at least; bytes of address space at most

# The tests of each file, the quickest that cover it; what follows a bar is pytest's -k.
TESTS = {
    "structure/counts.py": "structure/test_counts.py structure/test_accelerated.py",
    "structure/tables.py": "structure/test_tables.py structure/test_counts.py",
    "structure/kernels.py": "structure/test_kernels.py",
    "structure/clustering.py": "structure/test_clustering.py structure/test_groupings.py | not (fifty or missed or span or small_random or trained)",
    "structure/eigenpairs.py": "structure/test_eigenpairs.py",
    "structure/average_precision.py": "structure/test_average_precision.py",
    "structure/groups.py": "structure/test_groups.py",
    "runtime/work.py": "runtime/test_work.py | not processes_fill and not process_lives",
    "training/checkpoints.py": "training/test_checkpoints.py",
    "runtime/journals.py": "evidence/test_journal.py | not data and not same_inputs",
    "evidence/journal.py": "evidence/test_journal.py | not data and not same_inputs",
}
PLAIN = {"structure/kernels.py"}  # compiled loops that are run as Python, since every change would compile them anew

FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
SWAPPED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip

# Survivors that change nothing a test could see: file, how the line begins, what a part of it becomes (* anything), and why.
EQUIVALENT: dict[tuple[str, str], dict[str, str]] = {
    ("structure/counts.py", "each = self.top_k * "): {
        "*": "how much waits before it is summed: memory and speed only",
    },
    ("structure/counts.py", "return max(1, int(max(min(_WAITING"): {
        "*": "how much waits before it is summed: memory and speed only",
    },
    ("structure/clustering.py", "wanted = min(_MOST_GROUPS, n - 1) + 1"): {"(min(n - 1, _MOST_GROUPS))": "the same minimum"},
    ("structure/clustering.py", "return np.where(length > rounding, vectors, 0)"): {"(length >= rounding)": "a length that is just that number"},
    ("structure/clustering.py", "return np.asarray(KMeans(n, n_init=10"): {"(9)": "a start fewer"},
    ("structure/clustering.py", "few = KMeans(n, n_init=20"): {"(21)": "a start more", "(99)": "a label fewer to start from"},
    ("structure/eigenpairs.py", "self.lowest = max("): {"(max(-float(self.own.max()), -1.0))": "the same maximum"},
    ("structure/eigenpairs.py", "place = np.full(len(sizes), -1)"): {"(2)": "any number below zero marks a component that is left out"},
    ("structure/eigenpairs.py", "exact = min(max("): {"*": "the same minimum"},
    ("structure/eigenpairs.py", "return int(np.clip(min(room, want), 2, largest))"): {"(min(want, room))": "the same minimum"},
    ("structure/kernels.py", "while i + 4 <= last:"): {"(i + 4 < last)": "the loop after it does the last four one by one"},
    ("structure/average_precision.py", "k = min(self.top_k, self.n_labels)"): {"(min(self.n_labels, self.top_k))": "the same minimum"},
    ("structure/average_precision.py", "return np.where(self._positives > 0, sums / self._positives, np.nan)"): {"(self._positives >= 0)": "0 / 0 is NaN too"},
    ("structure/groups.py", "for name, labels in zip(self.names, members, strict=True):"): {"(False)": "their number has just been checked"},
    ("structure/groups.py", "rows = [{\"group\": i + 1"): {
        "(False)": "there is one name for each group from the start",
    },
    ("structure/tables.py", "edges = np.linspace(0, n_labels, min(n_labels, _BLOCKS) + 1).astype(np.int64)"): {"(min(_BLOCKS, n_labels))": "the same minimum"},
    ("structure/tables.py", "self._densify()"): {"pass": "the same counts, in the form chosen after the merge; memory only"},
    ("structure/tables.py", "index = np.int32 if starts[-1] < 2**31"): {"(2)": "differs only where the last label's row crosses 2^31 entries (24 GB)"},
    ("structure/tables.py", "if trim is not None:"): {"(trim is None)": "when freed memory is given back"},
    ("structure/tables.py", "self._blocks[number] = self._empty(0)"): {"pass": "frees memory a little earlier"},
    ("structure/tables.py", "if number % 8 == 0:"): {"*": "when freed memory is given back"},
    ("structure/tables.py", "_give_back()"): {"pass": "when freed memory is given back"},
    ("runtime/work.py", "while not done.wait(LEASE / 6):"): {"(5)": "how often a sign of life is given, at least once in a lease"},
    ("runtime/work.py", "thread = threading.Thread(target=live, daemon=True)"): {"(False)": "it is joined in any case"},
    ("runtime/work.py", "return bool(gone or abs("): {
        "(abs(_clock(path.parent) - path.stat().st_mtime) >= LEASE)": "differs where a claim is as old as the lease to the nanosecond",
    },
    ("training/checkpoints.py", "metadata = {\"format\": FORMAT"): {
        "(False)": "reading compares what the text holds, not its order",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: the text from `start` to `end`, (line, byte) each, becomes `after`."""

    file: str
    line: int
    kind: str
    before: str
    after: str
    start: tuple[int, int]
    end: tuple[int, int]

    def applied(self, source: str) -> str:
        lines = [line.encode() for line in source.splitlines(keepends=True)]
        (first, left), (last, right) = self.start, self.end
        lines[first - 1 : last] = [lines[first - 1][:left] + self.after.encode() + lines[last - 1][right:]]
        return b"".join(lines).decode()


def main(each: int, seed: int, only: list[str], again: bool) -> None:
    start, rows = time.perf_counter(), {}
    for name in IMPORTED.split():
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        shutil.copytree(SOURCE, Path(folder) / "selfinformed", ignore=shutil.ignore_patterns("__pycache__"))
        for name in [name for name in TESTS if not only or Path(name).name in only]:
            rows[name] = judged(name, Path(folder), each, seed, known().get(name) if again else None)
    rows = (known() if only else {}) | rows
    files = [rows[name] for name in TESTS if name in rows]
    for row in files:  # reasons may have been found since
        for survivor in row["survivors"]:
            survivor["equivalent"] = reason(row["file"], survivor["code"], survivor["after"])
    sums = {key: sum(row[key] for row in files) for key in ("mutants", "killed", "timeout", "survived")}
    equivalent = sum(survivor["equivalent"] is not None for row in files for survivor in row["survivors"])
    save("mutants", {
        "command": f"python benchmarks/mutants.py --each {each} --seed {seed}", "seed": seed, "each": each, **sums, "equivalent": equivalent,
        "noticed": (sums["killed"] + sums["timeout"]) / max(sums["mutants"], 1),
        "noticed_of_those_that_change_anything": (sums["killed"] + sums["timeout"]) / max(sums["mutants"] - equivalent, 1),
        "seconds": time.perf_counter() - start, "files": files,
    })  # fmt: skip


def known() -> dict[str, dict[str, Any]]:
    """The rows of the last results, by file."""
    path = RESULTS / "mutants.json"
    return {row["file"]: row for row in read_json(path, "results")["files"]} if path.exists() else {}


def judged(name: str, folder: Path, each: int, seed: int, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """The row of one file: its mutants, how many were noticed, and those that were not; with the row `before`, only those are tried again."""
    target, source = folder / "selfinformed" / name, (SOURCE / name).read_text("utf-8")
    found = mutants(name, source)
    chosen = sorted(random.Random(f"{name} {seed}").sample(found, min(each, len(found))), key=lambda mutant: mutant.start)
    tested(name, folder, 600, 3600.0)  # fills the cache of compiled loops
    outcome, cpu, clean = tested(name, folder, 600, 3600.0)
    assert outcome == "survived", f"the tests of {name} fail without any change"
    row: dict[str, Any] = {"file": name, "possible": len(found), "mutants": len(chosen), "killed": 0, "timeout": 0, "survived": 0}
    survivors: list[dict[str, Any]] = []
    if before:
        row |= {key: before[key] for key in ("killed", "timeout")}
        explained = [one for one in before["survivors"] if reason(name, one["code"], one["after"])]
        survivors, row["survived"] = explained, len(explained)
        left = [(one["line"], one["before"], one["after"]) for one in before["survivors"] if one not in explained]
        chosen = [mutant for mutant in chosen if (mutant.line, mutant.before, mutant.after) in left]
    for mutant in chosen:
        target.write_text(mutant.applied(source), "utf-8")
        outcome, seconds, _ = tested(name, folder, max(LEAST_CPU, math.ceil(5 * cpu)), max(LEAST_WALL, 5 * clean))
        row[outcome] += 1
        print(f"{outcome:8} {seconds:5.1f} s  {name}:{mutant.line}  {mutant.before}  ->  {mutant.after}", flush=True)
        if outcome == "survived":
            code = source.splitlines()[mutant.line - 1].strip()
            survivors.append({"line": mutant.line, "code": code, "kind": mutant.kind, "before": mutant.before, "after": mutant.after})
    target.write_text(source, "utf-8")
    return {**row, "cpu_seconds_of_tests": cpu, "tests": TESTS[name], "survivors": survivors}


def reason(name: str, code: str, after: str) -> str | None:
    """Why a survivor changes nothing; None if nobody has said so."""
    found = [reasons for (file, start), reasons in EQUIVALENT.items() if file == name and code.startswith(start)]
    return next((reasons[key] for reasons in found for key in (after, "*") if key in reasons), None)


def tested(name: str, folder: Path, cpu: int, wall: float) -> tuple[str, float, float]:
    """What the tests of a file say of the copy as it is now: killed, timeout or survived, and after how many seconds, of a processor and of a clock."""
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _run_tests(name, folder, cpu)
        finally:
            os._exit(code)
    outcome = None
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        time.sleep(0.02)
        if outcome is None and time.perf_counter() - start > wall:
            os.kill(child, signal.SIGKILL)
            outcome = "timeout"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what the tests may have left
    status, usage = ended[1:]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        outcome = "timeout"
    return outcome or ("survived" if status == 0 else "killed"), usage.ru_utime + usage.ru_stime, time.perf_counter() - start


def _run_tests(name: str, folder: Path, cpu: int) -> int:
    import hypothesis
    import numba
    import pytest

    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.chdir(ROOT)
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(folder)]
    for module in [module for module in sys.modules if module.partition(".")[0] in ("selfinformed", "common")]:
        del sys.modules[module]
    numba.config.DISABLE_JIT = name in PLAIN
    once = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=once, database=None, deadline=None)  # a failure is enough, no need to find its smallest form
    hypothesis.settings.load_profile("mutants")
    files, _, words = TESTS[name].partition(" | ")
    paths = [ROOT / "tests" / file for file in files.split()]
    options = ["-x", "-q", "--hypothesis-seed=0", f"--basetemp={folder / 'tests'}"]
    options += [option for plugin in ("cacheprovider", "playwright", "anyio", "xdist") for option in ("-p", f"no:{plugin}")]
    options += ["-k", words] if words else []
    options += [] if any("from conftest" in path.read_text("utf-8") for path in paths) else ["--noconftest"]
    return int(pytest.main([*map(str, paths), *options]))


def mutants(name: str, source: str) -> list[Mutant]:
    """Every change of the kinds below, but in annotations, decorators, docstrings, texts and what is there for type checkers only."""
    found = []
    for node in _code(ast.parse(source)):
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            changes, place = [("condition", f"(not ({ast.unparse(node.test)}))")], node.test
        else:
            changes, place = list(_changes(node)), node
        for kind, after in changes:
            text = after if isinstance(after, str) else f"({ast.unparse(after)})" if isinstance(after, ast.expr) else ast.unparse(after)
            before = str(ast.get_source_segment(source, place))
            found.append(Mutant(name, place.lineno, kind, before, text, (place.lineno, place.col_offset), (place.end_lineno, place.end_col_offset)))
    return found


def _code(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr | ast.arguments | ast.Import | ast.ImportFrom):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (child in node.decorator_list or child is getattr(node, "returns", None)):
            continue
        if isinstance(node, ast.AnnAssign) and child is node.annotation:
            continue
        yield child
        yield from _code(child)


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST | str]]:
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            ops = [FLIPPED[type(operator)]() if i == j else other for j, other in enumerate(node.ops)]
            yield "comparison", ast.Compare(node.left, ops, node.comparators)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "constant", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        for step in (1, -1):
            yield "constant", ast.Constant(node.value + step)
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        yield "arithmetic", ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right)
    if isinstance(node, ast.AugAssign) and type(node.op) in SWAPPED:
        yield "arithmetic", ast.AugAssign(node.target, SWAPPED[type(node.op)](), node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield "sign or negation", node.operand
    if isinstance(node, ast.BoolOp):
        yield "boolean", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    if isinstance(node, ast.Call) and len(node.args) > 1 and not any(isinstance(argument, ast.Starred) for argument in node.args[:2]):
        yield "arguments", ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
    if isinstance(node, ast.Raise | ast.AugAssign):
        yield "removed", "pass"
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom):
        yield "removed", "pass"
    if isinstance(node, ast.Assign) and not all(isinstance(target, ast.Name | ast.Tuple) for target in node.targets):
        yield "removed", "pass"
    if isinstance(node, ast.Continue | ast.Break):
        yield "removed", "break" if isinstance(node, ast.Continue) else "continue"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    main(options.each, options.seed, options.only, options.again)
