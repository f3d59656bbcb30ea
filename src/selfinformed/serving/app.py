"""The HTTP side: who may ask, what is read of a request, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import math
import time
import traceback
from collections.abc import AsyncIterator, Callable, Collection, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from selfinformed.runtime.errors import SelfInformedError
from selfinformed.serving.limits import Limits
from selfinformed.serving.measures import Measures
from selfinformed.serving.worker import Answer, Refused, Worker


def application(
    network: Callable[[Sequence[bytes]], Sequence[Answer]], limits: Limits, token: bytes | None = None, hosts: Collection[str] | None = None
) -> Starlette:
    """`POST /predict`, `GET /health` and `GET /metrics` for one network, which is there already: no request loads one.

    Args:
        network: gives an answer for each body, such as a `ServedNetwork`.
        limits: what a client may cost.
        token: asked for as `Authorization: Bearer TOKEN` everywhere but at /health; None where nobody else can reach the server.
        hosts: names in a request's Host header that are answered; None for any.
    """
    worker = Worker(network, limits, lambda size: measures.computed(size))
    measures = Measures(lambda: worker.in_work)
    predict = _Predict(worker, limits, measures)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        return Response(measures.text(), media_type="text/plain; version=0.0.4")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        worker.start()
        yield
        await worker.stop()

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _problem(error.status_code, f"{request.method} {request.url.path}: expected POST /predict, GET /health or GET /metrics", error.headers)

    app = Starlette(
        routes=[Route("/predict", predict, methods=["POST"]), Route("/health", health), Route("/metrics", metrics)],
        middleware=[Middleware(_Door, token=token, hosts=hosts)],
        exception_handlers={HTTPException: refused},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


class _Predict:
    """Reads a body, never more than may be, and has it answered."""

    def __init__(self, worker: Worker, limits: Limits, measures: Measures) -> None:
        self._worker, self._limits, self._measures = worker, limits, measures
        self._buffered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        response = await self._response(Request(scope, receive))
        self._measures.answered(response.status_code, time.perf_counter() - start)
        await response(scope, receive, send)

    async def _response(self, request: Request) -> Response:
        parts: list[bytes] = []
        try:
            self._worker.admit()
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    await self._read(request, parts)
            except TimeoutError:
                return _problem(408, f"body: {sum(map(len, parts)):,} bytes came in {self._limits.body_seconds:g} s; send it whole and faster", _CLOSE)
            return Response(await self._worker.answer(b"".join(parts)), media_type="application/json")
        except Refused as error:
            return _problem(503, f"{error}; try again later", {"retry-after": str(max(1, math.ceil(error.seconds)))})
        except TimeoutError:
            return _problem(504, f"no answer within the deadline of {self._limits.deadline:g} s; try again later")
        except _TooLarge as error:
            return _problem(413, f"body: {error} bytes, expected at most {self._limits.body_bytes:,}", _CLOSE)
        except SelfInformedError as error:
            return _problem(400, str(error))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it; the metrics count it
        except Exception:
            traceback.print_exc()
            return _problem(500, "internal error; the server's own output says more")
        finally:
            self._buffered -= sum(map(len, parts))

    async def _read(self, request: Request, parts: list[bytes]) -> None:
        """Appends what comes to `parts`; stops at the limit, whatever length the header states, if any."""
        stated = request.headers.get("content-length", "0")
        if int(stated) > self._limits.body_bytes:  # the parser has seen to it that this is a number
            raise _TooLarge(f"{int(stated):,}")
        size = 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            self._buffered += len(part)
            if size > self._limits.body_bytes:
                raise _TooLarge("more")
            if self._buffered > self._limits.buffered_bytes:
                raise Refused(f"the bodies of all requests in work are more than {self._limits.buffered_bytes:,} bytes", 1)


class _Door:
    """Lets in who knows the token and asks for a host that this is. A page of another site that has its name point here does neither."""

    def __init__(self, app: ASGIApp, token: bytes | None, hosts: Collection[str] | None) -> None:
        self._app, self._hosts = app, hosts
        self._expected = None if token is None else b"Bearer " + token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        if self._hosts is not None:
            asked = [_host(value) for name, value in scope["headers"] if name == b"host"]
            if len(asked) != 1 or asked[0] not in self._hosts:
                return _problem(421, f"Host: expected one of {', '.join(sorted(self._hosts))}; got {', '.join(map(repr, asked)) or 'none'}")
        if _is_of_another_site(scope["headers"]):
            return _problem(403, "Origin: this is a page of another site; ask from a program, or from a page of this server's own address")
        if self._expected is not None and scope["path"] != "/health":
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], self._expected):
                said = "expected the header `Authorization: Bearer TOKEN` with the token of this server"
                return _problem(401, said, {"www-authenticate": "Bearer", "connection": "close"})  # or it would keep one of the connections
        return None


def _is_of_another_site(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a browser says that a page of another site asks."""
    said = [(name, value.strip().lower()) for name, value in headers if name in (b"sec-fetch-site", b"origin", b"host")]
    host = next((value for name, value in said if name == b"host"), b"")
    return (b"sec-fetch-site", b"cross-site") in said or any(name == b"origin" and value.partition(b"://")[2] != host for name, value in said)


class _TooLarge(Exception):
    pass


_CLOSE = {"connection": "close"}


def _host(value: bytes) -> str:
    """The name in a Host header, without its port and the brackets of IPv6."""
    text = value.decode("latin-1").strip().lower()
    return text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]


def _problem(status: int, message: str, headers: object = None) -> Response:
    return JSONResponse({"error": message}, status, headers=headers)  # type: ignore[arg-type]
