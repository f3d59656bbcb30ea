"""HTTP connections that a slow or endless client cannot keep: what uvicorn leaves open."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, cast

from starlette.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from selfinformed.serving.limits import Limits

_HEAD_BYTES = 65_536
_UPGRADE = re.compile(rb"(?i)(?<=\r\n)upgrade(?=[ \t]*:)")
_LINGER = 1.0  # seconds in which one who is refused may stop sending; closed at once, a connection is reset and the answer lost on the way


def guarded(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with a time and a size for headers, a time for taking in answers, and a number of connections."""

    message = f"{limits.connections} connections are open, as many as may be; try again later"
    crowded = JSONResponse({"error": message}, 503, {"retry-after": "1", "connection": "close"})

    class Guarded(HttpToolsProtocol):
        _head_timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None
        _linger_timer: asyncio.TimerHandle | None = None
        _head_bytes = 0  # of the header, or beside a body: its framing, and what comes after it
        _body_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > 2 * limits.connections:  # there are only so many files that may be open
                transport.abort()
                return
            if len(self.connections) > limits.connections:
                self.app = crowded
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._head_timer, self._write_timer, self._linger_timer):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing() or self._linger_timer is not None:
                return
            if self._head_timer is not None:  # an upgrade that is offered is not taken, and the parser would take what follows for another protocol's
                head, end, rest = data.partition(b"\r\n\r\n")
                data = _UPGRADE.sub(b"Ignored", head) + end + rest
            body_before, within = self._body_bytes, self._head_timer is None
            super().data_received(data)
            if self._head_timer is not None:  # all of it was header, and more is to come
                self._head_bytes += len(data)
                if self._head_bytes > _HEAD_BYTES:
                    self.send_400_response(f"The header is longer than {_HEAD_BYTES} bytes.")
            elif within:
                self._head_bytes += len(data) - (self._body_bytes - body_before)
                if self._head_bytes > _HEAD_BYTES + 8 * self._body_bytes:  # a chunk of one byte has five others about it
                    self.send_400_response(f"There are more than {_HEAD_BYTES} bytes beside the body.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._await_head()

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._head_timer is not None:  # after a body nothing is looked at
                super().on_header(name, value)

        def on_body(self, body: bytes) -> None:
            self._body_bytes += len(body)
            super().on_body(body)

        def send_400_response(self, msg: str) -> None:
            content = json.dumps({"error": msg}).encode()
            head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + content)
            self.transport.close()

        def on_headers_complete(self) -> None:
            self._head_bytes = self._body_bytes = 0
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            super().on_headers_complete()
            self.cycle.transport = cast(asyncio.Transport, _ClosedBy(self.transport, self._close))

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle.response_complete and self.cycle.more_body:
                self._close()

        def _close(self) -> None:
            """At once, or of a request that was refused before its body was read when its sender has had time to see that; what still comes is dropped."""
            if not self.cycle.more_body or self.transport.is_closing():
                self.transport.close()
            elif self._linger_timer is None:
                self.transport.write_eof()
                self.flow.resume_reading()
                self._linger_timer = self.loop.call_later(_LINGER, self.transport.close)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write_timer = self.loop.call_later(limits.body_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._write_timer is not None:
                self._write_timer.cancel()

        def _await_head(self) -> None:
            if self._head_timer is None:
                self._head_bytes = 0
                self._head_timer = self.loop.call_later(limits.head_seconds, self.timeout_keep_alive_handler)

    return Guarded


class _ClosedBy:
    """A transport with another way of closing it."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport, self.close = transport, close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def http_options(limits: Limits) -> dict[str, Any]:
    """What uvicorn is told about connections."""
    return {
        "http": guarded(limits), "ws": "none", "access_log": False, "log_config": None, "log_level": "error", "proxy_headers": False, "server_header": False,
        "timeout_keep_alive": 60, "lifespan": "on", "loop": "asyncio",
    }  # fmt: skip
