"""Serving a run folder: where, to whom, until a signal."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import os
import signal
import socket
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.runtime.extras import extra
from selfinformed.serving.limits import Limits
from selfinformed.serving.served import ServedNetwork

TOKEN = "SELFINFORMED_TOKEN"  # noqa: S105
_LEAST_TOKEN = 16


def serve(
    folder: str | Path,
    images: Callable[[bytes], np.ndarray] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: str | None = None,
    top_k: int = 5,
    threads: int = 1,
    limits: Limits | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Answers requests with the exported network of a run folder until SIGTERM or SIGINT, then finishes what is in work.

    Args:
        folder: with model.onnx and config.json.
        images: reads an image, where the network takes images; see `image_reader`.
        host: the address to listen at; any but this machine's own needs a token.
        port: 0 for any that is free.
        token_file: holds the token; by default the environment variable SELFINFORMED_TOKEN does.
        top_k: labels of an answer.
        threads: that compute.
        limits: what a client may cost.
        say: takes the line that says where.

    Raises:
        SelfInformedError: a token is needed or is no good, the address cannot be had, an extra is missing, or the export is damaged.
    """
    for package in ("starlette", "uvicorn", "httptools", "prometheus_client"):
        extra(package, "serve", "serve")
    import uvicorn
    from PIL import Image

    from selfinformed.serving.app import application
    from selfinformed.serving.protocol import http_options

    limits, token, own = limits or Limits(), _token(token_file), _is_loopback(host)
    if token is None and not own:
        raise SelfInformedError(
            f"serve: {host} can be reached from other machines, so a token is needed; put one into {TOKEN} or a file for --token-file "
            "(openssl rand -hex 32 makes one), or listen at 127.0.0.1"
        )
    network = ServedNetwork(folder, top_k, images, threads)
    with _listening(host, port) as listener:
        network.warm_up(limits.batch)
        app = application(network, limits, token, {"127.0.0.1", "localhost", "::1", host.lower()} if own else None)
        options = http_options(limits)
        server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=round(limits.deadline + limits.body_seconds) + 1, **options))
        where = f"[{host}]" if ":" in host else host
        say(f"serving    {folder} at http://{where}:{listener.getsockname()[1]}{'' if token is None else ', with a token'}; stop with Ctrl-C")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises again what stopped it
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an image above the limit is refused, not remarked on
        gc.collect()
        gc.freeze()  # what is there now stays: no collection looks through it while a request waits
        with contextlib.suppress(KeyboardInterrupt):
            server.run([listener])


def _token(file: str | None) -> bytes | None:
    """The token from the file, else from the environment, else None."""
    if file is not None:
        try:
            text, where = Path(file).read_text("utf-8").strip(), file
        except (OSError, UnicodeDecodeError) as error:
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


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError, UnicodeError) as error:
        raise SelfInformedError(f"serve: cannot listen at {host}, port {port} ({error}); choose another --host or --port") from None
