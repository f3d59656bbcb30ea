"""Requests over real sockets: what is answered, to whom, and what is refused."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from clients import content, request, running, say, status
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.serving.limits import Limits

TOKEN = b"0123456789abcdef"


def echo(bodies):
    return [SelfInformedError("body: bad; send another") if body == b"bad" else json.dumps({"got": body.decode()}).encode() for body in bodies]


def broken(bodies):
    raise ZeroDivisionError


@pytest.fixture(scope="module")
def port():
    with running(echo, Limits(megabytes=0.001, body_seconds=0.4), hosts={"localhost", "127.0.0.1", "::1"}) as port:
        yield port


@pytest.fixture(scope="module")
def closed():
    with running(echo, token=TOKEN) as port:
        yield port


def test_a_prediction_and_the_state_of_the_server(port):
    answer = say(port, request(b"hello"))
    assert (status(answer), json.loads(content(answer))) == (200, {"got": "hello"})
    assert b"content-type: application/json" in answer
    assert b"server:" not in answer
    assert json.loads(content(say(port, request(path="/health", method="GET")))) == {"status": "ok"}
    text = content(say(port, request(path="/metrics", method="GET")))
    for line in ('requests_total{status="200"} 1.0', "request_seconds_count 1.0", "batch_size_sum 1.0", "in_work 0.0"):
        assert f"selfinformed_{line}" in text
    assert "process_resident_memory_bytes" in text


@pytest.mark.parametrize(
    ("asked", "code", "part"),
    [
        (request(b"bad"), 400, "body: bad; send another"),
        (request(method="GET"), 405, "expected POST /predict"),
        (request(path="/other"), 404, "expected POST /predict, GET /health or GET /metrics"),
        (request(path="/metrics"), 405, "GET /metrics"),
        (request(path="/predict/"), 404, "expected POST /predict"),
        (b"no request\r\n\r\n", 400, "Invalid HTTP request"),
        (request(b"x", origin="http://evil.example"), 403, "a page of another site"),
        (request(b"x", origin="null"), 403, "a page of another site"),
        (request(b"x", origin="http://localhost:1"), 403, "a page of another site"),
        (request(b"x", sec_fetch_site="cross-site"), 403, "a page of another site"),
        (request(b"x", host="evil.example"), 421, "expected one of 127.0.0.1, ::1, localhost; got 'evil.example'"),
        (request(b"x", host=""), 421, "got none"),
        (request(b"x", host="localhost\r\nhost: evil.example"), 421, "evil.example"),
        (request(path="/health", method="GET", host="evil.example:8000"), 421, "evil.example"),
        (request(b"x" * 1001), 413, "1,001 bytes, expected at most 1,000"),
        (request(content_length="999999999999"), 413, "expected at most 1,000"),
    ],
)
def test_what_is_refused_says_why(port, asked, code, part):
    answer = say(port, asked)
    assert status(answer) == code
    assert part in json.loads(content(answer))["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "[::1]:8000", "[::1]"])
def test_names_of_this_machine_are_answered(port, host):
    assert status(say(port, request(b"x", host=host))) == 200


def test_a_body_without_a_length_is_cut_at_the_limit(port):
    def chunk(data: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(data), data)

    head = request(content_length="", transfer_encoding="chunked")
    assert json.loads(content(say(port, head + chunk(b"a" * 500) + chunk(b"b" * 500) + b"0\r\n\r\n")))["got"] == "a" * 500 + "b" * 500
    start = time.monotonic()
    assert status(say(port, head, *[chunk(b"a" * 400)] * 5_000, pause=0.001)) == 413  # long before the last is sent
    assert time.monotonic() - start < 3


def test_who_is_refused_gets_the_answer_though_it_sends_on(port):
    for sent, stated in [(5_000_000, "5000000"), (200_000, "999999999999")]:
        answer = say(port, request(content_length=stated), b"x" * sent)
        assert (status(answer), answer.count(b"HTTP/1.1 ")) == (413, 1)


def test_a_length_that_is_not_so(port):
    fewer = say(port, request(b"only this", content_length="500"))
    assert (status(fewer), content(fewer)) == (408, '{"error":"body: 9 bytes came in 0.4 s; send it whole and faster"}')
    more = say(port, request(b"ab and more", content_length="2", connection="keep-alive"))
    assert (status(more), more.count(b"HTTP/1.1 ")) == (400, 1)  # the rest is no request
    for length in ("-1", "two", "1\r\ncontent-length: 2", "1\r\ntransfer-encoding: chunked"):
        assert status(say(port, request(b"x", content_length=length))) == 400


def test_a_body_that_comes_byte_by_byte_has_a_time(port):
    start = time.monotonic()
    assert status(say(port, request(content_length="900"), *[b"x"] * 900, pause=0.01)) in (0, 408)  # the answer can be lost to one who still sends
    assert time.monotonic() - start < 2


def test_pipelined_requests_are_answered_in_order(port):
    several = [request(b"%d" % i, connection="keep-alive") for i in range(50)] + [request(b"last")]
    answer = say(port, b"".join(several))
    assert [json.loads(part.partition(b"\r\n\r\n")[2])["got"] for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == [*map(str, range(50)), "last"]


def test_the_token_opens_everything_and_health_is_open(closed):
    def bearer(token: bytes) -> str:
        return f"Bearer {token.decode()}"

    assert status(say(closed, request(path="/health", method="GET"))) == 200
    wrong = [bearer(other) for other in (b"0123456789abcdeF", TOKEN[:-1], TOKEN + b"x", b"", b"x\r\nauthorization: Bearer " + TOKEN)]
    for given in ("", *wrong, TOKEN.decode(), "Bearer \xff"):
        for asked in (request(b"x", authorization=given), request(path="/metrics", method="GET", authorization=given), request(path="/", authorization=given)):
            answer = say(closed, asked)
            assert (status(answer), b"www-authenticate: Bearer" in answer) == (401, True)
    assert status(say(closed, request(b"x", authorization=bearer(TOKEN)))) == 200
    assert status(say(closed, request(path="/metrics", method="GET", authorization=bearer(TOKEN)))) == 200
    assert status(say(closed, request(b"x", authorization=bearer(TOKEN), host="any.example"))) == 200  # no page of another site knows the token


def test_who_has_no_token_is_not_read_to_the_end(closed):
    start = time.monotonic()
    assert status(say(closed, request(content_length="9000000"), *[b"x" * 100] * 5000, pause=0.001)) == 401
    assert time.monotonic() - start < 3


def test_a_full_queue_says_when_to_come_again():
    gate = threading.Event()

    def wait(bodies):
        gate.wait(5)
        return echo(bodies)

    with running(wait, Limits(queue=3, deadline=5)) as port, ThreadPoolExecutor(3) as clients:
        waiting = [clients.submit(say, port, request(b"%d" % i)) for i in range(3)]
        while "selfinformed_in_work 3.0" not in content(say(port, request(path="/metrics", method="GET"))):
            time.sleep(0.01)
        answer = say(port, request(b"one more"))
        assert (status(answer), b"retry-after: 1" in answer) == (503, True)
        assert "3 requests are in work, as many as may be; try again later" in content(answer)
        assert status(say(port, request(path="/health", method="GET"))) == 200
        gate.set()
        assert [status(one.result()) for one in waiting] == [200, 200, 200]
        assert status(say(port, request(b"now"))) == 200


def test_bodies_of_all_requests_together_are_limited():
    limits = Limits(megabytes=0.1, body_seconds=1.0)
    with running(echo, limits) as port, ThreadPoolExecutor(20) as clients:
        slow = [clients.submit(say, port, request(content_length="100000"), b"x" * 90_000) for _ in range(20)]
        assert sorted(status(one.result()) for one in slow) == [408] * 17 + [503] * 3  # 16 times the largest body, so 17 of these
        assert status(say(port, request(b"now"))) == 200


def test_a_deadline_that_passes_is_a_504_and_an_unforeseen_error_a_500(capfd):
    def slow(bodies):
        time.sleep(0.3)
        return echo(bodies)

    with running(slow, Limits(deadline=0.1)) as port:
        answer = say(port, request(b"x"))
        assert (status(answer), "within the deadline of 0.1 s" in content(answer)) == (504, True)
    with running(broken) as port:
        for _ in range(2):
            answer = say(port, request(b"x"))
            assert (status(answer), content(answer)) == (500, '{"error":"internal error; the server\'s own output says more"}')
        assert 'selfinformed_requests_total{status="500"} 2.0' in content(say(port, request(path="/metrics", method="GET")))
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_client_that_leaves_is_counted(port):
    import socket

    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request(b"x", content_length="500"))
        time.sleep(0.05)
    for _ in range(100):
        if 'status="499"' in content(say(port, request(path="/metrics", method="GET"))):
            return
        time.sleep(0.01)
    pytest.fail("not counted")


def test_a_page_of_its_own_address_is_answered(port):
    assert status(say(port, request(b"x", origin="http://localhost", sec_fetch_site="same-origin"))) == 200


def test_an_upgrade_that_is_offered_is_not_taken(port):
    """As curl --http2 asks; the body is read all the same."""
    asked = request(b"upgrade: this is the body", connection="Upgrade, HTTP2-Settings", upgrade="h2c", http2_settings="AAMAAABkAAQCAAAAAAIAAAAA")
    answer = say(port, asked, wait=2)
    assert (status(answer), json.loads(content(answer))) == (200, {"got": "upgrade: this is the body"})
