"""Connections that send slowly, endlessly or nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest

from clients import request, running, say, status
from selfinformed.serving.limits import Limits


def large(bodies):
    return [json.dumps({"answer": "x" * 100_000}).encode() for _ in bodies]


def echo(bodies):
    return list(bodies)


@pytest.fixture(scope="module")
def port():
    with running(echo, Limits(head_seconds=0.3, body_seconds=0.3, connections=40)) as port:
        yield port


def closes_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("sent", [b"", b"P", b"POST /predict HTTP/1.1\r\nhost: localhost\r\nx-slow: "])
def test_a_header_that_does_not_come_closes_the_connection(port, sent):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        assert closes_within(connection, 1)


def test_a_header_that_comes_byte_by_byte_has_a_time_of_its_own_on_every_request(port):
    slow = b"POST /predict HTTP/1.1\r\n" + b"x-slow: 1\r\n" * 100
    for first in (b"", request(b"whole", connection="keep-alive")):
        start = time.monotonic()
        answer = say(port, first, *[slow[i : i + 1] for i in range(len(slow))], pause=0.005)
        assert time.monotonic() - start < 1.5
        assert status(answer) == (200 if first else 0)


def test_many_slow_clients_leave_room_for_others(port):
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
    for connection in slow:
        connection.sendall(b"POST /predict HTTP/1.1\r\nx-slow: ")
    assert status(say(port, request(b"quick"))) == 200
    assert all(closes_within(connection, 1) for connection in slow)
    for connection in slow:
        connection.close()


def test_beyond_the_number_of_connections_others_are_told_to_come_again(port):
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    time.sleep(0.1)
    answer = say(port, request(b"one more", connection="keep-alive"))
    assert (status(answer), b"retry-after: 1" in answer, b"40 connections are open" in answer) == (503, True, True)
    held += [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    assert closes_within(held[-1], 0.1)
    assert all(closes_within(connection, 1) for connection in held)
    for connection in held:
        connection.close()
    assert status(say(port, request(b"now"))) == 200


def test_an_endless_header_is_cut(port):
    start = time.monotonic()
    assert status(say(port, b"GET /health HTTP/1.1\r\nhost: localhost\r\n", *[b"x-endless: " + b"x" * 8000 + b"\r\n"] * 100)) in (0, 400)
    assert status(say(port, b"GET /" + b"x" * 500_000)) in (0, 400)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("nonsense", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100])
def test_what_is_not_http_is_refused(port, nonsense):
    assert status(say(port, nonsense)) == 400


def test_who_asks_and_does_not_read_is_left():
    with running(large, Limits(body_seconds=0.3)) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            connection.sendall(request(b"x", connection="keep-alive") * 300)
        time.sleep(1.0)
        got = 0
        try:
            while part := connection.recv(65536):
                got += len(part)
        except OSError:
            pass
        assert got < 300 * 100_000  # some, which the system has buffered


def test_an_idle_connection_is_kept_and_an_upgrade_ignored(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(2):
            connection.sendall(request(b"x", connection="keep-alive"))
            answer = b""
            while not answer.endswith(b"\r\n\r\nx"):
                answer += connection.recv(65536)
            assert status(answer) == 200
            time.sleep(0.5)  # longer than a header may take
    assert status(say(port, request(path="/health", method="GET", connection="upgrade", upgrade="websocket"), wait=0.5)) in (200, 400)


def test_what_comes_after_a_body_is_not_kept_and_has_an_end():
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
    with running(echo, Limits(body_seconds=20)) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head)
        sent, line = 0, b"a:b\r\n" * 1000
        with contextlib.suppress(OSError):
            while sent < 10_000_000:
                sent += connection.send(line)
                time.sleep(0.0005)
        assert sent < 10_000_000
        assert closes_within(connection, 2)


def test_a_chunked_body_with_a_trailer_is_answered():
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b"in chunks of a byte" * 1_000)
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    with running(echo, Limits(body_seconds=20)) as port:
        assert status(say(port, head + chunks + b"0\r\nx-trailer: y\r\n\r\n")) == 200
