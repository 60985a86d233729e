"""One long run with many checkpoints: does anything grow?

    python -m tests.benchmarks.soak [--minutes 60] [--ranks 4] [--every-s 20] [--csv soak.csv]
    python -m tests.benchmarks.soak --judge soak.csv

Trains `cnn` on made-up images with a checkpoint every so many seconds, and samples each rank and
the host every 10 s, until the time is over; then stops the run with SIGTERM. Every sample is a line
of the CSV file, so an interrupted soak can be judged too. The first fifth is warm-up. A quantity is
flat if its straight line rises by no more than its allowance over all that was sampled after it.
Further arguments go to `train`. Exit code 1 if something grows or the run ended by itself.
"""

import argparse
import contextlib
import csv
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from app.rundir.files import RunFiles, list_checkpoints
from tests.integration.launched import Launched, send

SAMPLE_S, END_S, WARM_UP = 10.0, 120.0, 0.2
MB = 1e6
# Epochs of some minutes: their ends have checkpoints too.
TRAIN = ["--dataset", "synthetic-image:size=16,examples=100000", "--width", "64",
         "--validation", "0.02", "--global-batch-size", "64", "--epochs", "100000",
         "--commit-every-steps", "50", "--keep-checkpoints", "3"]  # fmt: skip
# By the end of a quantity's name: how much it may rise. Logs and TensorBoard grow as a run does.
ALLOWED = {
    "memory MB": 15.0,
    "files": 1.5,
    "threads": 1.5,
    "/dev/shm MB": 1.0,
    "checkpoints MB": 1.0,
    "checkpoints": 1.0,
}
SHOWN_ONLY = float("inf")

Sample = dict[str, float]


def sample(launched: Launched, files: RunFiles) -> Sample:
    """What is measured at one moment; a rank that is gone has no value."""
    found: Sample = {}
    for rank, pid in enumerate(launched.ranks()):
        try:
            process = psutil.Process(pid)
            found[f"rank {rank} memory MB"] = process.memory_info().rss / MB
            found[f"rank {rank} files"] = process.num_fds()
            found[f"rank {rank} threads"] = process.num_threads()
        except psutil.Error:
            continue
    found["launcher memory MB"] = psutil.Process(launched.process.pid).memory_info().rss / MB
    found["launcher files"] = psutil.Process(launched.process.pid).num_fds()
    found["/dev/shm MB"] = shutil.disk_usage("/dev/shm").used / MB
    found["host free MB"] = psutil.virtual_memory().available / MB
    whole, kept = size_mb(files.directory), size_mb(files.checkpoints)
    found["checkpoints MB"], found["logs and TensorBoard MB"] = kept, whole - kept
    checkpoints = list_checkpoints(files.checkpoints)
    found["checkpoints"] = len(checkpoints)
    found["newest step"] = int(checkpoints[-1].name.rpartition("-")[2]) if checkpoints else 0
    return found


def size_mb(directory: Path) -> float:
    """What the files below hold; some may vanish meanwhile."""
    total = 0
    for place, _, names in os.walk(directory):  # which passes over what it cannot list
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total / MB


def soak(options: argparse.Namespace, more: list[str], work: Path) -> str | None:
    """Run and sample; returns what went wrong, or None."""
    files = RunFiles(work / "run")
    every = ["--checkpoint-every-minutes", f"{options.every_s / 60:.4f}"]
    arguments = ["train", "--run-dir", str(files.directory), *TRAIN, *every, *more]
    launched = Launched(options.ranks, arguments, work)
    try:
        until = time.monotonic() + END_S
        if not launched.reaches(lambda: bool(list_checkpoints(files.checkpoints)), until, 0.5):
            return f"the run ended before its first checkpoint\n{launched.text()[-4000:]}"
        _sampled(launched, files, options)
        if launched.process.poll() is not None:
            return f"the run ended by itself\n{launched.text()[-4000:]}"
        send(launched.process.pid, signal.SIGTERM)
        launched.ends(time.monotonic() + END_S)
        print(f"stopped with exit code {launched.process.returncode}")
        return "\n".join(launched.left_behind(killed=False)) or None
    except TimeoutError as error:
        return f"the run {error}\n{launched.text()[-4000:]}"
    finally:
        launched.end()


def _sampled(launched: Launched, files: RunFiles, options: argparse.Namespace) -> None:
    """Sample into the file until the time is over or the run ends."""
    began, names = time.monotonic(), None
    with Path(options.csv).open("w", newline="") as file:
        while (now := time.monotonic() - began) < 60 * options.minutes:
            try:
                found = {"seconds": round(now, 1), **sample(launched, files)}
            except psutil.Error:  # the launcher has ended
                return
            if names is None:
                names = list(found)
                writer = csv.DictWriter(file, names, extrasaction="ignore")
                writer.writeheader()
            writer.writerow({name: f"{value:.10g}" for name, value in found.items()})
            file.flush()
            next_at = began + SAMPLE_S * (int(now / SAMPLE_S) + 1)
            if not launched.reaches(lambda at=next_at: time.monotonic() >= at, until=float("inf")):
                return


def judge(path: Path) -> list[str]:
    """Print a table of the samples in a file; returns what grows."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) < 5:
        raise SystemExit(f"{path} holds {len(rows)} samples, too few to judge")
    used = rows[int(WARM_UP * len(rows)) :]
    hours = (float(used[-1]["seconds"]) - float(used[0]["seconds"])) / 3600
    print(f"{len(rows)} samples; {60 * hours:.1f} minutes after warm-up\n")
    print(f"{'':26}{'start':>10}{'middle':>10}{'end':>10}{'per hour':>12}")
    growing = []
    for name in rows[0]:
        taken = [row for row in used if row[name]]
        if name == "seconds" or len(taken) < 2:
            continue
        values = [float(row[name]) for row in taken]
        slope = (
            3600
            * statistics.linear_regression([float(row["seconds"]) for row in taken], values).slope
        )
        allowed = next((a for end, a in ALLOWED.items() if name.endswith(end)), SHOWN_ONLY)
        verdict = "" if allowed == SHOWN_ONLY else "flat"
        if slope * hours > allowed:
            verdict = "GROWS"
            growing.append(name)
        shown = "".join(f"{values[at]:10.1f}" for at in (0, len(values) // 2, -1))
        print(f"{name:26}{shown}{slope:12.1f}  {verdict}")
    print("\n" + (f"grows: {', '.join(growing)}" if growing else "all flat"))
    return growing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--every-s", type=float, default=20)
    parser.add_argument("--csv", default="soak.csv")
    parser.add_argument("--judge", type=Path, metavar="CSV")
    options, more = parser.parse_known_args()
    if options.judge:
        return bool(judge(options.judge))
    with tempfile.TemporaryDirectory(prefix="soak-") as work:
        wrong = soak(options, more, Path(work))
    grows = judge(Path(options.csv)) if Path(options.csv).exists() else []
    if wrong:
        print(f"\nWRONG: {wrong}")
    return 1 if wrong or grows else 0


if __name__ == "__main__":
    sys.exit(main())
