"""From the command to the first step, here and in another checkout, in turns.

    python -m tests.benchmarks.start OTHER [--rounds 5] [--ranks 2]

OTHER is a checkout of Lockstep, such as one of before a change: git worktree add OTHER COMMIT. Both
run in the environment of this Python. Prints seconds of each round, and the median ratio.
"""

import argparse
import datetime
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
STEP = re.compile(r"^(\S+) rank 0 INFO lockstep: step 1 ", re.MULTILINE)


def seconds(checkout: Path, ranks: int) -> tuple[float, float]:
    """(until the first step of digits was reported, until the launcher's end)."""
    with tempfile.TemporaryDirectory() as work:
        command = ["launch/local.sh", "-n", str(ranks), "train", "--dataset", "digits"]
        command += ["--epochs", "1", "--log-every-steps", "1", "--run-dir", f"{work}/run"]
        environ = {**os.environ, "LOCKSTEP_VENV": sys.prefix, "TF_CPP_MIN_LOG_LEVEL": "3"}
        began, clock = time.time(), time.monotonic()
        subprocess.run(command, cwd=checkout, env=environ, check=True, stdout=subprocess.DEVNULL)
        log = Path(work, "run", "logs", "rank-000.log").read_text()
        first = STEP.search(log)
        assert first, log
        at = datetime.datetime.fromisoformat(first[1]).timestamp()
        return at - began, time.monotonic() - clock


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    ratios = []
    for number in range(options.rounds):
        here, other = (seconds(one, options.ranks) for one in (HERE, options.other))
        ratios.append(here[0] / other[0])
        print(
            f"round {number + 1}: first step after {here[0]:.1f} s here, {other[0]:.1f} s there; "
            f"end after {here[1]:.1f} s, {other[1]:.1f} s",
            flush=True,
        )
    print(f"median ratio of the time to the first step: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
