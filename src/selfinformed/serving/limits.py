"""What a client may cost."""

from __future__ import annotations

from dataclasses import dataclass, fields

from selfinformed.runtime.errors import SelfInformedError


@dataclass(frozen=True)
class Limits:
    """What a client may cost; beyond it a request is refused, whatever it is.

    Attributes:
        deadline: seconds from a whole request to its answer.
        queue: requests in work at once, waiting or computed.
        batch: requests computed at once.
        megabytes: of a request's body.
        megapixels: of an image, as its header states them and as it is resized.
        head_seconds: from a request's first byte to the end of its header, and for a connection to send that byte.
        body_seconds: for a request's body.
        connections: open at once; as many again are told to come back later.
    """

    deadline: float = 1.0
    queue: int = 256
    batch: int = 4
    megabytes: float = 10.0
    megapixels: float = 25.0
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    connections: int = 400

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise SelfInformedError(f"serve: {field.name} = {value}: expected a number above 0")

    @property
    def body_bytes(self) -> int:
        return int(self.megabytes * 1e6)

    @property
    def buffered_bytes(self) -> int:
        """Of all bodies at once: some of the largest, so that many clients together cannot fill the memory."""
        return 16 * self.body_bytes

    @property
    def pixels(self) -> int:
        return int(self.megapixels * 1e6)
