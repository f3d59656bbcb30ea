"""Inputs with their targets, read batch by batch from wherever they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from selfinformed.data.inputs import Inputs, joined, named
from selfinformed.data.labels import LabelSpace
from selfinformed.data.targets import Targets, example_numbers
from selfinformed.runtime.arguments import whole_number
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.progress import progress


@dataclass(eq=False)
class Examples:
    """N examples: inputs that are read when asked for, targets, and a name for each.

    Attributes:
        read: takes example numbers, gives their inputs, and raises `SelfInformedError` naming the one that cannot be read.
        targets: what is annotated on each.
        labels: the label set.
        names: how messages call an example; None for its number.
        skip_bad: how many unreadable examples may be set aside.
        skipped: messages of those set aside so far.
        content: gives bytes that change when the inputs do (hashes of arrays, or of a few of them; sizes and times of files).
        n_views: how many views of the same inputs follow one another.
    """

    read: Callable[[Sequence[int]], Inputs]
    targets: Targets
    labels: LabelSpace
    names: Sequence[str] | None = None
    skip_bad: int = 0
    skipped: dict[int, str] = field(default_factory=dict)
    content: Callable[[], bytes] = bytes
    n_views: int = 1

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"Examples({len(self)} examples, {len(self.labels)} labels)"

    def name(self, example: int) -> str:
        """How messages call an example."""
        return self.names[example] if self.names is not None else f"example {example}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over labels, targets, names and what `content` says of the inputs."""
        digest = hashlib.sha256(self.content())
        for array in (self.targets.offsets, self.targets.labels):
            digest.update(np.ascontiguousarray(array).data)
        for name in (*self.labels.names, "", *(self.names or ())):
            digest.update(f"{name}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def batches(self, batch_size: int = 64, what: str | None = None) -> Iterator[tuple[np.ndarray, Inputs]]:
        """Yields (example numbers int64 [b], inputs) in order; unreadable examples are set aside up to `skip_bad`."""
        batch_size = whole_number("batch_size", batch_size)
        starts: Any = range(0, len(self), batch_size)
        for start in progress(starts, len(starts), what) if what else starts:
            rows = np.arange(start, min(start + batch_size, len(self)))
            try:
                yield rows, self.read(rows.tolist())
            except SelfInformedError:
                found = {int(row): inputs for row in rows if (inputs := self._readable(int(row))) is not None}
                if found:
                    try:
                        inputs = joined(list(found.values()))
                    except (RuntimeError, KeyError):  # each can be read, and together they make no batch, which this says
                        inputs = self.read(list(found))
                    yield np.array(list(found), dtype=np.int64), inputs

    def take(self, rows: Sequence[int] | np.ndarray) -> Examples:
        """Some of the examples, by number or by a mask of all, in the order given."""
        chosen = example_numbers(rows, len(self))
        names = None if self.names is None else [self.names[i] for i in chosen]
        part = _Part(self, chosen)
        return Examples(part.read, self.targets.take(chosen), self.labels, names, self.skip_bad, content=part.content)

    def example_inputs(self) -> Inputs:
        """The inputs of the first readable example, as a batch of one."""
        for _, inputs in self.batches(1):
            return inputs
        raise SelfInformedError("data: there is no example that can be read")

    @cached_property
    def input_names(self) -> str | None:
        """What a network is called with: names, sorted, or that it is one tensor; None where no example can be read."""
        return next((named(inputs) for _, inputs in self.batches(1)), None)

    def _readable(self, row: int) -> Inputs | None:
        """The inputs of one example, as a batch; None where it is set aside."""
        if row in self.skipped:
            return None
        try:
            return self.read([row])
        except SelfInformedError as error:
            if len(self.skipped) >= self.skip_bad:
                hint = "raise skip_bad (--skip-bad N)" if self.skip_bad else "mend it, or set up to N aside with skip_bad (--skip-bad N)"
                raise SelfInformedError(f"{error}; {hint}") from None
            self.skipped[row] = str(error)
            return None


@dataclass(frozen=True)
class _Part:
    """Some of the inputs of other examples. Readers are no closures, so that examples can be pickled."""

    whole: Examples
    chosen: npt.NDArray[np.int64]

    def read(self, rows: Sequence[int]) -> Inputs:
        return self.whole.read(self.chosen[rows].tolist())

    def content(self) -> bytes:
        return self.whole.content() + self.chosen.tobytes()
