"""Serving a run folder: where, to whom, until a signal."""

from __future__ import annotations

import gc
import ipaddress
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.extras import extra
from selfinformed.runtime.reading import read_text
from selfinformed.serving.limits import Limits
from selfinformed.serving.served import ServedNetwork

TOKEN = "SELFINFORMED_TOKEN"  # noqa: S105
_LEAST_TOKEN = 16


@dataclass(frozen=True)
class Address:
    """Where to listen, and to whom to answer there. Nobody can connect before `serve`.

    Attributes:
        bound: the socket.
        host: as it was given.
        token: asked for; None where only this machine can ask.
    """

    bound: socket.socket
    host: str
    token: bytes | None

    @classmethod
    def claim(cls, host: str = "127.0.0.1", port: int = 8000, token_file: str | None = None) -> Address:
        """Makes sure of all that serving needs before anything is exported for it.

        Args:
            host: any but this machine's own needs a token.
            port: 0 for any that is free.
            token_file: holds the token; by default the environment variable SELFINFORMED_TOKEN does.

        Raises:
            SelfInformedError: a token is needed or is no good, the address cannot be had, or an extra is missing.
        """
        for package in ("starlette", "uvicorn", "httptools", "prometheus_client", "onnxruntime"):
            extra(package, "serve", "serve")
        token = _token(token_file)
        if token is None and not _is_loopback(host):
            raise SelfInformedError(
                f"serve: {host} can be reached from other machines, so a token is needed; put one into {TOKEN} or a file for --token-file "
                "(openssl rand -hex 32 makes one), or listen at 127.0.0.1"
            )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named so, asyncio sends without delay; else an answer's body waits 40 ms
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also while connections to a server before linger
        try:
            bound.bind((host, port))
        except (OSError, OverflowError, UnicodeError) as error:
            bound.close()
            raise _cannot_listen(host, port, error) from None
        return cls(bound, host, token)

    def listen(self) -> None:
        """From now on clients can connect."""
        try:
            self.bound.listen()
        except OSError as error:  # another has come first
            raise _cannot_listen(self.host, self.port, error) from None

    @property
    def port(self) -> int:
        return int(self.bound.getsockname()[1])

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names of this machine, where no other can ask."""
        return frozenset({"127.0.0.1", "localhost", "::1", self.host.lower()}) if _is_loopback(self.host) else None

    def __str__(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}{', with a token' if self.token else ''}"


def serve(
    folder: str | Path,
    address: Address,
    images: Callable[[bytes], np.ndarray] | None = None,
    top_k: int = 5,
    threads: int = 1,
    limits: Limits | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Answers requests with the exported network of a run folder until SIGTERM or SIGINT, then finishes what is in work.

    Args:
        folder: with model.onnx and config.json.
        address: where; closed in the end.
        images: reads an image, where the network takes images; see `image_reader`.
        top_k: labels of an answer.
        threads: that compute.
        limits: what a client may cost.
        say: takes the line that says where.

    Raises:
        SelfInformedError: the export is missing or damaged, or another server has taken the address meanwhile.
    """
    import uvicorn
    from PIL import Image

    from selfinformed.serving.app import application
    from selfinformed.serving.protocol import http_options

    limits = limits or Limits()
    with address.bound:
        network = ServedNetwork(folder, top_k, images, threads)
        network.warm_up(limits.batch)
        app = application(network, limits, address.token, address.hosts)
        server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=round(limits.deadline + limits.body_seconds) + 1, **http_options(limits)))
        address.listen()
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an image above the limit is refused, not remarked on
        sys.setswitchinterval(0.0005)  # under overload refusing is work without a pause, for which the computing thread would wait 5 ms twice a batch
        gc.collect()
        gc.freeze()  # what is there now stays: no collection looks through it while a request waits

        def stop(*_: object) -> None:  # before uvicorn's own handler is there, and when it raises again what stopped it
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        say(f"serving    {folder} at {address}; stop with Ctrl-C")
        server.run([address.bound])


def _token(file: str | None) -> bytes | None:
    """The token from the file, else from the environment, else None."""
    if file is not None:
        try:
            text, where = read_text(file, "token file", 4096).strip(), file
        except SelfInformedError as error:
            raise SelfInformedError(f"serve: the token file {file} cannot be read ({error})") from None
    elif TOKEN in os.environ:
        text, where = os.environ[TOKEN].strip(), TOKEN
    else:
        return None
    if len(text) < _LEAST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise SelfInformedError(
            f"serve: the token in {where} has {len(text)} characters; expected at least {_LEAST_TOKEN}, of ASCII and without spaces, as made by: "
            "openssl rand -hex 32"
        )
    return text.encode()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _cannot_listen(host: str, port: int, error: Exception) -> SelfInformedError:
    return SelfInformedError(f"serve: cannot listen at {host}, port {port} ({error}); choose another --host or --port")
