"""The command line: one verb per stage."""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from selfinformed import __version__
from selfinformed.pipeline.config import RunConfig, demo_config, read_config
from selfinformed.runtime.device import rank, world_size
from selfinformed.runtime.errors import InUseError, SelfInformedError
from selfinformed.runtime.remarks import on_one_line
from selfinformed.runtime.tabular import Table, harmless, one_line, percent

if TYPE_CHECKING:
    from selfinformed.augmented.exported import ExportCheck
    from selfinformed.pipeline.run import Run

app = typer.Typer(
    name="selfinformed",
    help="Makes a trained classifier better where it mixes its labels up. Start with: selfinformed demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a plain traceback: local variables, which may hold a token, are not shown
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"selfinformed {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _before_verbs(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version)] = False,
) -> None:
    """Options that stand before a verb."""


_INPUTS = [
    "output", "model", "model_options", "checkpoint", "classifier", "attach", "reduce", "outputs", "labels", "train", "holdout", "test",
    "image_size", "pixel_mean", "pixel_std", "skip_bad", "fonts", "views", "augmentation", "forward_batch_size", "feature_dtype", "device",
]  # fmt: skip
_COUNTS = ["top_k", "predictions", "n_labels"]
_CLUSTER = ["n_groups", "grouping", "cover_share", "seed"]
_PLAN = ["budget", "hidden", "depth", "capacity", "dense_share"]
_TRAINING = [
    "head_input", "epochs", "batch_size", "learning_rate", "classifier_learning_rate", "residual", "schedule", "weight_decay", "epsilon",
    "label_smoothing", "logit_adjustment", "class_weights", "balanced_sampling", "soft_targets", "temperature", "teacher", "teacher_checkpoint",
    "ema", "tail_average", "patience", "watch",
]  # fmt: skip
_FIT = ["structure", "keep_classifier", *_TRAINING, "finetune", "log"]

_LONGEST = 1_500  # characters of an error
_SMALLER = "what was finished is kept; give a smaller --forward-batch-size, --batch-size or --budget, and run again"


def main() -> None:
    """Runs a verb; an error is one line and exit code 2, or 75 where another process is at work there."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may hold what the terminal's encoding has not
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = on_one_line
    code = _exit_code()
    if code == 0 and world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # torch's threads that speak to other processes may outlive their group and abort an interpreter that is taken down
    sys.exit(code)


def _exit_code() -> int:
    try:
        rank()  # refused before anything begins, where it cannot be
        code = app(standalone_mode=False)
    except InUseError as error:
        _fail(str(error))
        return 75
    except SelfInformedError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        return 1
    except typer.Exit as exit:
        return exit.exit_code
    except OSError as error:  # a disk that fails where nothing closer to it knows what to say
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}; what was finished is kept, run again when the cause is mended")
    except MemoryError as error:
        return _fail(f"memory is short ({error or 'it ran out'}); {_SMALLER}")
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):  # torch's own
            return _fail(f"memory is short ({str(error).splitlines()[0].rpartition('] ')[2]}); {_SMALLER}")
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error)  # noqa: T201
            return 0
        if hasattr(error, "format_message"):  # a usage error of the command line itself
            return _fail(error.format_message())
        raise
    if code == 130:  # what Typer makes of Ctrl-C inside a verb
        resume = shlex.join(["selfinformed", *sys.argv[1:]])
        print(f"\nstopped; what was finished is kept. Resume with: {resume}", file=sys.stderr)  # noqa: T201
    return code if isinstance(code, int) else 0


def _help(about: str, example: str) -> str:
    """The list of verbs shows the first sentence of `about`, whole if it has at most 60 characters. (A docstring would be gone with python -OO.)"""
    return f"{about}\n\nExample: {example}"


def _alone(about: str, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a verb with options of its own; of torchrun's processes the first does it alone."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(*args: Any, **options: Any) -> None:
            if rank() == 0:
                function(*args, **options)

        app.command(help=_help(about, example))(command)
        return function

    return register


def _verb(options: list[str], about: str, example: str, trains: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
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
                    run.augmented(replace_others=True)  # as the first does
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
        app.command(function.__name__, help=_help(about, example))(command)
        return function

    return register


def _documented(option: Any) -> Any:
    default = "" if option.default is None or "default:" in option.metadata["help"] or option.default == "" else f" [default: {option.default}]"
    name = option.name.replace("_", "-")
    choices = [c for c in get_args(_literal(option.name)) if isinstance(c, str)]
    choices = ["VALUE", *choices] if choices == ["auto"] else choices
    return typer.Option(f"--{name}", help=option.metadata["help"] + default, metavar="|".join(choices) if choices else "VALUE")


def _literal(name: str) -> Any:
    hint = get_type_hints(RunConfig)[name]
    return next((part for part in (hint, *get_args(hint)) if get_origin(part) is Literal), None)


def _parsed(name: str, value: str) -> Any:
    if value == "none":
        return None
    if name in ("hidden", "arms", "sweep", "top_groups", "pixel_mean", "pixel_std"):
        return [part.strip() for part in value.split(",") if part.strip()]
    if name == "model_options":
        import yaml

        parts = [part.partition("=") for part in value.split(",")]
        try:
            read = {key.strip(): yaml.safe_load(text) for key, equals, text in parts if key.strip() and equals}
        except yaml.YAMLError:
            read = {}
        if len(read) < len(parts):
            raise SelfInformedError(f"model_options: expected NAME=VALUE, several parted by commas, got {value!r}; write other values in a config.yaml")
        return read
    return value


@_alone(
    "Runs the whole method on glyphs, in about three minutes. The task has 2,526 labels and its base is in the package; the minutes are those of 2 cores.",
    "selfinformed demo --output runs/demo",
)
def demo(
    base: Annotated[str, typer.Option(help="the shipped base: budget (has headroom) or converged (has little)", metavar="budget|converged")] = "budget",
    fonts: Annotated[str | None, typer.Option(help="folder of other typefaces", metavar="DIR")] = None,
    output: Annotated[str | None, typer.Option(help="run folder [default: runs/demo, or runs/demo-converged]")] = None,
    seeds: Annotated[int, typer.Option(help="seeds of the comparison")] = 3,
    json: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="print the resolved configuration and stop")] = False,
) -> None:
    folder = output or ("runs/demo" if base == "budget" else f"runs/demo-{base}")
    config = demo_config(base, fonts, folder).with_changes({"seeds": seeds})
    if print_config:
        print(config.to_yaml())  # noqa: T201
        return
    _run_all(_open(config), json)


@_verb(
    [option.name for option in fields(RunConfig)],
    "Runs every stage that is not done yet. The stages are measure, cluster, plan, probe, fit, evaluate, compare, report.",
    "selfinformed run config.yaml --n-groups 12",
)
def run(run: Run, json: bool) -> None:
    _run_all(run, json)


@_verb(
    _INPUTS + _COUNTS,
    "Counts which labels the network mixes up on held-out data. The counts are those of eqs. 3 and 4.",
    "selfinformed measure config.yaml --top-k 100; selfinformed measure --predictions saved.npz --n-labels 17000 --output runs/saved",
)
def measure(run: Run, json: bool) -> None:
    counts = run.counts()
    pairs, unseen = counts.most_confused(20, run.labels), [run.labels.names[label] for label in counts.never_annotated]
    about = {"n_examples": counts.n_examples, "n_labels": counts.n_labels, "top_k": counts.top_k, "labels_without_examples": unseen}
    title = f"most confused pairs in {counts.n_examples:,} examples, top {counts.top_k} of {counts.n_labels:,} labels"
    _show(json, {**about, "pairs": pairs}, pairs, f"{title}; {len(unseen):,} labels have no example" if unseen else title)


@_verb(
    _INPUTS + _COUNTS + _CLUSTER + ["bootstraps", "sweep"],
    "Groups labels by which are mixed up with each other. It clusters the counts spectrally, and says how stable the groups are.",
    "selfinformed cluster config.yaml --n-groups auto --sweep 2,4,8,16,32",
)
def cluster(run: Run, json: bool) -> None:
    groups, stable = run.groups(), run.stability()
    sweep = run.sweep() if run.config.sweep else []
    title = f"{len(groups)} groups; {len(groups.ungrouped)} labels in none"
    _show(json, {**groups.to_dict(), "stability": stable, "sweep": sweep}, _group_table(run), title)
    if json:
        return
    print(harmless(stable["text"]))  # noqa: T201
    if sweep:
        rows = [
            {"groups": row["n_groups"], "gap to next": f"{row['gap']:.4f}" if row["gap"] is not None else "-", "largest": max(row["sizes"]),
             "smallest": min(row["sizes"]), "confusions within": f"{percent(row['within_share'], digits=1)}%"}
            for row in sweep
        ]  # fmt: skip
        Table.of(f"other numbers of groups; see {run.folder / 'figures' / 'sweep.png'}", rows, _WORDS).print()


@_verb(
    _INPUTS + _COUNTS + _CLUSTER + _PLAN,
    "Turns groups into heads and prints what they will cost. It does so before anything is trained.",
    "selfinformed plan config.yaml --budget 0.03 --capacity labels",
)
def plan(run: Run, json: bool) -> None:
    heads = run.plan()
    cost = run.net.cost
    rows: list[dict[str, Any]] = [
        {
            "head": "", "group": f"the network's {part}", "labels": "", "widths": "", "multiply_adds": n,
            "parameters": cost.parameters_by_part[part],
        }
        for part, n in cost.by_part.items()
    ] + heads.by_head()  # fmt: skip
    parts = {"multiply_adds_by_part": dict(cost.by_part), "parameters_by_part": dict(cost.parameters_by_part), "uncounted": list(cost.uncounted)}
    _show(json, {**heads.to_dict(), **parts, "estimate": run.estimate()}, rows, _price(run))


@_verb(
    _INPUTS + _COUNTS + _CLUSTER + _TRAINING + ["budget", "probe_width", "attach_points"],
    "Says before training what heads could gain, and where. It also says what a budget will gain, and what limits the network.",
    "selfinformed probe config.yaml --attach-points 3",
)
def probe(run: Run, json: bool) -> None:
    headroom = run.headroom()
    places = [
        {
            "reading": row["attach"], "wide head": percent(row["mean_average_precision"]), "gain": percent(row["gain"], "+"),
            "gain at the budget": percent(row["budget_gain"], "+"),
        }
        for row in headroom["attach_points"]
    ]  # fmt: skip
    rows = [
        {"group": r["group"], "labels": r["labels"], "gain": percent(r["gain"], "+"), "share": percent(r["share"], digits=0) + "%"}
        for r in headroom["groups"]
    ]
    _show(json, headroom, places, headroom["verdict"])
    if json:
        return
    forecast = headroom["forecast"]
    low, high = (percent(end, "+") for end in forecast["interval"])
    optimism = f", {percent(forecast['optimism'])} taken off for having chosen it" if forecast.get("optimism") else ""
    said = (
        f"forecast at {percent(forecast['budget'], digits=1)}% more multiply-adds: {percent(forecast['gain'], '+')} mAP ({low} to {high}), "
        f"by {'retraining the classifier' if forecast['choice'] == 'classifier' else forecast['choice']}"
        f"{optimism}; limited by: {headroom['limited_by']}"
    )
    print(harmless(said))  # noqa: T201
    if rows:
        Table.of("where the gain of the best dense head lies", rows, _WORDS).print()


@_verb(
    _INPUTS + _COUNTS + _CLUSTER + _PLAN + _FIT,
    "Trains the heads and the classifier on cached features.",
    "selfinformed fit config.yaml --epochs 4",
    trains=True,
)
def fit(run: Run, json: bool) -> None:
    from selfinformed.pipeline.artefacts import read_history

    run.augmented(replace_others=True)
    rows = read_history(run.folder / "history.jsonl")
    shown = [{**{key: row.get(key) for key in rows[0]}, "loss": f"{row['loss']:.4f}"} for row in rows if row.get("loss") is not None]
    _show(json, rows, shown, f"heads.safetensors and config.json are in {run.folder}")


@_verb(
    _INPUTS + _COUNTS + _CLUSTER + _PLAN + _FIT + ["map_k", "mapping", "top_groups"],
    "Judges base and augmented network on test data. The figures are over all labels and by group.",
    "selfinformed evaluate config.yaml --top-groups 1,2,4",
)
def evaluate(run: Run, json: bool) -> None:
    result = run.evaluation()
    rows = [{"network": name, **_figures(figures)} for name, figures in (("base", result["base"]), ("augmented", result))]
    curve = run.conditional() if run.config.top_groups else []
    _show(json, {**result, "conditional": curve}, rows, f"{result['n_examples']:,} test examples")
    if curve and not json:
        shown = [{"heads per example": row["top_groups"], **_figures({**row, "top_k": result["top_k"]})} for row in curve]
        title = f"only the heads its scores point to; multiply-adds executed on average; see {run.folder / 'figures' / 'conditional.png'}"
        Table.of(title, shown, _WORDS).print()


@_verb(
    [option.name for option in fields(RunConfig)],
    "Trains the method and every control, and compares them. Each is trained from several seeds.",
    "selfinformed compare config.yaml --seeds 5 --arms base,confusions,dense",
)
def compare(run: Run, json: bool) -> None:
    _show_comparison(run, json)


@_verb(
    _INPUTS + _COUNTS + _TRAINING + ["keep_classifier", "budget", "budget_of", "latency_batch", "candidates", "rounds", "map_k", "seed"],
    "Finds which structure helps most at a budget. Structures are judged on hold-out data; it is said, too, whether specialists were worth it.",
    "selfinformed search config.yaml --budget 0.03",
)
def search(run: Run, json: bool) -> None:
    from selfinformed.evidence.papers import trial_table

    result = run.search()
    _show(json, result, trial_table(result["trials"]), result["verdict"])


@_alone(
    "Writes report.html, figures and tables of a run. Several runs make one page that holds them side by side.",
    "selfinformed report runs/demo; selfinformed report runs/six-groups runs/twelve-groups --output groups.html",
)
def report(
    runs: Annotated[list[str], typer.Argument(metavar="CONFIG|RUN...", help="one run, or several to hold against each other", show_default=False)],
    output: Annotated[str | None, typer.Option(help="the page of several runs [default: runs.html beside the first]", metavar="FILE")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    if len(runs) == 1:
        if output is not None:
            raise SelfInformedError("report: --output names the page of several runs; a single run's report.html is written into its folder")
        run = _open(read_config(runs[0]))
        path = run.report()
        if json:
            _show(json, {"report": str(path), "tables": str(run.folder / "tables"), "line": run.comparison().line}, [])
            return
        print(f"open {path}")  # noqa: T201
        _show_comparison(run, json)
    else:
        from selfinformed.pipeline.side_by_side import side_by_side

        path = side_by_side(runs, output)
        _show(json, {"report": str(path)}, [], f"open {path}")


@_verb(["output", "opset", "device"], "Exports the augmented network as model.onnx. It is verified by onnxruntime.", "selfinformed export runs/demo")
def export(run: Run, json: bool) -> None:
    check = _exported(run)
    row = {
        "file": str(check.path), "inputs": check.n_inputs, "max difference": f"{check.max_difference:.2g}",
        "top-1 agreement": percent(check.top1_agreement), "multiply-adds": f"{check.extra_computation:.3f}x",
    }  # fmt: skip
    _show(json, {**vars(check), "path": str(check.path)}, [row], "verified by onnxruntime; it computes all heads")


@_alone(
    "Answers HTTP requests with the exported network. They are POST /predict, GET /health and GET /metrics. What is not exported yet is exported first.",
    "selfinformed serve runs/demo",
)
def serve(
    source: Annotated[str, typer.Argument(metavar="RUN", help="a run folder", show_default=False)],
    host: Annotated[str, typer.Option(help="address to listen at; any but this machine's own needs a token", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen at; 0 for any that is free")] = 8000,
    token_file: Annotated[str | None, typer.Option(help="file with the token [default: SELFINFORMED_TOKEN, if it is set]", metavar="FILE")] = None,
    top: Annotated[int, typer.Option(help="labels of an answer, best first", min=1)] = 5,
    deadline: Annotated[float, typer.Option(help="seconds from a whole request to its answer")] = 1.0,
    queue: Annotated[int, typer.Option(help="requests in work at once; those beyond are answered 503")] = 256,
    batch: Annotated[int, typer.Option(help="requests computed at once, at most")] = 4,
    megabytes: Annotated[float, typer.Option(help="largest body")] = 10.0,
    megapixels: Annotated[float, typer.Option(help="largest image")] = 25.0,
    threads: Annotated[int, typer.Option(help="threads that compute", min=1)] = 1,
) -> None:
    from selfinformed.augmented.exported import is_export_of
    from selfinformed.runtime.progress import say
    from selfinformed.serving.bodies import image_reader
    from selfinformed.serving.limits import Limits
    from selfinformed.serving.server import Address, serve

    limits, config = Limits(deadline, queue, batch, megabytes, megapixels), read_config(source)
    address = Address.claim(host, port, token_file)
    folder = Path(config.output)
    run = _open(config, checked=False)  # which would want the network: an export answers without it
    if not is_export_of(folder / "model.onnx", folder / "heads.safetensors") or not run.is_trained:
        say(f"export     {folder} has no model.onnx of its heads yet")
        _exported(run)
    image_files = config.test is not None and config.test != "glyphs" and not config.test.endswith(".npz")
    images = image_reader(config.image_size, limits.pixels, run.inputs.pixels) if image_files else None
    serve(folder, address, images, top, threads, limits, say)


@_verb(["output", "device"], "Measures base and augmented network in alternation. Batches are of 1, 8 and 32 examples.", "selfinformed bench runs/demo")
def bench(run: Run, json: bool) -> None:
    result = run.latency(again=True)
    rows = [{k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in result["rows"]]
    _show(json, result, rows, f"milliseconds; multiply-adds ratio {result['extra_computation']:.3f}")


def _exported(run: Run) -> ExportCheck:
    from selfinformed.augmented.exported import export_onnx

    _, inputs = next(run.inputs.examples("test").batches(64))
    return export_onnx(run.augmented(), run.folder / "model.onnx", inputs, heads=run.folder / "heads.safetensors", opset=run.config.opset)


def _joined(device: str) -> AbstractContextManager[None]:
    from selfinformed.training.processes import joined

    return joined(device)


def _open(config: RunConfig, checked: bool = True) -> Run:
    from selfinformed.pipeline.run import Run
    from selfinformed.runtime.progress import say

    return Run(config, say, checked)


def _run_all(run: Run, json: bool) -> None:
    import time

    start = time.perf_counter()
    stable = run.stability()
    run.say(f"           {stable['text']}")
    run.plan()
    if run.config.structure == "planned":
        run.say(f"           {_price(run)}")
    headroom = run.headroom()
    run.say(f"           {headroom['verdict']}")
    run.augmented(replace_others=True)
    run.evaluation()
    run.comparison()
    run.latency()
    path = run.report()
    if not json:
        print(f"report     {path}")  # noqa: T201
        print(f"took       {time.perf_counter() - start:.0f} s")  # noqa: T201
        _group_table(run).print()
    _show_comparison(run, json)


def _price(run: Run) -> str:
    heads, estimate = run.plan(), run.estimate()
    return (
        f"{heads.multiply_adds:,} multiply-adds, {heads.extra_computation:.3f}x; {heads.parameters - heads.base_parameters:,} more parameters; "
        f"features take {estimate['cache_bytes'] / 1e6:.0f} MB and about {estimate['cache_seconds']:.0f} s, training about {estimate['training_seconds']:.0f} s"
    )


def _show_comparison(run: Run, json: bool) -> None:
    """The table of arms, the verdict, and at the end one line for `grep`."""
    from selfinformed.evidence.papers import comparison_table

    comparison = run.comparison()
    _show(json, comparison.to_dict(), comparison_table(comparison))
    if not json:
        print(harmless("\n".join([*comparison.left_out, comparison.verdict, comparison.line])))  # noqa: T201


def _group_table(run: Run) -> Table:
    from selfinformed.evidence.papers import group_table

    return group_table(run.groups(), run.labels)


def _figures(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        f"mAP@{figures['top_k']}": percent(figures["mean_average_precision"]), "per example": percent(figures["mean_average_precision_per_example"]),
        "top-1": percent(figures["top1"]), "top-5": percent(figures["top5"]),
        "multiply-adds": f"{figures['multiply_adds']:,}", "extra": f"{figures['extra_computation']:.3f}x",
    }  # fmt: skip


def _show(as_json: bool, content: Any, shown: Table | list[dict[str, Any]], title: str = "") -> None:
    """The content as JSON, or what people are shown of it: a table, or rows of cells, under a title (default: the table's own)."""
    from selfinformed.runtime.files import plain

    if as_json:
        print(json.dumps(plain(content), ensure_ascii=str(sys.stdout.encoding).lower() != "utf-8"))  # noqa: T201
        return
    table = shown if isinstance(shown, Table) else Table.of(title, shown, _WORDS)
    replace(table, title=title or table.title).print()


_WORDS = ("group", "reading", "detected", "annotated", "network", "stage", "file")


def _fail(message: str) -> int:
    line = one_line(" ".join(message.split()))  # a name of a file may try to steer the terminal
    if len(line) > _LONGEST:  # what a file holds may be of any length; how the line begins and what to do in the end are ours
        line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
    print(f"selfinformed: {line}", file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    main()
