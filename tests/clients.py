"""A server in a thread, and clients over real sockets that say what no library would."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def running(network: Any, limits: Any = None, **options: Any) -> Iterator[int]:
    """The port of a server that answers with `network`; ends when its requests have."""
    import uvicorn

    from selfinformed.serving.app import application
    from selfinformed.serving.limits import Limits
    from selfinformed.serving.protocol import http_options
    from selfinformed.serving.server import Address

    limits = limits or Limits()
    listener = Address.claim(port=0).bound
    server = uvicorn.Server(uvicorn.Config(application(network, limits, **options), timeout_graceful_shutdown=5, **http_options(limits)))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def request(body: bytes = b"", path: str = "/predict", method: str = "POST", **headers: str) -> bytes:
    """A request that asks for the connection to be closed after it; header names have underscores for dashes."""
    lines = {"host": "localhost", "connection": "close", "content_length": str(len(body))} | headers
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def say(port: int, *parts: bytes, pause: float = 0.0, wait: float = 5.0) -> bytes:
    """Sends the parts with pauses between them, and gives all that comes back until the server closes or nothing has come for a while."""
    came = b""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except OSError:
            pass  # closed on us
        try:
            while part := connection.recv(65536):
                came += part
        except OSError:
            pass
    return came


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def content(answer: bytes) -> str:
    return answer.partition(b"\r\n\r\n")[2].decode()
