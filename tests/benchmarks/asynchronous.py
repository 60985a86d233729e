"""Parameter servers beside the synchronous run: accuracy, a slow worker, killed workers, speed.

    python -m tests.benchmarks.asynchronous [--only accuracy slow killed speed link] [--seeds 3]
        [--configs digits cifar10] [--workers 2 3] [--csv FILE] [--max-staleness 16]

accuracy: digits and CIFAR-10 (where --data-dir or LOCKSTEP_TFDS_DIR has it), equal epochs and equal
batches per update, seed by seed. slow: 3 workers whose batches take 100 ms, and one of them five
times as long: the share of the sum of their own speeds that is reached, beside ranks that are as
slow. killed: a worker of 2 is killed every 20 s: the time lost. speed: examples/s over loopback;
link: over links of 200 Mbit, which needs root. Each row is printed as it comes, and appended to
--csv. For an idle machine.
"""

import argparse
import contextlib
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.doctor.hosts import Host
from launch.cluster import configs, deal
from tests.benchmarks.convergence import CONFIGS
from tests.benchmarks.links import hosts_with_links, run_ranks
from tests.integration.launching import LAUNCHER_VARIABLES, ROOT
from tests.integration.serving import Room

PARTS = ("accuracy", "slow", "killed", "speed", "link")
COLUMNS = ("part", "way", "workers", "seed", "value", "unit", "about")
ADAM = {"optimizer": "adam", "learning_rate": "0.002", "momentum": "0.9"}
SHORT = CONFIGS["cifar10"] | {"epochs": "3"}
# What is trained, and what of it is another value with parameter servers (`warn_of_momentum`).
TRAINED: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "digits": (CONFIGS["digits"], {}),
    "digits, adam": (CONFIGS["digits"] | ADAM, {}),
    "cifar10": (SHORT, {"momentum": "0.0", "learning_rate": "0.12"}),
    "cifar10, adam": (SHORT | ADAM | {"warmup_epochs": "0.5"}, {"learning_rate": "0.001"}),
}
SMALL = {"dataset": "digits", "model": "cnn", "width": "4", "per_rank_batch_size": "64"}
# 0.6M parameters, 2.3 MB of gradients a step.
LARGE = {"dataset": "synthetic-image:size=32", "model": "cnn", "width": "64", "epochs": "2"}
OWN_MS, SLOW_FACTOR, KILL_EVERY_S = 100, 5, 20.0
RATE, FIRST_PORT, LIMIT_S = "200mbit", 23400, 3000


def flags(keys: dict[str, Any]) -> list[str]:
    """As the command line has them."""
    return [word for key, value in keys.items() for word in (f"--{key.replace('_', '-')}", value)]


def environment(room: Room | None = None) -> dict[str, str]:
    """Of the launch scripts."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
    return {**inherited, "LOCKSTEP_VENV": sys.prefix, **(room.environ if room else {})}


def launch(
    script: str, workers: int, keys: dict[str, Any], room: Room | None = None
) -> tuple[dict[str, Any], float]:
    """(metrics, seconds) of a run by launch/SCRIPT.sh."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        number = ["-n" if script == "local" else "-w", str(workers)]
        command = [str(ROOT / "launch" / f"{script}.sh"), *number, "train", "--quiet"]
        began = time.monotonic()
        subprocess.run(
            [*command, "--run-dir", str(directory), *flags(keys)],
            cwd=ROOT,
            env=environment(room),
            check=True,
            timeout=LIMIT_S,
        )
        return json.loads((directory / "metrics.json").read_text()), time.monotonic() - began


class Table:
    """Rows, printed and kept as they come."""

    def __init__(self, path: Path | None):
        self._path = path

    def add(self, *values: Any) -> None:
        row = dict(zip(COLUMNS, values, strict=True))
        print(*(f"{value:g}" if isinstance(value, float) else value for value in values), sep="\t")
        sys.stdout.flush()
        if self._path is None:
            return
        is_new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def accuracy(options: argparse.Namespace, table: Table) -> None:
    """Equal epochs, equal batches per update."""
    place = options.data_dir or os.environ.get("LOCKSTEP_TFDS_DIR")
    for name in options.configs:
        keys, served = TRAINED[name]
        if name.startswith("cifar10"):
            if not place:
                print("no CIFAR-10: give --data-dir", file=sys.stderr)
                continue
            keys = keys | {"data_dir": str(place)}
        served = served | {"max_staleness": str(options.max_staleness)}
        ways = {"synchronous": ("local", keys), "servers": ("parameter_servers", keys | served)}
        for workers in options.workers:
            lost = []
            for seed in range(options.seeds):
                both = {}
                for way, (script, own) in ways.items():
                    found, seconds = launch(script, workers, own | {"seed": str(seed)})
                    both[way] = 100 * found["test_accuracy"]
                    stale = found.get("parameter_servers", {}).get("staleness_mean", 0.0)
                    about = f"{name}; {seconds:.0f} s; staleness {stale:.2f}"
                    table.add("accuracy", way, workers, seed, both[way], "%", about)
                lost.append(both["synchronous"] - both["servers"])
            spread = statistics.stdev(lost) if len(lost) > 1 else 0.0
            text = f"{name}; mean of {len(lost)} seeds, standard deviation {spread:.2f}"
            table.add("accuracy", "lost", workers, "", statistics.mean(lost), "points", text)


def slow(options: argparse.Namespace, table: Table) -> None:
    """One of 3 workers takes five times as long."""
    # So many batches to an epoch that its end, where all wait for the slow one, counts little.
    batch = 8
    keys = SMALL | {"epochs": "6", "per_rank_batch_size": str(batch)}
    with tempfile.TemporaryDirectory() as folder:
        room = Room(Path(folder))
        room.slow(OWN_MS)
        room.slow(SLOW_FACTOR * OWN_MS, worker=2)
        served, _ = launch(
            "parameter_servers", 3, keys | {"max_staleness": str(options.max_staleness)}, room
        )
        about = served["parameter_servers"]
        own = sum(batch / seconds for seconds in about["seconds_per_batch"])
        reached = served["examples_per_second"]
        told = f"{about['batches']} batches; own speeds add up to {own:.0f}"
        table.add("slow", "servers", 3, 0, reached, "examples/s", told)
        table.add("slow", "servers", 3, 0, 100 * reached / own, "% of own speeds", told)
        ranks, _ = launch("local", 3, keys | {"epochs": "1"}, room)
        reached = ranks["examples_per_second"]
        told = "the slowest rank's, times 3"
        table.add("slow", "synchronous", 3, 0, reached, "examples/s", told)


@contextlib.contextmanager
def killing(room: Room, workers: int, killed: list[int]) -> Iterator[None]:
    """A block in which a worker is killed every 20 s, in turn."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(KILL_EVERY_S):
            pid = room.pid(len(killed) % workers)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def killed(options: argparse.Namespace, table: Table) -> None:
    """A worker of 2 is killed every 20 s."""
    keys = SMALL | {"epochs": "100", "max_staleness": str(options.max_staleness)}
    with tempfile.TemporaryDirectory() as folder:
        room, victims = Room(Path(folder)), []
        room.slow(OWN_MS)
        _, undisturbed_s = launch("parameter_servers", 2, keys, room)
        with killing(room, 2, victims):
            found, seconds = launch("parameter_servers", 2, keys, room)
    again = found["parameter_servers"]["dealt_again"]
    told = f"{len(victims)} killed, {again} batches dealt again; {undisturbed_s:.0f} s undisturbed"
    table.add("killed", "servers", 2, 0, seconds, "s", told)
    lost_s = (seconds - undisturbed_s) / max(1, len(victims))
    table.add("killed", "servers", 2, 0, lost_s, "s lost per kill", told)


def speed(options: argparse.Namespace, table: Table) -> None:
    """Examples/s over loopback."""
    for name, keys in (("digits", SMALL | {"epochs": "30"}), ("large", LARGE)):
        for workers in options.workers:
            for way, script in (("synchronous", "local"), ("servers", "parameter_servers")):
                found, _ = launch(script, workers, keys)
                rate = found["examples_per_second"]
                table.add("speed", way, workers, 0, rate, "examples/s", f"{name}, loopback")


def link(options: argparse.Namespace, table: Table) -> None:
    """Examples/s over links of 200 Mbit: a server and the coordinator on h1, a worker on each."""
    with hosts_with_links(2, RATE) as network, tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, "-m", "app", "train", "--quiet", *flags(LARGE)]
        run_ranks(network, 1, "gloo", [*train, "--run-dir", f"{folder}/ranks"], LIMIT_S)
        slots = deal(2, 1, [Host(name, 1) for name in network.names])
        addresses = {name: network.address(name) for name in network.names}
        ports = range(FIRST_PORT, FIRST_PORT + len(slots))
        command = [*train, "--run-dir", f"{folder}/servers"]
        running = [
            subprocess.Popen(
                network.command(slot.host, *command),
                env={**environment(), "PYTHONPATH": str(ROOT), "TF_CONFIG": config},
                cwd=ROOT,
            )
            for slot, config in zip(slots, configs(slots, addresses, ports), strict=True)
        ]
        try:
            if running[0].wait(LIMIT_S):
                raise SystemExit("the coordinator has failed")
        finally:
            for process in running:
                process.kill()
        for way, place in (("synchronous", "ranks"), ("servers", "servers")):
            found = json.loads((Path(folder) / place / "metrics.json").read_text())
            table.add("link", way, 2, 0, found["examples_per_second"], "examples/s", RATE)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--configs", nargs="+", choices=TRAINED, default=list(TRAINED))
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--max-staleness", type=int, default=16)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    table = Table(options.csv)
    parts = {"accuracy": accuracy, "slow": slow, "killed": killed, "speed": speed, "link": link}
    for part in options.only:
        parts[part](options, table)


if __name__ == "__main__":
    main()
