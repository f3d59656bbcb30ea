"""The command line: one verb per stage, one line per error."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import selfinformed
from conftest import refused, write_config, write_images
from selfinformed import cli
from selfinformed.__main__ import main as entry
from selfinformed.pipeline.config import demo_config, read_config
from selfinformed.pipeline.run import Run
from selfinformed.runtime.remarks import Remark

VERBS = ["demo", "run", "measure", "cluster", "plan", "probe", "fit", "evaluate", "compare", "search", "report", "export", "serve", "bench"]
STAGES = [verb for verb in VERBS if verb not in ("demo", "run", "export", "serve", "bench")]


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command line in this process: its exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfinformed", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def finished(data_folder: Path, tmp_path_factory) -> Path:
    """A complete run, made by the command line in a process of its own."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "data").symlink_to(data_folder)
    done = subprocess.run([sys.executable, "-m", "selfinformed.cli", "run", write_config(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for said in ("network ", "groups of labels", "confusions minus it", "report ", "took "):
        assert said in done.stdout + done.stderr
    return folder


def test_model_options_at_the_command_line() -> None:
    assert cli._parsed("model_options", "in_chans=1, drop_rate=0.5") == {"in_chans": 1, "drop_rate": 0.5}
    assert cli._parsed("model_options", "none") is None
    for wrong in ("a=[", "x", "a=1,", "=1", ""):
        with refused("model_options: expected NAME=VALUE, several parted by commas, got"):
            cli._parsed("model_options", wrong)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(call, verb: str) -> None:
    code, out, err = call(verb, "--help")
    assert (code, err) == (0, "")
    assert f"Example: selfinformed {verb}" in " ".join(out.split())
    assert ("--json" in out) == (verb != "serve")  # which answers in JSON over HTTP
    assert ("--print-config" in out) == (verb not in ("report", "serve"))  # which have no configuration of their own


def test_without_a_verb_the_verbs_are_listed(call) -> None:
    code, out, err = call()
    assert (code, err) == (0, "")
    assert all(re.search(rf"^\W*{verb} ", out, re.M) for verb in VERBS)
    assert call("--help")[0] == 0


def test_the_list_of_verbs_is_of_whole_sentences_at_80_columns(call, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = call("--help")[1].partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == VERBS
    assert [line for line in lines if not re.fullmatch(r"  \w+ +[A-Z][^.]*(\.html[^.]*)?(\.onnx)?\.", line)] == []


def test_the_version_is_printed(call) -> None:
    assert call("--version") == (0, f"selfinformed {selfinformed.__version__}\n", "")
    assert call("--version", "demo")[1].startswith("selfinformed ")


def test_help_is_there_without_docstrings() -> None:
    code = "import sys, typer, selfinformed.cli as cli; print([c.help[:5] for c in typer.main.get_command(cli.app).commands.values()])"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True)
    assert done.stdout.count(",") == len(VERBS) - 1, done.stderr
    assert "None" not in done.stdout


def test_help_says_that_auto_is_not_all_there_is(call) -> None:
    out = call("plan", "--help")[1]
    assert "--n-groups VALUE|auto" in out
    assert "--residual VALUE|auto" in call("fit", "--help")[1]


def test_every_verb_that_runs_the_network_may_be_told_where(call) -> None:
    assert [verb for verb in VERBS if "--device VALUE" not in call(verb, "--help")[1]] == ["demo", "report", "serve"]


def test_what_is_left_out_of_a_comparison_says_why(call, finished: Path, monkeypatch) -> None:
    comparison = Run(read_config(finished / "out")).comparison()
    about = comparison.about | {"left_out": {"views": "another view of the test examples"}}
    monkeypatch.setattr(Run, "comparison", lambda self: replace(comparison, about=about))
    assert "left out: views, which needs another view of the test examples" in call("compare", finished / "out")[1]


@pytest.mark.parametrize("verb", STAGES)
def test_json_is_valid_and_alone_on_standard_output(call, finished: Path, verb: str) -> None:
    code, out, err = call(verb, finished / "out", "--json")
    assert code == 0, err
    assert len(out.splitlines()) == 1
    content = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    expected = {
        "measure": {"n_examples", "n_labels", "top_k", "pairs"}, "cluster": {"members", "names", "eigenvalues"}, "plan": {"hidden", "estimate"},
        "probe": {"verdict", "worth_it", "gain", "forecast", "limited_by", "diagnosis", "attach_points"},
        "evaluate": {"mean_average_precision", "base", "groups"}, "compare": {"rows", "summary", "verdict"},
        "search": {"trials", "plan"}, "report": {"report"},
    }  # fmt: skip
    if verb == "fit":
        assert content[0].keys() >= {"stage", "epoch", "loss"}
    else:
        assert content.keys() >= expected[verb]


@pytest.mark.parametrize("verb", [*STAGES, "run"])
def test_tables_are_for_people(call, finished: Path, verb: str) -> None:
    code, out, err = call(verb, finished / "out")
    assert code == 0, err
    assert out.strip()
    assert not out.lstrip().startswith("{")
    assert "nan" not in out.lower().split()


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in ("demo", "report", "serve")])
def test_the_printed_configuration_can_be_loaded(call, workspace: Path, verb: str) -> None:
    code, out, err = call(verb, workspace / "config.yaml", "--print-config")
    assert (code, err) == (0, "")
    (workspace / "printed.yaml").write_text(out, "utf-8")
    assert read_config(workspace / "printed.yaml") == read_config(workspace / "config.yaml")
    assert not (workspace / "out").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--host", "0.0.0.0"], "a token is needed"), (["--deadline", "0"], "deadline = 0.0: expected a number above 0"),
        (["--token-file", "nowhere"], "the token file nowhere cannot be read"), (["--port", "70000"], "choose another --host or --port"),
        (["--top", "0"], "--top"),
    ],
)  # fmt: skip
def test_serving_is_refused_before_anything_is_exported(call, workspace: Path, monkeypatch, options: list[str], part: str) -> None:
    monkeypatch.delenv("SELFINFORMED_TOKEN", raising=False)
    code, out, err = call("serve", workspace / "config.yaml", *options)
    assert (code, out) == (2, "")
    assert part in err
    assert err.count("\n") == 1
    assert not (workspace / "out").exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_what_is_served_is_exported_first_unless_it_is_of_these_heads(call, workspace: Path, monkeypatch, is_there: bool) -> None:
    asked, done = [], []
    monkeypatch.setattr("selfinformed.augmented.exported.is_export_of", lambda *paths: asked.append([path.name for path in paths]) or is_there)
    monkeypatch.setattr(cli, "_exported", lambda run: done.append("exported"))
    monkeypatch.setattr(Run, "is_trained", True)
    monkeypatch.setattr("selfinformed.serving.server.serve", lambda *_: done.append("served"))
    code, _, err = call("serve", workspace / "config.yaml", "--port", "0")
    assert (code, "has no model.onnx of its heads yet" in err) == (0, not is_there), err
    assert asked == [["model.onnx", "heads.safetensors"]]
    assert done == (["served"] if is_there else ["exported", "served"])


def test_the_demos_configuration_can_be_printed(call) -> None:
    code, out, _ = call("demo", "--base", "converged", "--print-config", "--seeds", 2)
    content = yaml.safe_load(out)
    assert code == 0
    assert (content["model"], content["train"], content["output"], content["seeds"]) == ("demo:converged", "glyphs", "runs/demo-converged", 2)


def test_the_demo_runs_every_stage_of_its_configuration(call, monkeypatch, tmp_path) -> None:
    run = []
    monkeypatch.setattr(cli, "_run_all", lambda *given: run.append(given))
    assert call("demo", "--output", tmp_path, "--json")[0] == 0
    [(made, json)] = run
    assert (made.config, json) == (demo_config("budget", None, str(tmp_path)), True)


def test_the_probe_shows_attach_points_forecast_and_limit(call, finished: Path) -> None:
    _, out, _ = call("probe", finished / "out")
    saved = json.loads((finished / "out" / "probe.json").read_text())
    assert saved["verdict"] in out
    assert "the input of 'classifier'" in out
    assert f"limited by: {saved['limited_by']}" in out
    assert f"forecast at 50.0% more multiply-adds: {100 * saved['forecast']['gain']:+.2f} mAP (" in out
    assert "where the gain of the best dense head lies" in out


def test_options_change_the_configuration(call, workspace: Path) -> None:
    options = ["--n-groups", "auto", "--hidden", "8,4", "--arms", "base, dense", "--top-k", "none", "--keep-classifier", "false", "--budget", "0.1"]
    _, out, _ = call("run", workspace / "config.yaml", "--print-config", *options)
    content = yaml.safe_load(out)
    assert content["n_groups"] == "auto"
    assert content["hidden"] == [8, 4]
    assert content["arms"] == ["base", "dense"]
    assert content["top_k"] is None
    assert content["keep_classifier"] is False
    assert content["budget"] == 0.1


def nan_inputs(workspace: Path) -> dict[str, str]:
    with np.load(workspace / "data" / "holdout.npz") as data:
        inputs, targets = data["inputs"].copy(), data["targets"]
    inputs[17] = np.nan
    np.savez(workspace / "nan.npz", inputs=inputs, targets=targets)
    return {"holdout": str(workspace / "nan.npz")}


def targets_out_of_range(workspace: Path) -> dict[str, str]:
    with np.load(workspace / "data" / "holdout.npz") as data:
        inputs, targets = data["inputs"], data["targets"].copy()
    targets[23] = 99
    np.savez(workspace / "range.npz", inputs=inputs, targets=targets)
    return {"holdout": str(workspace / "range.npz")}


def eleven_names(workspace: Path) -> dict[str, str]:
    (workspace / "eleven.txt").write_text("\n".join(map(str, range(11))))
    return {"labels": str(workspace / "eleven.txt")}


def model(name: str):
    return lambda workspace: {"model": f"{(workspace / 'data').resolve() / 'model.py'}:{name}"}


def test_operators_that_are_not_counted_are_named_once(workspace: Path) -> None:
    text = (workspace / "data" / "model.py").read_text("utf-8")
    (workspace / "fourier.py").write_text(text.replace("self.trunk(x)", "self.trunk(torch.fft.fft(x).real)"), "utf-8")
    config = write_config(workspace, model=f"{workspace / 'fourier.py'}:make")
    done = subprocess.run([sys.executable, "-m", "selfinformed", "plan", config], capture_output=True, text=True)  # pytest would keep the warning
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("aten._fft_r2c") == 1
    assert "\nselfinformed: not counted in the network's multiply-adds: aten._fft_r2c" in f"\n{done.stderr}"


def test_more_groups_than_confused_labels_are_as_many_as_there_can_be(call, workspace: Path) -> None:
    with pytest.warns(Remark, match=r"^n_groups: 70 asked for, 11 made from confusions: only 11 of 12 labels are confused with another$"):
        code, out, _ = call("cluster", workspace / "config.yaml", "--n-groups", 70, "--json")
    assert code == 0
    assert len(json.loads(out)["members"]) == 11


BAD = {
    "unknown option": (lambda _: {"n_group": 3}, ["unknown option 'n_group'", "did you mean 'n_groups'?"]),
    "value of the wrong type": (lambda _: {"epochs": "many"}, ["epochs = 'many'", "integer"]),
    "value out of range": (lambda _: {"seeds": 0}, ["seeds = 0", "at least 1"]),
    "no model": (lambda _: {"model": ""}, ["names no model"]),
    "no hold-out data": (lambda _: {"holdout": ""}, ["holdout: the configuration names no holdout examples"]),
    "data that does not exist": (lambda _: {"holdout": "nowhere"}, ["nowhere does not exist"]),
    "label names for another network": (eleven_names, ["label", "11", "12"]),
    "label out of range": (targets_out_of_range, ["example 23 has label 99", "0 to 11"]),
    "scores that are NaN for an example": (nan_inputs, ["example 17 has the score nan"]),
    "model that always returns NaN": (model("nan"), ["logits on the example inputs are NaN or infinite"]),
    "no module": (model("nothing"), ["returned int; expected a torch.nn.Module"]),
    "no such function": (model("absent"), ["absent", "cannot be opened"]),
    "no classifier": (model("softmax"), ["classifier: none found", "softmax"]),
    "top_k above the labels": (lambda _: {"top_k": 13}, ["top_k: expected a whole number from 1 to 12", "got 13"]),
    "no groups": (lambda _: {"n_groups": 0}, ["n_groups = 0: expected at least 1"]),
    "budget too small": (lambda _: {"budget": 1e-9}, ["budget", "raise the budget"]),
    "unreadable image": (lambda folder: write_images(folder, bad="class 3/2.png"), ["class 3/2.png cannot be read", "--skip-bad"]),
    "arm that does not exist": (lambda _: {"arms": ["mean"]}, ["expected some of base", "'mean'"]),
    "mapping of an unknown label": (lambda folder: {"mapping": str(folder / "absent.csv")}, ["mapping", "absent.csv does not exist"]),
}


def assert_one_line(code: int, err: str, said: list[str]) -> None:
    *before, last = err.splitlines()
    assert code == 2
    assert last.startswith("selfinformed: ")
    assert "Traceback" not in err
    assert not any(line.startswith("selfinformed: ") for line in before)
    assert all(words in last for words in said), last


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(call, workspace: Path, name: str) -> None:
    changes, said = BAD[name]
    code, out, err = call("run", write_config(workspace, **changes(workspace)))
    assert_one_line(code, err, said)
    assert out == ""


def test_bad_command_lines_are_one_line_too(call, workspace: Path) -> None:
    config = workspace / "config.yaml"
    assert_one_line(*call("run", workspace / "absent.yaml")[::2], ["absent.yaml does not exist"])
    assert_one_line(*call("run")[::2], ["run: name a config.yaml or a run folder"])
    assert_one_line(*call("plan", "--model", "absent.py:make", "--output", workspace / "alone")[::2], ["the file absent.py does not exist"])
    assert_one_line(*call("measure", config, "--n-grops", 3)[::2], ["--n-grops"])
    assert_one_line(*call("run", config, "--epochs", "x")[::2], ["epochs"])
    assert_one_line(*call("measur", config)[::2], ["measur"])
    assert_one_line(*call("report", workspace / "data")[::2], ["no run folder"])
    (workspace / "broken.yaml").write_text("a: [1,\n b: }")
    assert_one_line(*call("run", workspace / "broken.yaml")[::2], ["cannot be read as YAML"])
    assert_one_line(*call("run", config, "--output", config / "below")[::2], ["cannot be written"])


def test_an_error_about_something_endless_is_cut_in_its_middle(call) -> None:
    code, _, err = call("measure", "x" * 5_000 + ".yaml")
    assert code == 2
    assert len(err) < 1_600
    assert err.startswith("selfinformed: ")
    assert " … " in err


def test_an_unreadable_image_can_be_set_aside(call, workspace: Path) -> None:
    config = write_config(workspace, **write_images(workspace, bad="class 3/2.png"))
    code, out, err = call("run", config, "--skip-bad", 1)
    assert code == 0, err
    assert out
    for split in ("train", "holdout", "test"):
        assert "class 3/2.png" in (workspace / "out" / f"skipped-{split}.json").read_text("utf-8")


@pytest.mark.parametrize("name", ["counts.safetensors", "plan.json", "comparison.json", "evaluation.json"])
def test_a_half_written_run_folder_is_one_line(call, finished: Path, workspace: Path, name: str) -> None:
    shutil.copytree(finished / "out", workspace / "out")
    path = workspace / "out" / name
    path.write_bytes(path.read_bytes()[:100])
    code, _, err = call("report", workspace / "out")
    assert_one_line(code, err, [name, "delete it"])
    path.unlink()
    assert call("report", workspace / "out")[0] == 0


def test_artefacts_without_a_configuration_are_one_line(call, finished: Path, workspace: Path) -> None:
    shutil.copytree(finished / "out", workspace / "out")
    (workspace / "out" / "config.yaml").unlink()
    assert_one_line(*call("run", workspace / "config.yaml")[::2], ["no config.yaml"])
    assert_one_line(*call("report", workspace / "out")[::2], ["no run folder"])


def test_another_configuration_in_a_run_folder_is_one_line(call, finished: Path) -> None:
    assert_one_line(*call("cluster", finished / "out", "--n-groups", 2)[::2], ["another n_groups"])


def test_a_label_never_held_out_is_reported_in_no_group(call, finished: Path) -> None:
    _, out, _ = call("cluster", finished / "out", "--json")
    assert 11 not in [label for group in json.loads(out)["members"] for label in group]
    _, out, _ = call("cluster", finished / "out")
    assert "1 labels in none" in out


def test_stopping_says_how_to_go_on(call, workspace: Path, monkeypatch) -> None:
    def stop(self, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "augmented", stop)
    code, _, err = call("fit", workspace / "config.yaml", "--epochs", 1)
    assert code == 130
    assert f"Resume with: selfinformed fit {workspace / 'config.yaml'} --epochs 1" in err
    assert "Traceback" not in err


def test_stopping_while_the_command_line_is_imported_is_one_line(monkeypatch, capsys) -> None:
    class Stops:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "selfinformed.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "selfinformed.cli")
    monkeypatch.setattr(sys, "meta_path", [Stops(), *sys.meta_path])
    with pytest.raises(SystemExit, match="^130$"):
        entry()
    assert capsys.readouterr().err == "\nstopped; nothing had begun\n"


def test_an_unforeseen_error_is_not_hidden(monkeypatch, capsys, workspace: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["selfinformed", "measure", str(workspace / "config.yaml")])
    monkeypatch.setattr(Run, "counts", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        cli.main()
    sys.excepthook(raised.type, raised.value, raised.tb)
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last):\n")  # without local variables, of which one may be a token
    assert told.endswith("\nZeroDivisionError: division by zero\n")


def test_the_installed_command_fails_in_one_line(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-m", "selfinformed.cli", "run", "absent.yaml"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "selfinformed: absent.yaml does not exist; expected a config.yaml or a run folder\n"


def test_bench_measures_and_writes(call, finished: Path, monkeypatch) -> None:
    from selfinformed.evidence import latency

    whole = latency.latency
    monkeypatch.setattr(latency, "latency", lambda aug, examples: whole(aug, examples, (1,), 3))
    code, out, _ = call("bench", finished / "out", "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["batch_size"] == 1
    assert (finished / "out" / "latency.json").exists()


def test_help_derives_from_the_options(call) -> None:
    _, out, _ = call("compare", "--help")
    assert "--seeds" in out
    assert "[default: 3]" in out
    assert "whitened|standardised|raw" in out


def test_json_is_read_back_whatever_the_encoding_of_standard_output(monkeypatch):
    for encoding in ("utf-8", "cp1252", "cp932"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
        monkeypatch.setattr(sys, "stdout", stream)
        cli._show(True, {"name": "été 漢 \N{GRINNING FACE}"}, [])
        stream.flush()
        assert json.loads(stream.buffer.getvalue().decode("utf-8")) == {"name": "été 漢 \N{GRINNING FACE}"}
