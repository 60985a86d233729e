"""How well `advise` predicts and chooses: on links of a stated speed, as communication.py has them.

    python -m tests.benchmarks.advice --links 50mbit 200mbit 1gbit 10gbit --ranks 2 4

Needs root and iproute2. Prints a row for each case: the errors of predicted step times, and how
much slower the recommended way is than the fastest that was tried (by up to 15% on purpose). By how
much the computing itself has changed from before the tries to after them says whether the machine
was quiet.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from app.columns import columns
from tests.benchmarks.links import hosts_with_links, run_ranks

DEFAULT = ["--recipe", "launch/recipes/digits.toml"]


def main() -> None:
    """Run all cases, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--links", nargs="+", default=["50mbit", "200mbit", "1gbit", "10gbit"])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2])
    parser.add_argument("--per-host", type=int, default=1)
    parser.add_argument("--transport", default="gloo", choices=["gloo", "mpi"])
    parser.add_argument("--timeout-s", type=float, default=600)
    options, advise = parser.parse_known_args()
    rows = [
        [
            "link",
            "ranks",
            "load",
            "computing",
            "errors of step times",
            "recommended",
            "slower than best",
        ]
    ]
    for link in options.links:
        for ranks in options.ranks:
            found = _advise(link, ranks, options, advise or DEFAULT)
            rows.append([link, str(ranks), f"{os.getloadavg()[0]:.0f}", *_judged(found)])
            print(columns(rows[-1:]), flush=True)
    print(columns(rows))


def _advise(link: str, ranks: int, options: argparse.Namespace, advise: list[str]) -> Any:
    hosts = ranks // options.per_host
    with tempfile.TemporaryDirectory() as folder, hosts_with_links(hosts, link) as network:
        command = [sys.executable, "-m", "app", "advise", *advise, "--output", folder]
        run_ranks(network, options.per_host, options.transport, command, options.timeout_s)
        return json.loads((Path(folder) / "advice.json").read_text())


def _judged(found: dict[str, Any]) -> list[str]:
    tried = found["tried"]
    errors = [f"{one['predicted_s'] / one['measured_s'] - 1:+.0%}" for one in tried]
    times = {one["label"]: one["measured_s"] for one in tried}
    best = found["recommended"]
    label = f"{best['compression']}, {best['sync']}"
    label += f" every {best['round']} steps" if best["round"] > 1 else ""
    drift = f"{found['compute_after_s'] / found['compute_s'] - 1:+.0%}"
    return [drift, " ".join(errors), label, f"{times[label] / min(times.values()) - 1:.0%}"]


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"a rank failed: {error}")
