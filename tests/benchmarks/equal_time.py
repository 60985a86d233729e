"""Which part of a training `none` gets done in the time that other ways to communicate need.

    python -m tests.benchmarks.equal_time [--dataset digits] [--link 200mbit] [--ranks 2]
        [--only none topk local:8 ...] [--seconds 3]

Times steps of the trainings of convergence.py between hosts joined by links of a stated speed
(links.py). For each way it prints the milliseconds of a step, and the epochs for which `none` would
have to be trained to take as long as the way's own: the accuracy after equal time is that of
`convergence --only none epochs=N`. Needs root.
"""

import argparse
import json
import os
import subprocess
import sys

from app.columns import columns
from tests.benchmarks.convergence import CONFIGS, keys_of
from tests.benchmarks.links import hosts_with_links, run_ranks

WAYS = ["none", "int8", "topk", "powersgd", "local:8"]


def main() -> None:
    """Start ranks that measure, or be one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--dataset", choices=list(CONFIGS), default="digits")
    parser.add_argument("--link", default="200mbit")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=WAYS)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        _measure(**json.loads(options.rank))
        return
    place = os.environ.get("LOCKSTEP_TFDS_DIR")
    keys = CONFIGS[options.dataset] | ({"data_dir": place} if place else {})
    about = {"keys": keys, "labels": options.only, "seconds": options.seconds}
    command = [sys.executable, "-m", "tests.benchmarks.equal_time", "--rank", json.dumps(about)]
    with hosts_with_links(options.ranks, options.link) as network:
        run_ranks(network, 1, "gloo", command, timeout_s=600)


def _measure(keys: dict[str, str], labels: list[str], seconds: float) -> None:
    from app.advice.trial import time_steps
    from app.distributed.devices import connect_configured
    from app.load import load_data
    from app.recipe import load

    world = connect_configured()
    data = load_data(load(None, keys), world)
    epochs, rows = float(keys["epochs"]), [["", "ms per step", "epochs of the first as long"]]
    first = 0.0
    for label in labels:
        took = time_steps(load(None, keys | keys_of(label)), data, world, seconds).seconds
        first = first or took
        rows.append([label, f"{1e3 * took:.1f}", f"{epochs * took / first:.1f}"])
    if world.is_chief:
        print(columns(rows, numbers=True), flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"a rank failed: {error}")
