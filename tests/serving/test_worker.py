"""Requests are answered in their order, in batches of what waits, or refused."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from selfinformed.serving.limits import Limits
from selfinformed.serving.worker import Refused, Worker


def run(scenario, respond, limits, seen=lambda size: None):
    async def main():
        worker = Worker(respond, limits, seen)
        worker.start()
        try:
            return await asyncio.wait_for(scenario(worker), 10)
        finally:
            await worker.stop()
            await asyncio.sleep(0)  # what the thread left to the loop
            assert worker.in_work == 0

    with ThreadPoolExecutor(1) as thread:  # this one may hold the loop of a browser
        return thread.submit(asyncio.run, main()).result()


def test_what_waits_is_computed_together_but_nothing_waits_for_more():
    gate, sizes = threading.Event(), []

    def respond(bodies):
        gate.wait(5)
        return [b"<" + body + b">" for body in bodies]

    async def scenario(worker):
        first = asyncio.create_task(worker.answer(b"0"))
        while not sizes:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(worker.answer(b"%d" % i)) for i in range(1, 10)]
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(first, *rest)

    assert run(scenario, respond, Limits(batch=4, deadline=5), sizes.append) == [b"<%d>" % i for i in range(10)]
    assert sizes == [1, 4, 4, 1]


def test_beyond_the_queue_a_request_is_refused_and_later_admitted_again():
    gate = threading.Event()

    def respond(bodies):
        gate.wait(5)
        return list(bodies)

    async def scenario(worker):
        tasks = [asyncio.create_task(worker.answer(b"x")) for _ in range(3)]
        await asyncio.sleep(0.01)
        with pytest.raises(Refused, match="3 requests are in work, as many as may be"):
            await worker.answer(b"y")
        gate.set()
        await asyncio.gather(*tasks)
        return await worker.answer(b"z")

    assert run(scenario, respond, Limits(queue=3, deadline=5)) == b"z"


def test_a_late_request_is_not_computed():
    computed = []

    def respond(bodies):
        computed.extend(bodies)
        time.sleep(0.15)
        return list(bodies)

    async def scenario(worker):
        tasks = [asyncio.create_task(worker.answer(body)) for body in (b"a", b"b", b"c")]
        return await asyncio.gather(*tasks, return_exceptions=True)

    got = run(scenario, respond, Limits(deadline=0.1, batch=1))
    assert [type(one) for one in got] == [TimeoutError] * 3
    assert computed == [b"a"]


def test_a_request_that_would_be_late_is_refused_at_once_unless_nothing_is_in_work():
    def respond(bodies):
        time.sleep(0.2)
        return list(bodies)

    async def scenario(worker):
        for _ in range(2):  # the first shows how long they take; alone, another is tried nevertheless
            with pytest.raises(TimeoutError):
                await worker.answer(b"a")
            while worker.in_work:
                await asyncio.sleep(0.01)
        task = asyncio.create_task(worker.answer(b"b"))
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="too long for the deadline of 0.1 s"):
            worker.admit()
        with pytest.raises(TimeoutError):
            await task

    run(scenario, respond, Limits(deadline=0.1, batch=1))


def test_an_error_is_that_requests_own_and_the_thread_outlives_what_nobody_foresaw():
    def respond(bodies):
        if bodies == [b"worse"]:
            raise ZeroDivisionError
        return [ValueError("no") if body == b"bad" else body for body in bodies]

    async def scenario(worker):
        bodies = (b"good", b"bad", b"worse", b"good")
        return await asyncio.gather(*map(worker.answer, bodies), return_exceptions=True)

    good, bad, worse, again = run(scenario, respond, Limits(batch=1))
    assert (good, again) == (b"good", b"good")
    assert isinstance(bad, ValueError)
    assert isinstance(worse, ZeroDivisionError)
