"""What the server says of itself, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Measures:
    """Requests by status, their seconds, batches, what is in work, and the process's memory and CPU time.

    Args:
        in_work: asked for the number of requests in work.
    """

    def __init__(self, in_work: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter("selfinformed_requests", "Requests to /predict by status", ["status"], registry=self._registry)
        self._seconds = Histogram("selfinformed_request_seconds", "From a request's header to its answer, of those answered with 200", buckets=_SECONDS,
                                  registry=self._registry)  # fmt: skip
        self._batches = Histogram("selfinformed_batch_size", "Requests computed at once", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry)
        Gauge("selfinformed_in_work", "Requests waiting or computed now", registry=self._registry).set_function(in_work)

    def answered(self, status: int, seconds: float) -> None:
        """A request to /predict has its answer."""
        self._requests.labels(str(status)).inc()
        if status == 200:
            self._seconds.observe(seconds)

    def computed(self, size: int) -> None:
        """A batch begins."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self._registry)
