"""`selfinformed serve` under load: the demo's network with heads (8 M multiply-adds), or with --network kanji the kanji budget base (30 M) with heads, a
server process on one core, this load generator on another.

Run by `make bench-serve`, ten minutes and a little: latency of single requests; capacity (some multiples of a batch at once, each connection
sending its next request when it has its answer); 70% of it in an open loop (requests begin when they are due, whatever became of those before, and
their latency counts from then), evenly spaced, and for a minute at random; 200% of it. A spinning loop over sockets, since asyncio's timers are a
millisecond coarse. Without --run it first trains heads, for a minute or two.
"""

from __future__ import annotations

import argparse
import io
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bases import network_of
from characters import kanji
from common import save

import selfinformed as si
from selfinformed.data.glyphs import glyph_examples
from selfinformed.network.glyphnet import GlyphNet
from selfinformed.pipeline.config import demo_config
from selfinformed.runtime.files import write_text

IDLE = 20.0  # seconds after which a connection that is not used is closed, before the server does
MOST = 380  # connections; a request that is due beyond them begins late, and its latency counts nevertheless
PATIENCE = 5.0  # seconds after which a request without an answer has failed


def make_run(folder: Path, network: str) -> torch.Tensor:
    """Test images uint8 [N, 1, 32, 32]; the folder has trained heads, their export, and a configuration, of which the server wants the folder alone."""
    if network == "kanji":
        data = kanji(1)
        train, holdout, test = (data.examples(split) for split in ("train", "holdout", "test"))
        train = train.take(range(0, len(train), 20))  # what heads have learnt takes no time
    else:
        train, holdout, test = (glyph_examples(split) for split in ("train", "holdout", "test"))
    images = test.read(range(1000))
    assert isinstance(images, torch.Tensor)
    if (folder / "model.onnx").exists():
        return images
    net = network_of("kanji", "budget", data) if network == "kanji" else si.wrap(GlyphNet.shipped(), holdout.example_inputs(), labels=holdout.labels)
    groups = si.cluster(si.measure(net, holdout), n_groups=6, labels=net.labels)
    aug = si.augment(net, si.plan(net, groups, budget=0.03))
    si.fit(aug, train, holdout=holdout, epochs=1)
    aug.save_pretrained(folder)
    write_text(folder / "config.yaml", demo_config("budget", None, str(folder)).to_yaml())
    si.export_onnx(aug, folder / "model.onnx", images[:64], heads=folder / "heads.safetensors")
    return images


def request_of(image: torch.Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, image.numpy())
    body = file.getvalue()
    return b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body


class Load:
    """Connections to the server, each with at most one request under way."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.port, self.requests, self.sent = port, requests, 0
        self.poll, self.idle = select.epoll(), deque[tuple[float, socket.socket]]()  # the longest idle first
        self.under_way: dict[int, tuple[socket.socket, float, bytearray]] = {}
        self.reset()

    def reset(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.most_connections = len(self.idle) + len(self.under_way)

    def begin(self, due: float) -> None:
        try:
            while self.idle and due - self.idle[0][0] > IDLE:
                self.idle.popleft()[1].close()
            if self.idle:
                connection = self.idle.pop()[1]
            else:
                connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setblocking(False)
                self.poll.register(connection, select.EPOLLIN)
            connection.send(self.requests[self.sent % len(self.requests)])
        except OSError as error:
            self.statuses[type(error).__name__] += 1
            return
        self.sent += 1
        self.under_way[connection.fileno()] = (connection, due, bytearray())
        self.most_connections = max(self.most_connections, len(self.idle) + len(self.under_way))

    def collect(self, wait: float = 0.0) -> int:
        """How many answers have come."""
        came = 0
        for number, _ in self.poll.poll(wait):
            if number not in self.under_way:
                raise AssertionError("the server closed a connection that was idle for a short time")
            connection, due, answer = self.under_way[number]
            try:
                part = connection.recv(65536)
            except OSError:
                part = b""
            answer += part
            head, end, body = answer.partition(b"\r\n\r\n")
            if not part or (end and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])):
                del self.under_way[number]
                status = answer[9:12].decode() if end else "closed"
                self.statuses[status] += 1
                if status == "200":
                    self.latencies.append(time.perf_counter() - due)
                if not part or b"connection: close" in head.lower():
                    connection.close()
                else:
                    self.idle.append((time.perf_counter(), connection))
                came += 1
        return came

    def give_up(self, age: float) -> None:
        now = time.perf_counter()
        for number, (connection, due, _) in list(self.under_way.items()):
            if now - due > age:
                del self.under_way[number]
                connection.close()
                self.statuses["no answer"] += 1

    def closed_loop(self, at_once: int, seconds: float) -> dict[str, Any]:
        self.reset()
        start = time.perf_counter()
        for _ in range(at_once):
            self.begin(time.perf_counter())
        while self.under_way and time.perf_counter() < start + seconds:
            for _ in range(self.collect()):
                self.begin(time.perf_counter())
        took = time.perf_counter() - start
        row = self.summary(took)
        self.drain()
        return row

    def open_loop(self, dues: Iterator[float], seconds: float) -> dict[str, Any]:
        """`dues` are seconds from the start at which requests begin."""
        self.reset()
        start, latest, worst_lateness = time.perf_counter(), next(dues), 0.0
        while latest < seconds:
            now = time.perf_counter() - start
            if now >= latest and len(self.under_way) < MOST:
                worst_lateness = max(worst_lateness, now - latest)
                self.begin(start + latest)
                latest = next(dues)
                if self.sent % 1000 == 0:
                    self.give_up(PATIENCE)
            else:
                self.collect()
        self.drain()
        return {**self.summary(seconds), "generator_late_ms": 1000 * worst_lateness}

    def drain(self) -> None:
        end = time.perf_counter() + PATIENCE
        while self.under_way and time.perf_counter() < end:
            self.collect(0.01)
        self.give_up(0)

    def summary(self, seconds: float) -> dict[str, Any]:
        ms = 1000 * np.array(self.latencies)
        latency = {f"p{q}_ms": float(np.percentile(ms, q)) for q in (50, 90, 99, 99.9)} | {"max_ms": float(ms.max())} if len(ms) else {}
        return {
            "seconds": seconds, "statuses": dict(self.statuses), "answered_per_second": len(ms) / seconds, **latency,
            "connections": self.most_connections,
        }  # fmt: skip


def arrivals(kind: str, rate: float) -> Iterator[float]:
    rng, due = np.random.default_rng(0), 0.0
    while True:
        for gap in rng.exponential(1 / rate, 1000) if kind == "poisson" else np.full(1000, 1 / rate):
            due += float(gap)
            yield due


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="at 70%% of capacity")
    parser.add_argument("--overload-minutes", type=float, default=1.0, help="at 200%%")
    parser.add_argument("--batch", type=int, default=4, help="the server's")
    parser.add_argument("--run", help="folder to make the run in and keep it, or where it was made before [default: one that goes]")
    parser.add_argument("--network", choices=("demo", "kanji"), default="demo")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.client_core})
    with tempfile.TemporaryDirectory() as temporary:
        name = given.run or temporary
        images = make_run(Path(name), given.network)
        command = ["taskset", "-c", str(given.server_core), sys.executable, "-m", "selfinformed", "serve", name, "--port", "0", "--batch", str(given.batch)]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            line = next(line for line in server.stderr if "http://" in line)
            load = Load(int(line.partition(":")[2].rpartition(":")[2].split()[0].rstrip(";")), [request_of(image) for image in images])
            row = measured(load, server.pid, given)
        finally:
            server.terminate()
            code = server.wait(60)
    of = {"demo": "GlyphNet, trained heads, 2,526 labels", "kanji": "kanji's budget base, trained heads, 2,965 labels"}
    name = "serve" + (f"-{given.network}" if given.network != "demo" else "") + (f"-batch-{given.batch}" if given.batch != 4 else "")
    save(name, {**vars(given), "network": of[given.network], **row, "exit_code": code})


def measured(load: Load, pid: int, given: argparse.Namespace) -> dict[str, Any]:
    load.closed_loop(1, 1)
    single = load.closed_loop(1, 5)
    capacity = max(load.closed_loop(at_once, 5)["answered_per_second"] for at_once in (given.batch, 2 * given.batch, 4 * given.batch))
    before = resident(pid)
    at_70 = load.open_loop(arrivals("even", 0.7 * capacity), 60 * given.minutes)
    random = load.open_loop(arrivals("poisson", 0.7 * capacity), min(60.0, 60 * given.minutes))
    between = resident(pid)
    at_200 = load.open_loop(arrivals("even", 2 * capacity), 60 * given.overload_minutes)
    after = resident(pid)
    failed = sum(n for status, n in at_70["statuses"].items() if status != "200")
    return {
        "capacity_per_second": capacity, "single": single, "at_70": at_70, "at_70_poisson": random, "at_200": at_200,
        "failed_at_70": failed, "p99_over_single_median": at_70["p99_ms"] / single["p50_ms"],
        "other_than_200_and_503_at_200": sum(n for status, n in at_200["statuses"].items() if status not in ("200", "503")),
        "resident_bytes": {"start": before, "after_70": between, "after_200": after},
    }  # fmt: skip


if __name__ == "__main__":
    main()
