"""Two network namespaces as two hosts under torchrun: the same counts as one process, also when one host dies midway.

    sudo python benchmarks/hosts.py

Needs root and iproute2 (Debian: apt-get install iproute2). The hosts share the run folder and a virtual cable, and have names of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import save
from kills import FINDINGS, LABELS, MARK, N, compared, end, hit, launched, prepare, processes, say, units

HOSTS = {"si-one": "10.213.7.1", "si-two": "10.213.7.2"}
SEED, EACH = 0, 2  # processes per host


def main() -> int:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("hosts: needs root and iproute2 (apt-get install iproute2)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="hosts-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        reference = folder / "alone"
        try:
            config = prepare(folder, SEED)
            rows = {"alone": launched(config, reference, 0, reference)}
            connect()
            rows["two hosts"] = {**finished(config, folder / "two", 29511), **compared(folder / "two", reference)}
            killed, run = folder / "killed", {"units_when_killed": 0}
            both = [launch(host, config, killed, 29512) for host in HOSTS]
            while len(units(killed)) < 8:
                assert all(process.poll() is None for process in both), log(killed)
                time.sleep(0.02)
            run["processes_killed"] = sum(hit(pid) for pid, (host, _) in processes(killed).items() if host == 1)
            run["units_when_killed"] = len(units(killed))
            say(f"si-two died after {run['units_when_killed']} units; both are launched again, si-one's first processes go on")
            run |= finished(config, killed, 29513)
            rows["one host killed"] = {**run, **compared(killed, reference)}
        finally:
            left = end(folder)
            disconnect()
        differ = {name: sum(row[name] for row in rows.values()) for name in FINDINGS}
        save("hosts", {
            "command": "sudo python benchmarks/hosts.py", "seed": SEED, "hosts": len(HOSTS), "processes_per_host": EACH, "n_examples": N,
            "n_labels": LABELS, **differ, "processes_left": left, "runs": rows,
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


def launch(host: str, config: Path, run: Path, port: int) -> subprocess.Popen[bytes]:
    """torchrun on one host, under that host's name; its processes can be told from the other host's by their mark."""
    rank = list(HOSTS).index(host)
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(HOSTS)), "--nproc-per-node", str(EACH), "--node-rank", str(rank),
        "--master-addr", HOSTS["si-one"], "--master-port", str(port), "-m", "selfinformed", "measure", str(config), "--output", str(run),
    ]  # fmt: skip
    command = ["ip", "netns", "exec", host, "unshare", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh", *torchrun]
    with run.with_suffix(".log").open("ab") as file:
        return subprocess.Popen(command, env=os.environ | {MARK: f"{run}:{rank}"}, stdout=file, stderr=file, start_new_session=True)


def finished(config: Path, run: Path, port: int) -> dict[str, Any]:
    """A run on both hosts: its seconds, and the names of the hosts that claimed units."""
    start, both, names = time.perf_counter(), [launch(host, config, run, port) for host in HOSTS], set()
    while any(process.poll() is None for process in both):
        for claim in (run / "detections" / "claims").glob("0*.json"):
            try:
                names.add(json.loads(claim.read_text())["host"])
            except OSError:  # done meanwhile
                continue
        time.sleep(0.02)
    assert [process.returncode for process in both] == [0, 0], log(run)
    row = {"processes": EACH * len(HOSTS), "seconds": time.perf_counter() - start, "hosts_that_claimed": sorted(names)}
    say(f"{run.name}: {row}")
    return row


def log(run: Path) -> str:
    return run.with_suffix(".log").read_text()[-3000:]


if __name__ == "__main__":
    sys.exit(main())
