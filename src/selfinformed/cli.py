"""The command line: one verb per stage."""

from __future__ import annotations

import inspect
import json
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from selfinformed.pipeline.config import RunConfig, demo_config, read_config
from selfinformed.runtime.device import rank
from selfinformed.runtime.errors import SelfInformedError

if TYPE_CHECKING:
    from selfinformed.pipeline.run import Run

app = typer.Typer(
    name="selfinformed",
    help="Makes a trained classifier better where it mixes its labels up. Start with: selfinformed demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INPUTS = [
    "output", "model", "checkpoint", "classifier", "attach", "reduce", "outputs", "labels", "train", "holdout", "test", "image_size", "skip_bad",
    "fonts", "views", "forward_batch_size", "feature_dtype", "device",
]  # fmt: skip
_COUNTS = ["top_k", "predictions", "n_labels"]
_CLUSTER = ["n_groups", "grouping", "cover_share", "seed"]
_PLAN = ["budget", "hidden", "depth", "capacity", "dense_share"]
_FIT = [
    "keep_classifier", "head_input", "epochs", "batch_size", "learning_rate", "classifier_learning_rate", "finetune", "schedule", "weight_decay", "epsilon",
    "label_smoothing", "logit_adjustment", "class_weights", "balanced_sampling", "soft_targets", "temperature", "ema", "tail_average", "patience",
    "watch", "log",
]  # fmt: skip


def main() -> None:
    """Runs a verb; an error is one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except SelfInformedError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        sys.exit(1)
    except typer.Exit as exit:
        sys.exit(exit.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line itself
            sys.exit(_fail(error.format_message()))
        raise
    if code == 130:  # what Typer makes of Ctrl-C inside a verb
        resume = shlex.join(["selfinformed", *sys.argv[1:]])
        print(f"\nstopped; what was finished is kept. Resume with: {resume}", file=sys.stderr)  # noqa: T201
    sys.exit(code if isinstance(code, int) else 0)


def _verb(options: list[str], example: str, trains: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a verb that takes a configuration or a run folder, and those options of `RunConfig` that it reads.

    The processes of torchrun train heads together where that is what the verb `trains`; of other verbs they divide the measuring.
    """

    def register(function: Callable[[Run, bool], None]) -> Callable[..., None]:
        def command(source: str | None, json: bool, print_config: bool, **changes: Any) -> None:
            if source is None and changes.get("model") is None and changes.get("predictions") is None:
                instead = [f"--{name} {what}" for name, what in (("predictions", "FILE"), ("model", "MODEL")) if name in options]
                others = "".join(f", or {option}" for option in instead)
                raise SelfInformedError(f"{function.__name__}: name a config.yaml or a run folder{others}; see selfinformed {function.__name__} --help")
            config = RunConfig() if source is None else read_config(source)
            config = config.with_changes({k: _parsed(k, v) for k, v in changes.items() if v is not None})
            if print_config:
                print(config.to_yaml())  # noqa: T201
                return
            with _joined(config.device) if trains else nullcontext():
                run = _open(config)
                if rank() == 0:
                    function(run, json)
                elif trains:
                    run.augmented()
                elif "top_k" in options:
                    run.counts()  # the other processes of torchrun help with this stage and leave the rest to the first

        chosen = [option for option in fields(RunConfig) if option.name in options]
        parameters = {
            "source": (Annotated[str | None, typer.Argument(metavar="CONFIG|RUN", help="a config.yaml, or a run folder", show_default=False)], None),
            "json": (Annotated[bool, typer.Option("--json", help="print the result as JSON")], False),
            "print_config": (Annotated[bool, typer.Option("--print-config", help="print the resolved configuration and stop")], False),
            **{option.name: (Annotated[str | None, _documented(option)], None) for option in chosen},
        }
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d, annotation=a) for n, (a, d) in parameters.items()]
        )
        command.__annotations__ = {n: a for n, (a, _) in parameters.items()}
        app.command(function.__name__.strip("_"), help=f"{inspect.getdoc(function)}\n\nExample: {example}")(command)
        return function

    return register


def _documented(option: Any) -> Any:
    default = "" if option.default is None or "default:" in option.metadata["help"] or option.default == "" else f" [default: {option.default}]"
    name = option.name.replace("_", "-")
    choices = [c for c in get_args(_literal(option.name)) if isinstance(c, str)]
    return typer.Option(f"--{name}", help=option.metadata["help"] + default, metavar="|".join(choices) if choices else "VALUE")


def _literal(name: str) -> Any:
    from typing import Literal, get_type_hints

    hint = get_type_hints(RunConfig)[name]
    return hint if get_origin(hint) is Literal else None


def _parsed(name: str, value: str) -> Any:
    if name in ("hidden", "arms", "sweep", "top_groups"):
        return [part.strip() for part in value.split(",") if part.strip()]
    if name == "model_options":
        import yaml

        return {key.strip(): yaml.safe_load(text) for key, _, text in (part.partition("=") for part in value.split(","))}
    return None if value == "none" else value


@app.command()
def demo(
    base: Annotated[str, typer.Option(help="the shipped base: budget (has headroom) or converged (has little)", metavar="budget|converged")] = "budget",
    fonts: Annotated[str | None, typer.Option(help="folder of other typefaces", metavar="DIR")] = None,
    output: Annotated[str | None, typer.Option(help="run folder [default: runs/demo, or runs/demo-converged]")] = None,
    seeds: Annotated[int, typer.Option(help="seeds of the comparison")] = 3,
    json: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="print the resolved configuration and stop")] = False,
) -> None:
    """Runs the whole method on 2,526 labels of glyphs with a base network from the package, in about three minutes on 2 cores.

    Example: selfinformed demo --output runs/demo
    """
    folder = output or ("runs/demo" if base == "budget" else f"runs/demo-{base}")
    config = demo_config(base, fonts, folder).with_changes({"seeds": seeds})
    if print_config:
        print(config.to_yaml())  # noqa: T201
        return
    _run_all(_open(config), json)


@_verb([option.name for option in fields(RunConfig)], "selfinformed run config.yaml --n-groups 12")
def run(run: Run, json: bool) -> None:
    """Runs every stage that is not done yet: measure, cluster, plan, probe, fit, evaluate, compare, report."""
    _run_all(run, json)


@_verb(_INPUTS + _COUNTS, "selfinformed measure config.yaml --top-k 100; selfinformed measure --predictions saved.npz --n-labels 17000 --output runs/saved")
def measure(run: Run, json: bool) -> None:
    """Counts which labels the network mixes up on held-out data (eqs. 3 and 4)."""
    from selfinformed.structure.clustering import top_confusions

    counts, names = run.counts(), run.labels.names
    pairs = [{"detected": names[i], "annotated": names[j], "examples": n} for i, j, n in top_confusions(counts, 20)]
    about = {"n_examples": counts.n_examples, "n_labels": counts.n_labels, "top_k": counts.top_k}
    _show(json, {**about, "pairs": pairs}, pairs, f"most confused pairs in {counts.n_examples:,} examples, top {counts.top_k} of {counts.n_labels:,} labels")


@_verb(_INPUTS + _COUNTS + _CLUSTER + ["bootstraps", "sweep"], "selfinformed cluster config.yaml --n-groups auto --sweep 2,4,8,16,32")
def cluster(run: Run, json: bool) -> None:
    """Groups the labels by spectral clustering of the counts, and says how stable the groups are."""
    groups, stable = run.groups(), run.stability()
    sweep = run.sweep() if run.config.sweep else []
    title = f"{len(groups)} groups; {len(groups.ungrouped)} labels in none"
    _show(json, {**groups.to_dict(), "stability": stable, "sweep": sweep}, _group_rows(run), title)
    if json:
        return
    print(stable["text"])  # noqa: T201
    if sweep:
        rows = [
            {"groups": row["n_groups"], "gap to next": f"{row['gap']:.4f}" if row["gap"] is not None else "-", "largest": max(row["sizes"]),
             "smallest": min(row["sizes"]), "confusions within": f"{_percent(row['within_share'], digits=1)}%"}
            for row in sweep
        ]  # fmt: skip
        _table(rows, f"other numbers of groups; see {run.folder / 'figures' / 'sweep.png'}")


@_verb(_INPUTS + _COUNTS + _CLUSTER + _PLAN, "selfinformed plan config.yaml --budget 0.03 --capacity labels")
def plan(run: Run, json: bool) -> None:
    """Turns groups into heads and prints what they will cost before anything is trained."""
    heads = run.plan()
    cost = run.net.cost
    rows: list[dict[str, Any]] = [
        {
            "head": "", "group": f"the network's {part}", "labels": "", "widths": "", "multiply-adds": f"{n:,}",
            "parameters": f"{cost.parameters_by_part[part]:,}",
        }
        for part, n in cost.by_part.items()
    ]  # fmt: skip
    rows += [
        {"head": i + 1, "group": name, "labels": size, "widths": "-".join(map(str, widths)), "multiply-adds": f"{n:,}", "parameters": f"{parameters:,}"}
        for i, (name, size, widths, n, parameters) in enumerate(
            zip(heads.groups.names, heads.groups.sizes, heads.hidden, heads.head_multiply_adds, heads.head_parameters, strict=True)
        )
    ]
    parts = {"multiply_adds_by_part": dict(cost.by_part), "parameters_by_part": dict(cost.parameters_by_part), "uncounted": list(cost.uncounted)}
    _show(json, {**heads.to_dict(), **parts, "estimate": run.estimate()}, rows, _price(run))


@_verb(_INPUTS + _COUNTS + _CLUSTER + ["budget", "epochs", "probe_width", "attach_points"], "selfinformed probe config.yaml --attach-points 3")
def probe(run: Run, json: bool) -> None:
    """Says before training how much heads could gain and where, what a budget will gain, and what limits the network."""
    headroom = run.headroom()
    places = [
        {
            "reading": row["attach"], "wide head": _percent(row["mean_average_precision"]), "gain": _percent(row["gain"], "+"),
            "gain at the budget": _percent(row["budget_gain"], "+"),
        }
        for row in headroom["attach_points"]
    ]  # fmt: skip
    rows = [
        {"group": r["group"], "labels": r["labels"], "gain": _percent(r["gain"], "+"), "share": _percent(r["share"], digits=0) + "%"}
        for r in headroom["groups"]
    ]
    _show(json, headroom, places, headroom["verdict"])
    if json:
        return
    forecast = headroom["forecast"]
    low, high = (_percent(end, "+") for end in forecast["interval"])
    print(  # noqa: T201
        f"forecast at {_percent(forecast['budget'], digits=1)}% more multiply-adds: {_percent(forecast['gain'], '+')} mAP ({low} to {high}), "
        f"by {'retraining the classifier' if forecast['choice'] == 'classifier' else forecast['choice']}; limited by: {headroom['limited_by']}"
    )
    if rows:
        _table(rows, "where the gain of the wide head lies")


@_verb(_INPUTS + _COUNTS + _CLUSTER + _PLAN + _FIT, "selfinformed fit config.yaml --epochs 4", trains=True)
def fit(run: Run, json: bool) -> None:
    """Trains the heads and the classifier on cached features."""
    from json import loads

    run.augmented()
    history = run.folder / "history.jsonl"
    rows = [loads(line) for line in history.read_text("utf-8").splitlines()] if history.exists() else []
    shown = [{**row, "loss": f"{row['loss']:.4f}"} for row in rows]
    _show(json, rows, shown, f"heads.safetensors and config.json are in {run.folder}")


@_verb(_INPUTS + _COUNTS + _CLUSTER + _PLAN + _FIT + ["map_k", "mapping", "top_groups"], "selfinformed evaluate config.yaml --top-groups 1,2,4")
def evaluate(run: Run, json: bool) -> None:
    """Judges base and augmented network on test data, over all labels and by group."""
    result = run.evaluation()
    rows = [{"network": name, **_figures(figures)} for name, figures in (("base", result["base"]), ("augmented", result))]
    curve = run.conditional() if run.config.top_groups else []
    _show(json, {**result, "conditional": curve}, rows, f"{result['n_examples']:,} test examples")
    if curve and not json:
        shown = [{"heads per example": row["top_groups"], **_figures({**row, "top_k": result["top_k"]})} for row in curve]
        _table(shown, f"only the heads its scores point to; multiply-adds executed on average; see {run.folder / 'figures' / 'conditional.png'}")


@_verb([option.name for option in fields(RunConfig)], "selfinformed compare config.yaml --seeds 5 --arms base,confusions,dense")
def compare(run: Run, json: bool) -> None:
    """Trains the method and every control over several seeds and compares them."""
    _show_comparison(run, json)


@_verb(_INPUTS + _COUNTS + _FIT + ["budget", "budget_of", "candidates", "rounds", "map_k", "seed"], "selfinformed search config.yaml --budget 0.03")
def search(run: Run, json: bool) -> None:
    """Finds which structure at a budget helps most, judged on hold-out data, and says whether specialists were worth it."""
    result = run.search()
    rows = [
        {"structure": t["structure"], "passes": f"{t['epochs']:.2f}", "hold-out mAP": _percent(t["mean_average_precision"]),
         "executed": f"{t['extra_computation']:.3f}x", "seconds": f"{t['seconds']:.0f}"}
        for t in result["trials"]
    ]  # fmt: skip
    _show(json, result, rows, result["verdict"])


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="one run folder, or several to hold against each other", show_default=False)],
    output: Annotated[str | None, typer.Option(help="the page of several runs [default: runs.html beside the first]", metavar="FILE")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Writes report.html, figures and tables from a run's artefacts; given several runs, one page that holds them side by side.

    Example: selfinformed report runs/demo; selfinformed report runs/six-groups runs/twelve-groups --output groups.html
    """
    if len(runs) == 1:
        if output is not None:
            raise SelfInformedError("report: --output names the page of several runs; a single run's report.html is written into its folder")
        path = _open(read_config(runs[0])).report()
    else:
        from selfinformed.pipeline.side_by_side import side_by_side

        path = side_by_side(runs, output)
    _show(json, {"report": str(path)}, [], f"open {path}")


@_verb(["output"], "selfinformed export runs/demo")
def export(run: Run, json: bool) -> None:
    """Exports the augmented network as model.onnx and verifies it with onnxruntime."""
    from selfinformed.augmented.exported import export_onnx

    _, inputs = next(run.inputs.examples("test").batches(64))
    check = export_onnx(run.augmented(), run.folder / "model.onnx", inputs)
    row = {
        "file": str(check.path), "inputs": check.n_inputs, "max difference": f"{check.max_difference:.2g}",
        "top-1 agreement": _percent(check.top1_agreement),
    }  # fmt: skip
    _show(json, {**vars(check), "path": str(check.path)}, [row], "verified by onnxruntime")


@_verb(["output", "device"], "selfinformed bench runs/demo")
def bench(run: Run, json: bool) -> None:
    """Measures base and augmented network in alternation at batch 1, 8 and 32."""
    (run.folder / "latency.json").unlink(missing_ok=True)
    result = run.latency()
    rows = [{k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in result["rows"]]
    _show(json, result, rows, f"milliseconds; multiply-adds ratio {result['extra_computation']:.3f}")


def _joined(device: str) -> AbstractContextManager[None]:
    from selfinformed.training.processes import joined

    return joined(device)


def _open(config: RunConfig) -> Run:
    from selfinformed.pipeline.run import Run
    from selfinformed.runtime.progress import console

    def say(line: str) -> None:
        if rank() == 0:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    return Run(config, say)


def _run_all(run: Run, json: bool) -> None:
    import time

    start = time.perf_counter()
    stable = run.stability()
    run.say(f"           {stable['text']}")
    run.plan()
    run.say(f"           {_price(run)}")
    headroom = run.headroom()
    run.say(f"           {headroom['verdict']}")
    run.augmented()
    run.evaluation()
    run.comparison()
    run.latency()
    path = run.report()
    if not json:
        _table(_group_rows(run), "groups of labels, the most confused first")
    _show_comparison(run, json)
    if not json:
        print(f"report     {path}")  # noqa: T201
        print(f"took       {time.perf_counter() - start:.0f} s")  # noqa: T201


def _price(run: Run) -> str:
    heads, estimate = run.plan(), run.estimate()
    return (
        f"{heads.multiply_adds:,} multiply-adds, {heads.extra_computation:.3f}x; {heads.parameters - heads.base_parameters:,} more parameters; "
        f"features take {estimate['cache_bytes'] / 1e6:.0f} MB and about {estimate['cache_seconds']:.0f} s, training about {estimate['training_seconds']:.0f} s"
    )


def _show_comparison(run: Run, json: bool) -> None:
    comparison = run.comparison()
    minus, rows = f"{comparison.method} minus it", []
    for row in comparison.summary():
        low, high = row["interval"]
        over, method = row["over_base"], row["method_over_it"]
        rows.append(
            {
                "arm": row["arm"], f"mAP@{comparison.top_k}": _percent(row["mean_average_precision"]),
                "95% interval": f"{_percent(low)} to {_percent(high)}",
                "over base": _percent(over["mean"], "+") if over and row["arm"] != "base" else "",
                minus: f"{_percent(method['mean'], '+')} ({_percent(method['low'], '+')} to {_percent(method['high'], '+')})" if method else "",
                "top-1": _percent(row["top1"]), "top-5": _percent(row["top5"]), "multiply-adds": f"{row['multiply_adds']:,.0f}",
                "extra": f"{row['extra_computation']:.3f}x", "seconds": f"{row['seconds']:.0f}",
            }
        )  # fmt: skip
    _show(json, comparison.to_dict(), rows, comparison.verdict)


def _group_rows(run: Run) -> list[dict[str, Any]]:
    groups, names = run.groups(), run.labels.names
    return [
        {"group": i + 1, "labels": len(members), "most confused": ", ".join(names[m].removeprefix("word:") for m in members[:14])}
        for i, members in enumerate(groups.members)
    ]


def _figures(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        f"mAP@{figures['top_k']}": _percent(figures["mean_average_precision"]), "per example": _percent(figures["mean_average_precision_per_example"]),
        "top-1": _percent(figures["top1"]), "top-5": _percent(figures["top5"]),
        "multiply-adds": f"{figures['multiply_adds']:,}", "extra": f"{figures['extra_computation']:.3f}x",
    }  # fmt: skip


def _percent(value: float | None, sign: str = "", digits: int = 2) -> str:
    return "-" if value is None or value != value or abs(value) == float("inf") else f"{100 * value:{sign}.{digits}f}"


def _show(as_json: bool, content: Any, rows: list[dict[str, Any]], title: str) -> None:
    from selfinformed.runtime.files import plain

    if as_json:
        print(json.dumps(plain(content), ensure_ascii=False))  # noqa: T201
    elif rows:
        _table(rows, title)
    else:
        print(title)  # noqa: T201


def _table(rows: list[dict[str, Any]], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        text = name in ("arm", "group", "reading", "most confused", "structure", "detected", "annotated", "network")
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(Text(f"\n{title}"), soft_wrap=True)
    console.print(table)


def _fail(message: str) -> int:
    print(f"selfinformed: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    main()
