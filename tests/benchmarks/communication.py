"""What reducers and strategies cost and save, over links of a stated speed (links.py).

    python -m tests.benchmarks.communication [--ranks 2 4] [--links 200mbit 1gbit]
        [--transport gloo mpi] [--reducers none int8 ...] [--strategies every_step local:8 ...]

Reducers: a step of `DistributedOptimizer` (SGD) with given gradients and no forward pass, for the
shapes of ResNet-18 (11.17M parameters) or a small net (225,034). Strategies: the same with a
computation beside it, as long as the exchange of `none` takes on this link: matrix products, or
sleeping, which stands for an accelerator; or none. Gradients come one after the other in the last
two thirds of it, from the last variable to the first, as in backpropagation. "local:8" is a round
of 8 steps; "local:8+topk" a round that is compressed.

All take turns within one process per rank, with a barrier before each stretch of steps; a stretch
takes as long as on its slowest rank. Settling counts: of a reducer at the default distance of
commit points, of a strategy after each stretch. A speed-up is the median over rounds of (the first
of the list / this one in the same round). Codec CPU time is that of the process in a world of one
that copies, over that of a plain copy of the same bytes. Prints Markdown tables. Needs root.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.distributed.reducers import COMPRESSIONS
from app.distributed.strategies import STRATEGIES
from tests.benchmarks.links import hosts_with_links, run_ranks

ROUND_STEPS = 8  # of a strategy that has rounds, where the label says nothing else
HAVE_ROUNDS = ("local", "delayed")
RANK = [sys.executable, "-m", "tests.benchmarks.communicating"]
COLUMNS = {
    "reducers": ["name", "mb_per_step", "codec_cpu_ms", "codec_over_copy", "step_ms", "lowest_ms",
                 "highest_ms", "settle_ms", "speedup"],
    "strategies": ["name", "compute_ms", "step_ms", "lowest_ms", "highest_ms", "speedup", "hidden"],
}  # fmt: skip
PLACE = ["transport", "ranks", "per_host", "link", "model", "steps", "rounds", "load"]


def main() -> None:
    options = _options()
    codecs = {}
    if options.reducers:
        with tempfile.TemporaryDirectory() as folder:
            about = {"reducers": options.reducers, "model": options.model}
            result = Path(folder) / "result.json"
            command = [*RANK, "codecs", json.dumps(about), str(result)]
            subprocess.run(command, check=True, env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ})
            codecs = {row["name"]: row for row in json.loads(result.read_text())}
    for transport in options.transport:
        for ranks in options.ranks:
            for link in options.links:
                place = {"transport": transport, "ranks": ranks, "link": link}
                for what, rows in _measure(options, **place).items():
                    rows = [{**codecs.get(row["name"], {}), **row} for row in rows]
                    _report(what, {**place, "per_host": options.per_host}, rows, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    strategies = [f"{n}:{ROUND_STEPS}" if n in HAVE_ROUNDS else n for n in STRATEGIES]
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--per-host", type=int, default=1, help="ranks on a host")
    parser.add_argument("--links", nargs="+", default=["200mbit", "1gbit"], help="10gbit: unshaped")
    parser.add_argument("--transport", nargs="+", choices=["gloo", "mpi"], default=["gloo"])
    parser.add_argument("--reducers", nargs="*", default=list(COMPRESSIONS))
    parser.add_argument("--strategies", nargs="*", default=strategies)
    parser.add_argument("--model", choices=["resnet18", "small"], default="resnet18")
    parser.add_argument("--compute", choices=["matmul", "sleep", "none"], default="matmul")
    parser.add_argument("--steps", type=int, default=8, help="of a stretch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="rows are appended")
    parser.add_argument("--timeout-s", type=float, default=3600, help="of a launch")
    return parser.parse_args()


def _measure(options: argparse.Namespace, transport: str, ranks: int, link: str) -> dict[str, Any]:
    hosts, odd = divmod(ranks, options.per_host)
    if odd or hosts < 1:
        raise SystemExit(f"{ranks} ranks cannot be dealt {options.per_host} to a host")
    names = ("reducers", "strategies", "model", "compute", "steps", "rounds")
    about = json.dumps({name: getattr(options, name) for name in names})
    with tempfile.TemporaryDirectory() as folder, hosts_with_links(hosts, link) as network:
        result = Path(folder) / "result.json"
        command = [*RANK, "ranks", about, str(result)]
        try:
            run_ranks(network, options.per_host, transport, command, options.timeout_s)
        except subprocess.SubprocessError as error:
            print(f"not finished: {str(error).rpartition(']')[2].strip() or error}")
        return json.loads(result.read_text()) if result.exists() else {}


def _report(what: str, place: dict, rows: Sequence[dict], options: argparse.Namespace) -> None:
    """Print a table, and append to the CSV if there is one."""
    load = f"{os.getloadavg()[0]:.1f}"
    place = {**place, "model": options.model, "steps": options.steps, "rounds": options.rounds}
    print(f"\n{what}: " + ", ".join(f"{k} {v}" for k, v in place.items()) + f", load {load}\n")
    print("| " + " | ".join(COLUMNS[what]) + " |\n|" + " --- |" * len(COLUMNS[what]))
    for row in rows:
        cells = [_cell(row.get(column, "")) for column in COLUMNS[what]]
        print("| " + " | ".join(cells) + " |")
    sys.stdout.flush()
    if options.csv:
        columns = [
            *PLACE,
            "what",
            *dict.fromkeys(c for columns in COLUMNS.values() for c in columns),
        ]
        is_new = not options.csv.exists()
        with options.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, columns)
            if is_new:
                writer.writeheader()
            writer.writerows({**place, "load": load, "what": what, **row} for row in rows)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
