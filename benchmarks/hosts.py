"""Two network namespaces as two hosts under torchrun: the same counts as one process, also when one host is killed midway.

    sudo python benchmarks/hosts.py

Needs root and iproute2 (Debian: apt-get install iproute2).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import save
from kills import BATCH, LABELS, N, prepare

HOSTS = {"si-one": "10.213.7.1", "si-two": "10.213.7.2"}


def main() -> int:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("hosts: needs root and iproute2 (apt-get install iproute2)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = prepare(folder, 0)
        subprocess.run([sys.executable, "-m", "selfinformed", "measure", str(config), "--output", str(folder / "alone")], check=True, capture_output=True)
        connect()
        try:
            start = time.perf_counter()
            finish([launch(host, config, folder / "two", 29511) for host in HOSTS])
            seconds = time.perf_counter() - start
            processes = [launch(host, config, folder / "killed", 29512) for host in HOSTS]
            while len(list((folder / "killed" / "detections").glob("unit-*.safetensors"))) < 5:
                time.sleep(0.05)
            for process in processes:  # the second host dies; torchrun on the first cannot go on alone and is stopped
                os.killpg(process.pid, signal.SIGKILL)
            done = len(list((folder / "killed" / "detections").glob("unit-*.safetensors")))
            finish([launch(host, config, folder / "killed", 29513) for host in HOSTS])
        finally:
            disconnect()
        reference = (folder / "alone" / "counts.safetensors").read_bytes()
        differ = {run: (folder / run / "counts.safetensors").read_bytes() != reference for run in ("two", "killed")}
        units = len(list((folder / "two" / "detections").glob("unit-*.safetensors")))
        save("hosts", {
            "hosts": list(HOSTS), "processes_per_host": 2, "examples": N, "labels": LABELS, "batch_size": BATCH, "units": units, "seconds": seconds,
            "units_done_when_killed": done, "files_that_differ": sum(differ.values()),
        })  # fmt: skip
        return int(any(differ.values()))


def connect() -> None:
    """Two namespaces joined by a virtual cable."""
    disconnect()
    one, two = HOSTS
    commands = [f"ip netns add {one}", f"ip netns add {two}", f"ip link add {one} netns {one} type veth peer name {two} netns {two}"]
    for host, address in HOSTS.items():
        commands += [f"ip -n {host} addr add {address}/24 dev {host}", f"ip -n {host} link set {host} up", f"ip -n {host} link set lo up"]
    for command in commands:
        subprocess.run(command.split(), check=True)


def disconnect() -> None:
    for host in HOSTS:
        subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)


def launch(host: str, config: Path, output: Path, port: int) -> subprocess.Popen[bytes]:
    """torchrun on one host, under that host's name."""
    first = next(iter(HOSTS.values()))
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2", "--node-rank", str(list(HOSTS).index(host)),
        "--master-addr", first, "--master-port", str(port), "-m", "selfinformed", "measure", str(config), "--output", str(output),
    ]  # fmt: skip
    command = ["ip", "netns", "exec", host, "unshare", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh", *torchrun]
    with (output.parent / f"{output.name}-{host}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        code = process.wait(timeout=300)
        if code:
            raise SystemExit(f"torchrun ended with {code}: {process.args}")


if __name__ == "__main__":
    sys.exit(main())
