"""An exported network that answers: bodies in, JSON out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.extras import extra
from selfinformed.runtime.files import read_object
from selfinformed.runtime.reading import shown
from selfinformed.serving.bodies import Arrays, Expected, body_reader
from selfinformed.serving.worker import Answer

_TYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "uint8": "uint8", "int8": "int8", "uint16": "uint16", "int16": "int16",
    "uint32": "uint32", "int32": "int32", "uint64": "uint64", "int64": "int64", "bool": "bool",
}  # fmt: skip


class ServedNetwork:
    """The network of a run folder, as `model.onnx` and `config.json` hold it.

    Args:
        folder: a run folder with an export.
        top_k: labels of an answer, best first; ties go to the lower label.
        images: reads an image, where the network takes images.
        threads: of onnxruntime.

    Raises:
        SelfInformedError: the files are missing or damaged, or the `onnx` extra is not installed.
    """

    def __init__(self, folder: str | Path, top_k: int = 5, images: Callable[[bytes], np.ndarray] | None = None, threads: int = 1) -> None:
        path = Path(folder) / "model.onnx"
        heads = read_object(Path(folder) / "config.json", "serve")
        self._session = _open_session(path, threads)
        given = self._session.get_inputs()
        self.expected = {one.name: _expected(one, path) for one in given}
        self._read = body_reader(self.expected, images)
        n_labels = self._session.get_outputs()[0].shape[1]
        try:
            if heads["output"] not in (None, "softmax", "logistic"):
                raise ValueError(f"output {shown(heads['output'])}")
            self._logistic = heads["output"] == "logistic"
            self.labels = _labels(heads["labels"], heads["plan"]["groups"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SelfInformedError(f"{Path(folder) / 'config.json'}: not a valid heads config ({error!r})") from None
        if len(self.labels) != n_labels:
            raise SelfInformedError(f"{path} has {n_labels} outputs, config.json names {len(self.labels)} labels; delete model.onnx to have it made again")
        self.top_k = min(top_k, n_labels)

    def __call__(self, bodies: Sequence[bytes]) -> list[Answer]:
        """For each body the answer as JSON, or what is wrong with it."""
        answers: list[Answer] = []
        examples: list[tuple[int, Arrays]] = []
        for place, body in enumerate(bodies):
            try:
                examples.append((place, self._read(body)))
                answers.append(b"")
            except SelfInformedError as error:
                answers.append(error)
            except Exception as error:  # whatever a body brings about is its sender's alone
                answers.append(SelfInformedError(f"body: it cannot be read ({type(error).__name__})"))
        for place, answer in zip([place for place, _ in examples], self._answers([arrays for _, arrays in examples]), strict=True):
            answers[place] = answer
        return answers

    def warm_up(self, batch: int) -> None:
        """Runs once alone and once in the largest batch, so that memory is there before the first request."""
        example = {name: np.zeros(what.shape, what.dtype) for name, what in self.expected.items()}
        for size in (1, batch):
            self._answers([example] * size)

    def _answers(self, examples: list[Arrays]) -> list[Answer]:
        if not examples:
            return []
        try:
            logits = self._session.run(["logits"], {name: np.stack([arrays[name] for arrays in examples]) for name in self.expected})[0]
        except Exception as error:  # what the runtime makes of a value that the network cannot take, such as a token it has no row for
            if len(examples) > 1:
                return [self._answers([example])[0] for example in examples]  # so that it spoils no other's answer
            return [SelfInformedError(f"body: the network cannot take these values ({' '.join(str(error).split())[:200]})")]
        return [self._answer(row) for row in logits]

    def _answer(self, logits: np.ndarray) -> Answer:
        logits = logits.astype(np.float64)
        if not np.isfinite(logits).all():
            return SelfInformedError("body: the network's scores for it are not finite; send values as it was trained on")
        if self._logistic:
            normaliser = None
        else:
            highest = logits.max()
            normaliser = highest + np.log(np.exp(logits - highest).sum())
        least = np.partition(logits, len(logits) - self.top_k)[len(logits) - self.top_k]
        candidates = np.flatnonzero(logits >= least)  # more than K where there are ties
        best = candidates[np.argsort(-logits[candidates], kind="stable")][: self.top_k]
        scores = logits[best]
        shares = 1 / (1 + np.exp(-np.clip(scores, -700, 700))) if normaliser is None else np.exp(scores - normaliser)
        rows = [
            {**self.labels[label], "score": round(score, 6), "probability": round(share, 6)}
            for label, score, share in zip(best.tolist(), scores.tolist(), shares.tolist(), strict=True)
        ]
        return json.dumps({"labels": rows}, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _labels(names: list[str], groups: dict[str, Any]) -> list[dict[str, Any]]:
    """What an answer says of each label, from `config.json`."""
    if not all(isinstance(name, str) for name in (*names, *groups["names"])):
        raise ValueError("expected names as text")
    if not all(type(label) is int and 0 <= label < len(names) for members in groups["members"] for label in members):
        raise ValueError("expected members of groups among the labels")
    labels: list[dict[str, Any]] = [{"label": name, "index": i, "groups": []} for i, name in enumerate(names)]
    for group, members in zip(groups["names"], groups["members"], strict=True):
        for label in members:
            labels[label]["groups"].append(group)
    return labels


def _open_session(path: Path, threads: int) -> Any:
    runtime = extra("onnxruntime", "serve", "serve")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what a request causes is answered, not logged
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are the server's too
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has a class of its own for each reason
        reason = "it does not exist" if not path.is_file() else " ".join(str(error).split())[:200]
        raise SelfInformedError(f"serve: {path} cannot be opened ({reason}); make it with: selfinformed export {path.parent}") from None


def _expected(given: Any, path: Path) -> Expected:
    kind = given.type.removeprefix("tensor(").removesuffix(")")
    if kind not in _TYPES or not all(isinstance(size, int) for size in given.shape[1:]):
        raise SelfInformedError(f"serve: {path} takes {given.name} as {given.type} {given.shape}; expected numbers, and no dimension open but the batch")
    return Expected(np.dtype(_TYPES[kind]), tuple(given.shape[1:]))
