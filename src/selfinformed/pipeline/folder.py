"""What is in a run folder, with which options it was made, and who works on it."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from selfinformed.data.images import stamp
from selfinformed.data.tar_shards import TarShards
from selfinformed.network.wrap import WrappedClassifier
from selfinformed.pipeline.artefacts import read_artefact
from selfinformed.pipeline.config import MAKES_AGAIN, RunConfig, read_config
from selfinformed.runtime.device import rank
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.files import digest_of, plain, read_json, read_object, write_json, write_text
from selfinformed.runtime.locks import FolderLock
from selfinformed.training.structures import Structure

T = TypeVar("T")
Say = Callable[[str], None]

ARTEFACTS = frozenset(
    {
        "detections", "counts.safetensors", "codetections.safetensors", "groups.json", "stability.json", "sweep.json",
        "plan.json", "features", "probe.json", "heads.safetensors",
        "evaluation.json", "conditional.json", "comparison.json", "comparison.jsonl", "search.json", "search.jsonl",
    }
)  # fmt: skip
_FOLDERS = ("detections", "features", "figures", "tables", "log")
_NETWORK = "selfinformed.network/1"
_OF_HEADS = ("evaluation.json", "conditional.json", "latency.json")
_SHARED = ("measure",)  # stages that any number of processes do together; features are shared too


class RunFolder:
    """The artefacts of a run: each is made once, by one process, and again when options that only it depends on have changed.

    Args:
        config: the configuration; its `output` is the folder. It is kept as config.yaml.
        say: takes a line about each stage.

    Raises:
        SelfInformedError: the folder cannot be written, or holds artefacts of another configuration.
    """

    def __init__(self, config: RunConfig, say: Say) -> None:
        self.config, self.say = config, say
        self.path = Path(config.output)
        _check_own(self.path)
        self._done: dict[str, Any] = {}
        self._seconds = 0.0
        self._lock = FolderLock(self.path, _FOLDERS)
        self._outdated: set[str] = set()  # artefacts of which config.yaml says that they were made with other options
        self._again: set[str] = set()  # artefacts to be made again in any case
        path = self.path / "config.yaml"
        self._network: dict[str, Any] = {}
        self._given: dict[str, dict[str, Any]] = {}
        begun = self._is_begun()
        if begun and path.exists():
            before = read_config(path)
            self._check_config(before)
            self._outdated = set(before.made_again(config))
            if before.skip_bad != config.skip_bad:
                write_text(path, replace(before, skip_bad=config.skip_bad).to_yaml())
        elif begun:
            raise SelfInformedError(f"{self.path} holds artefacts but no config.yaml, so what made them is unknown; choose another --output")
        else:
            write_text(path, config.to_yaml())
        self._check_given()

    def _check_config(self, before: RunConfig | None = None) -> None:
        """Stops where the folder's config.yaml is another, which a process that began it at the same time may have written."""
        before = before or read_config(self.path / "config.yaml")
        if differences := before.differences(self.config):
            raise SelfInformedError(f"{self.path} holds a run with another {', '.join(differences)}; choose another --output, or delete the folder")

    def belongs_to(self, net: WrappedClassifier) -> None:
        """Checks that the run is of this network, which network.json says as soon as anything was made.

        Raises:
            SelfInformedError: the run is of a network with other weights.
        """
        before = self._network_before()
        self._network = {"fingerprint": net.fingerprint, "checkpoint": _stamp(self.config.checkpoint), "data": before.get("data", self._data())}
        if before.get("fingerprint", net.fingerprint) != net.fingerprint:
            raise SelfInformedError(
                f"{self.path} holds a run of {self.config.model} with other weights than it has now; choose another --output, or delete the folder"
            )
        self.keep_network()

    def keep_network(self, data_too: bool = False) -> None:
        """Writes network.json, once there is what was made with the network; `data_too` where files of data that were written since are as good."""
        if data_too:
            self._network["data"] = self._data()
        content = {"format": _NETWORK, **self._network, "given": self._given}
        if (self._network or self._given) and rank() == 0 and self._is_begun() and os.access(self.path, os.W_OK):
            before = self._network_before()
            if any(before.get(key) != value for key, value in content.items()):
                write_json(self.path / "network.json", before | content)

    def changed(self) -> list[str]:
        """What may be another than when a stage last opened the network: `network` (its file was written since, or a function makes it, which may read what
        it likes), and `train`, `holdout` or `test` (their files were)."""
        before, c = self._network_before(), self.config
        if not before:
            return []
        known = before.get("data")
        known = known if isinstance(known, dict) else {}
        found = ["network"] if (".py:" in (c.model or "") if c.checkpoint is None else _stamp(c.checkpoint) not in (None, before.get("checkpoint"))) else []
        return found + [split for split, stamp in self._data().items() if split in known and stamp not in (None, known[split])]

    def _data(self) -> dict[str, list[int] | None]:
        c = self.config
        return {split: _stamp(path) for split, path in (("train", c.train), ("holdout", c.holdout), ("test", c.test), ("second_view", c.second_view))}

    def _check_given(self) -> None:
        """Stops where a file that is read as it is holds something else than when the run was made of it."""
        before = self._network_before().get("given")
        before = before if isinstance(before, dict) else {}
        for name in ("predictions", "labels", "teacher_checkpoint"):
            path = getattr(self.config, name)
            if (stamp := _stamp(path)) is None or not Path(path).is_file():
                continue
            was = found if isinstance(found := before.get(name), dict) else {}
            as_it_was = [was.get("path"), was.get("stamp")] == [path, stamp]
            self._given[name] = {"path": path, "stamp": stamp, "digest": was.get("digest") if as_it_was else digest_of(path)}
            if was.get("path") == path and was.get("digest") != self._given[name]["digest"]:
                raise SelfInformedError(
                    f"{self.path} holds what was made when {path} ({name}) had another content than it has now; choose another --output, or delete the folder"
                )

    def _network_before(self) -> dict[str, Any]:
        """What network.json says; where it is missing, the fingerprint that an artefact names."""
        if not self._is_begun():
            return {}
        path = self.path / "network.json"
        if path.exists():
            found = read_object(path, "network")
            if found.get("format") != _NETWORK or not isinstance(found.get("fingerprint", None if "given" not in found else ""), str):
                raise SelfInformedError(f"{path}: expected {_NETWORK} with the fingerprint of a network; delete it")
            return found
        others = [(self.path / "config.json", "base_fingerprint")]
        others += [(self.path / name / "manifest.json", "model") for name in ("detections", "features/holdout", "features/train", "features/test")]
        named = next((read_object(path, "manifest").get(key) for path, key in others if path.exists()), None)
        return {"fingerprint": named} if isinstance(named, str) else {}

    def _is_begun(self) -> bool:
        return self.path.is_dir() and any(p.name in ARTEFACTS for p in self.path.iterdir())

    def held(self, work: str) -> AbstractContextManager[None]:
        """The right to change what is here, for this process alone."""
        return self._lock.held(work)

    def stage(
        self, stage: str, name: str, read: Callable[[Path], T], make: Callable[[], T], save: Callable[[T, Path], None], also: str = ""
    ) -> T:
        """What `name` (and the file `also` beside it) holds: read where it is there, else made, and saved by the first process; once per run."""
        if name not in self._done and not self._read_there(stage, name, read, also):
            with self.held(stage) if rank() == 0 and stage not in _SHARED else nullcontext():
                if not self._read_there(stage, name, read, also):  # another process may have made it meanwhile
                    self._check_config()
                    start, before = time.perf_counter(), self._seconds
                    self._seconds = 0.0  # of the stages that this one waits for
                    try:
                        made = make()
                    finally:
                        seconds = time.perf_counter() - start
                        own, self._seconds = seconds - self._seconds, before + seconds
                    if rank() == 0:
                        save(made, self.path / name)
                        self._keep_options(name)
                        self.keep_network()
                    self._done[name] = made
                    self.say(f"{stage:<10} {name} in {own:.1f} s")
        result: T = self._done[name]
        return result

    def json_stage(self, stage: str, name: str, make: Callable[[], T], read: Callable[[Path], T] = read_artefact) -> T:
        """A stage whose artefact `write` writes."""
        return self.stage(stage, name, read, make, lambda made, path: self.write(name, made))

    def write(self, name: str, content: Any) -> None:
        """Writes an object, rows, or what gives an object by `to_dict`, as JSON with its format and the options that only it was made with."""
        content = {"rows": content} if isinstance(content, list) else content if isinstance(content, dict) else content.to_dict()
        made_with = self.made_with(name)
        write_json(self.path / name, {"format": f"selfinformed.{Path(name).stem}/1", **content, **({"made_with": made_with} if made_with else {})})

    def there(self, name: str) -> Any:
        """A JSON artefact if it is there, whatever it was made with, else None."""
        path = self.path / name
        return read_artefact(path) if path.exists() else None

    def current(self, name: str) -> Any:
        """A JSON artefact if it is there and was made with the options of this run, else None."""
        return self.there(name) if (self.path / name).exists() and self.is_current(name) else None

    def is_current(self, name: str) -> bool:
        """Whether an artefact that is there was made with the options of this run; it says so itself, or, of an older version, config.yaml does. What
        an older version had no option for it did as the option's default says."""
        wanted = self.made_with(name)
        if name in self._again or not wanted:
            return name not in self._again
        content = read_json(self.path / name, Path(name).stem)
        made_with = content.get("made_with") if isinstance(content, dict) else None
        if made_with is None:
            return name not in self._outdated
        before = {option: value if option in ("heads", "mapped") else getattr(RunConfig, option, None) for option, value in wanted.items()}
        return isinstance(made_with, dict) and all((plain(before) | made_with)[option] == value for option, value in plain(wanted).items())

    def make_again(self, name: str) -> None:
        """The artefact stays until what takes its place is whole."""
        self._again.add(name)
        self._done.pop(name, None)

    def _read_there(self, stage: str, name: str, read: Callable[[Path], Any], also: str) -> bool:
        path = self.path / name
        if not path.exists() or not (self.path / also).exists() or not self.is_current(name):
            return False
        self._done[name] = read(path)
        self.say(f"{stage:<10} {name} is there already")
        return True

    def made_with(self, name: str) -> dict[str, Any]:
        """The options that only this artefact, and what is made from it, is made with; of a searched network also which one, of what is said of heads
        the digest of their file, and of a mapping that of its own."""
        options = {option: getattr(self.config, option) for option, artefacts in MAKES_AGAIN.items() if name in artefacts}
        if options.get("structure") == "searched" and (self.path / "search.json").exists():
            options["found"] = self._found()
        if name in _OF_HEADS and (heads := self.path / "heads.safetensors").exists():
            options["heads"] = _digest(heads, heads.stat().st_mtime_ns)
        if "mapping" in options and options["mapping"] and (mapping := Path(options["mapping"])).is_file():
            options["mapped"] = digest_of(mapping)
        return options

    def _found(self) -> str | None:
        """What tells the structure that search.json has from others; None where there is none that is current."""
        found = self.current("search.json")
        return None if found is None else Structure.from_dict(found["best"], str(self.path / "search.json")).digest()

    def _keep_options(self, name: str) -> None:
        """Writes into config.yaml those options that an artefact, just made, was made with."""
        path, made_with = self.path / "config.yaml", {k: v for k, v in self.made_with(name).items() if k in MAKES_AGAIN}
        before = read_config(path)
        if any(getattr(before, option) != value for option, value in made_with.items()):
            write_text(path, replace(before, **made_with).to_yaml())
        self._outdated.discard(name)
        self._again.discard(name)


def _stamp(source: str | None) -> list[Any] | None:
    """What tells a file that was written anew: its bytes and time; of numbered shards those of each, of a folder its time and those of its
    subfolders, which change as files come and go. None where there is none."""
    try:
        if not source:
            return None
        shards = TarShards.named(Path(source))
        if shards is not None and shards != [Path(source)]:
            return [len(shards), hashlib.sha256(stamp(shards)).hexdigest()]
        found = Path(source).stat()
        if Path(source).is_dir():
            with os.scandir(source) as inside:
                times = sorted((folder.name, folder.stat().st_mtime_ns) for folder in inside if folder.is_dir())
            return [len(times), hashlib.sha256(f"{found.st_mtime_ns} {times}".encode()).hexdigest()]
    except (OSError, ValueError, SelfInformedError):
        return None
    return [found.st_size, found.st_mtime_ns]


@functools.lru_cache(maxsize=8)
def _digest(path: Path, _: int) -> str:
    return digest_of(path)


def _check_own(folder: Path) -> None:
    """Stops where one of the folders that a run writes into is a link that leads out of the run."""
    for name in _FOLDERS:
        for parent, inner, _ in [("", [str(folder / name)], []), *os.walk(folder / name)]:
            for path in (Path(parent, part) for part in inner):
                if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                    raise SelfInformedError(f"{path} is a link that leads out of the run folder; put the folder itself there, or link the whole run folder")
