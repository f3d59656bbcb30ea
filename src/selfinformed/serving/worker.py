"""One thread that computes what waits, as many at once as have come."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from selfinformed.serving.limits import Limits

Answer = bytes | Exception


class Refused(Exception):
    """There is no room, or no time; `seconds` until there may be."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(slots=True)
class _Job:
    body: bytes
    until: float
    future: asyncio.Future[bytes]


class Worker:
    """Answers requests in the order in which they came, without waiting to fill a batch.

    Args:
        respond: an answer for each body, or what is to be raised for it, in the thread.
        limits: its deadline, queue and batch.
        seen: told the size of each batch, in the thread.
    """

    def __init__(self, respond: Callable[[Sequence[bytes]], Sequence[Answer]], limits: Limits, seen: Callable[[int], None] = lambda size: None) -> None:
        self._respond, self._limits, self._seen = respond, limits, seen
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self.in_work = 0  # changed in the event loop only, as all that the loop's side reads
        self._seconds_each = 0.0  # a moving average

    def start(self) -> None:
        """Begins, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after what is in work."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def admit(self) -> None:
        """Raises `Refused` where one more request would find no room, or would wait for half the deadline, going by how long requests took lately."""
        wait = self.in_work * self._seconds_each
        if self.in_work >= self._limits.queue:
            raise Refused(f"{self.in_work} requests are in work, as many as may be", wait)
        if self.in_work and wait > self._limits.deadline / 2:  # if nothing is in work, trying is the only way to learn that it has become faster
            raise Refused(f"the {self.in_work} requests in work take about {wait:.1f} s, too long for the deadline of {self._limits.deadline:g} s", wait)

    async def answer(self, body: bytes) -> bytes:
        """The answer to a body, or what `respond` gave to be raised.

        Raises:
            Refused: see `admit`.
            TimeoutError: the deadline has passed.
        """
        self.admit()
        until = self._loop.time() + self._limits.deadline
        future: asyncio.Future[bytes] = self._loop.create_future()
        self.in_work += 1
        self._jobs.put(_Job(body, until, future))
        async with asyncio.timeout_at(until):
            return await future

    def _work(self) -> None:
        ended, free = False, time.monotonic()
        while not ended:
            jobs, ended = self._next_jobs()
            alive = [job for job in jobs if job.until > time.monotonic()]  # the event loop's clock
            if alive:
                self._seen(len(alive))
                start = max(free, alive[0].until - self._limits.deadline)  # so that waiting for the processor, as others do, counts too
                try:
                    answers: Sequence[Answer] = self._respond([job.body for job in alive])
                except Exception as error:  # the thread outlives what nobody foresaw; those requests fail
                    answers = [error] * len(alive)
                free = time.monotonic()
                seconds = (free - start) / len(alive)
            else:
                answers, seconds = [], None
            self._loop.call_soon_threadsafe(self._finish, jobs, list(zip(alive, answers, strict=True)), seconds)

    def _next_jobs(self) -> tuple[list[_Job], bool]:
        """(what waits, at least one and at most a batch; whether that was all)."""
        jobs: list[_Job] = []
        try:
            while len(jobs) < self._limits.batch:
                job = self._jobs.get() if not jobs else self._jobs.get_nowait()
                if job is None:
                    return jobs, True
                jobs.append(job)
        except Empty:
            pass
        return jobs, False

    def _finish(self, jobs: list[_Job], answered: list[tuple[_Job, Answer]], seconds: float | None) -> None:
        self.in_work -= len(jobs)
        if seconds is not None:
            self._seconds_each = seconds if not self._seconds_each else 0.9 * self._seconds_each + 0.1 * seconds
        for job, answer in answered:
            if job.future.done():  # late
                continue
            if isinstance(answer, Exception):
                job.future.set_exception(answer)
            else:
                job.future.set_result(answer)
