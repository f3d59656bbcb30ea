"""Where it listens, to whom it answers, how it ends."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clients import content, request, running, say, status
from conftest import refused, write_config, write_images
from selfinformed.cli import _exported
from selfinformed.pipeline.config import read_config
from selfinformed.pipeline.run import Run
from selfinformed.runtime.errors import SelfInformedError
from selfinformed.serving.limits import Limits
from selfinformed.serving.server import Address, _is_loopback, _token, serve


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "httptools", "prometheus_client", "onnxruntime"])
def test_without_the_extra_the_error_names_the_command(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SelfInformedError, match=rf"^serve: {package} is not installed; run: pip install 'selfinformed\[serve\]'$"):
        Address.claim(port=0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "my-machine.example"])
def test_another_address_needs_a_token(host, monkeypatch):
    monkeypatch.delenv("SELFINFORMED_TOKEN", raising=False)
    with refused(f"serve: {host} can be reached from other machines, so a token is needed"):
        Address.claim(host, 0)


def test_what_is_loopback():
    assert all(map(_is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost", "LocalHost")))
    assert not any(map(_is_loopback, ("0.0.0.0", "::", "10.0.0.1", "", "localhost.example", "::ffff:10.0.0.1", "127.0.0.1.example")))


def test_the_token_comes_from_a_file_or_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("SELFINFORMED_TOKEN", raising=False)
    assert _token(None) is None
    monkeypatch.setenv("SELFINFORMED_TOKEN", "e" * 16)
    assert _token(None) == b"e" * 16
    file = tmp_path / "token"
    file.write_text("f" * 64 + "\n")
    assert _token(str(file)) == b"f" * 64
    with refused("serve: the token file .*nowhere cannot be read"):
        _token(str(tmp_path / "nowhere"))
    os.mkfifo(tmp_path / "pipe")
    with refused("serve: the token file .*pipe.* is a pipe or a device"):
        _token(str(tmp_path / "pipe"))
    for bad in ("", "  \n", "short", "with a space in the token", "é" * 20, "line\nbreak" * 4):
        file.write_text(bad)
        with refused("serve: the token in .*token has .* characters; expected at least 16"):
            _token(str(file))
        monkeypatch.setenv("SELFINFORMED_TOKEN", bad)
        with refused("serve: the token in SELFINFORMED_TOKEN has"):
            _token(None)


def test_an_address_that_cannot_be_had(monkeypatch):
    monkeypatch.setenv("SELFINFORMED_TOKEN", "t" * 16)
    with socket.create_server(("127.0.0.1", 0)) as taken, refused("serve: cannot listen at 127.0.0.1, port .*; choose another --host or --port"):
        Address.claim("127.0.0.1", taken.getsockname()[1])
    for host, port in (("127.0.0.1", 70_000), ("192.0.2.1", 0), ("a..b", 0)):
        with refused("serve: cannot listen at"):
            Address.claim(host, port)
    first = Address.claim(port=0)
    second = Address.claim(port=first.port)  # neither listens yet
    first.listen()
    with refused("serve: cannot listen at 127.0.0.1, port .*in use"):
        second.listen()
    for address in (first, second):
        address.bound.close()


def test_the_address_is_free_again_where_there_is_nothing_to_serve(tmp_path):
    address = Address.claim(port=0)
    with pytest.raises(SelfInformedError):
        serve(tmp_path, address)
    assert address.bound.fileno() == -1


def test_answers_are_sent_without_delay():
    with running(list) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        seconds = []
        for _ in range(20):
            start, answer = time.monotonic(), b""
            connection.sendall(request(b"x", connection="keep-alive"))
            while not answer.endswith(b"\r\n\r\nx"):
                answer += connection.recv(65536)
            seconds.append(time.monotonic() - start)
        assert min(seconds[5:]) < 0.03  # the system delays acknowledgements, and so a second packet that waits for one, by 40 ms


def test_hosts_that_are_answered(monkeypatch):
    monkeypatch.setenv("SELFINFORMED_TOKEN", "t" * 16)
    for host, hosts, shown in (
        ("127.0.0.2", {"127.0.0.1", "127.0.0.2", "localhost", "::1"}, "http://127.0.0.2:"),
        ("LOCALHOST", {"127.0.0.1", "localhost", "::1"}, "http://LOCALHOST:"),
        ("0.0.0.0", None, "http://0.0.0.0:"),
    ):
        address = Address.claim(host, 0)
        with address.bound:
            assert address.hosts == hosts
            assert str(address) == f"{shown}{address.port}, with a token"


@pytest.mark.parametrize("wrong", [{"deadline": 0}, {"queue": -1}, {"megabytes": float("nan")}, {"megapixels": float("inf")}, {"batch": 0}])
def test_limits_are_above_zero(wrong):
    with refused(f"serve: {next(iter(wrong))} = .*: expected a number above 0"):
        Limits(**wrong)


def served(folder: Path, *options: str, **environment: str) -> tuple[subprocess.Popen, int, str]:
    """The command line in a process of its own, its port, and what it said before."""
    command = [sys.executable, "-m", "selfinformed", "serve", str(folder), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    said = ""
    for line in process.stderr:
        said += line
        if " at http://" in line:
            return process, int(line.partition(" at http://")[2].partition(";")[0].partition(",")[0].rpartition(":")[2]), said
    raise AssertionError(f"{process.wait()}: {said}")


def test_a_run_is_exported_served_and_ends_with_what_is_in_work(workspace: Path):
    config = write_config(workspace, **write_images(workspace), labels=None, image_size=6)
    Run(read_config(config)).augmented()
    process, port, said = served(config, "--top", "2")
    try:
        assert "has no model.onnx of its heads yet" in said
        assert (workspace / "out" / "model.onnx").exists()
        picture = (workspace / "images" / "class 3" / "0.png").read_bytes()
        array = io.BytesIO()
        np.save(array, np.zeros((3, 6, 6), np.float32))
        for body in (picture, array.getvalue()):
            rows = json.loads(content(say(port, request(body))))["labels"]
            assert len(rows) == 2
            assert rows[0]["label"].startswith("class ")
        bad = say(port, request(b"no image"))
        assert (status(bad), "image: it cannot be read" in content(bad)) == (400, True)
        with ThreadPoolExecutor(4) as clients:
            signalled = time.monotonic() + 0.3

            def client(_: int) -> list[bytes]:
                got = []
                while time.monotonic() < signalled + 1:
                    try:
                        got.append(say(port, request(picture)))
                    except ConnectionError:
                        break
                return got

            clients_got = [clients.submit(client, i) for i in range(4)]
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=10)
            answers = [answer for got in clients_got for answer in got.result()]
        assert process.returncode == 0
        assert (out, err) == ("", "")
        assert len(answers) > 4
        assert {status(answer) for answer in answers} <= {200, 0}  # none half done: an answer, or not taken in at all
        assert all(content(answer).endswith("}") for answer in answers if answer)
    finally:
        process.kill()

    process, port, said = served(workspace / "out", "--host", "0.0.0.0", SELFINFORMED_TOKEN="a-token-of-the-test")
    try:
        assert "model.onnx" not in said
        assert said.strip().endswith("with a token; stop with Ctrl-C")
        assert status(say(port, request(picture))) == 401
        assert status(say(port, request(picture, authorization="Bearer a-token-of-the-test", host="any.example"))) == 200
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == 0
    finally:
        process.kill()


def test_the_listed_files_alone_are_served_on_another_machine(workspace: Path, tmp_path: Path):
    run = Run(read_config(write_config(workspace)))
    _exported(run)
    elsewhere = tmp_path / "elsewhere" / "run"
    elsewhere.mkdir(parents=True)
    for name in ("config.yaml", "config.json", "heads.safetensors", "model.onnx"):
        shutil.copy(run.folder / name, elsewhere)
    text = (elsewhere / "config.yaml").read_text()
    (elsewhere / "config.yaml").write_text(text.replace(str((workspace / "data").resolve()), str(tmp_path / "not here")))
    process, port, _ = served(elsewhere)
    try:
        array = io.BytesIO()
        np.save(array, np.zeros((1, 6, 6), np.float32))
        assert status(say(port, request(array.getvalue()))) == 200
    finally:
        process.send_signal(signal.SIGTERM)  # at once after an answer
        process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.parametrize("signalled", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_just_after_it_says_where_ends_it_as_any_other(workspace: Path, signalled: signal.Signals):
    run = Run(read_config(write_config(workspace)))
    _exported(run)
    process, _, _ = served(run.folder)
    process.send_signal(signalled)
    assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 0
