"""An elastic run to which anything happens at any moment: it must end as if nothing had.

    python -m tests.benchmarks.chaos [--runs 50] [--seed 0] [--events 4] [--hosts] [--kinds ...]
    python -m tests.benchmarks.chaos --times [--each 10] [--hosts]
    python -m tests.benchmarks.chaos --goodput MINUTES

Trains digits on three ranks of this host, or with --hosts on three network namespaces over ssh, and
has events (chaos_events.py) happen at random moments of training and of the recovery from the
events before. A run that was told to stop, or whose supervisor was killed, is started again with
--resume. What must hold (tests/integration/elastic.py): exit code 0, the steps of an undisturbed
run, every example exactly once in each epoch of what counted, equal bits on all ranks whenever a
world begins, one result, nothing left behind. Exit code 1 if anything was wrong; the files stay.

--times: how long until the next step, by kind of event; see chaos_times.py. --goodput: see
chaos_goodput.py. Needs root, for a disk that is full and for --hosts.
"""

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from app.errors import STOPPED
from tests.benchmarks.chaos_events import ANYWHERE, ON_HOSTS
from tests.benchmarks.chaos_goodput import compare_goodput
from tests.benchmarks.chaos_run import LAUNCH_S, STEPS_PER_EPOCH, Run, small_disk, three_hosts
from tests.benchmarks.chaos_times import measure_times
from tests.cluster.conftest import Hosts

EPOCHS, SLOW_MS, LONGEST_S = 30, 150, 8.0
DISK = "disk"  # of the runs in which it is full, in the benchmark's directory


def disturb(run: Run, kinds: list[str], rng: random.Random) -> list[str]:
    """Have these events happen, one after the other, and the run come to its end; returns what
    happened."""
    happened = []
    run.story.slow(SLOW_MS)
    run.start()
    for kind in kinds:
        if not _trains(run):
            break
        time.sleep(rng.uniform(0.0, LONGEST_S))
        if run.launched.process.poll() is None:
            step, about = run.story.step, ON_HOSTS[kind](run, rng)
            happened.append(f"{kind} {about}".strip() + f" at {step}")
    run.story.slow(0)
    while True:
        run.launched.ends(time.monotonic() + LAUNCH_S)
        if not _starts_again(run):
            return happened


def _trains(run: Run) -> bool:
    """Wait until this launch trains; start another one if it was ended by an event. False if the
    run has ended."""
    while True:
        has_trained = run.waits_for(lambda: any(n["what"] == "done" for n in newest_launch(run)))
        if has_trained and run.launched.process.poll() is None:
            return True
        if not _starts_again(run):
            return False


def newest_launch(run: Run) -> list[dict]:
    """The notes since the newest launch began."""
    return [note for note in run.story.notes if note["at"] > run.launched.began]


def _starts_again(run: Run) -> bool:
    """Start a run again that was told to stop or whose supervisor was killed."""
    code = run.launched.process.returncode
    if code not in (STOPPED, -signal.SIGKILL) and not (code and run.is_told_to_stop):
        return False
    run.waits_for_nobody()
    run.start()
    return True


def one(number: int, options: argparse.Namespace, hosts: Hosts | None, work: Path) -> bool:
    """One run; prints its row. Whether all was well."""
    rng = random.Random(f"{options.seed}/{number}")
    kinds = [rng.choice(options.kinds) for _ in range(options.events)]
    folder = work / f"run-{number}"
    run, began = Run(folder, hosts, EPOCHS), time.monotonic()
    if "disk" in kinds:
        run.directory = work / DISK / "run"
    happened: list[str] = []
    try:
        happened = disturb(run, kinds, rng)
        code = run.launched.process.returncode
        wrong = run.problems() if code == 0 else [f"exit code {code}"]
    except TimeoutError as error:
        wrong = [str(error)]
    finally:
        run.end()
        if "disk" in kinds:
            shutil.move(run.directory, folder / "run")
    worlds, restarts = len(run.story.worlds()), run.text.count("restarting all ranks")
    told = f"{number:3} {time.monotonic() - began:5.0f} s {worlds:3} worlds {restarts:2} restarts"
    print(f"{told}  {'; '.join(happened)}", flush=True)
    for problem in wrong:
        print(f"      WRONG: {problem}", flush=True)
    if wrong:
        (folder / "output.txt").write_text(f"{run.text}\n{run.story}\n")
    else:
        shutil.rmtree(folder)
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--events", type=int, default=4, help="in each run")
    parser.add_argument("--kinds", type=lambda text: text.split(","))
    parser.add_argument("--hosts", action="store_true")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--each", type=int, default=10, help="how often for --times")
    parser.add_argument("--goodput", type=float, metavar="MINUTES")
    options = parser.parse_args()
    options.kinds = options.kinds or [*(ON_HOSTS if options.hosts else ANYWHERE)]
    if unknown := {*options.kinds} - {*(ON_HOSTS if options.hosts else ANYWHERE)}:
        parser.error(f"--kinds: there is no {sorted(unknown)[0]}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that blocks end then too
    work = Path(tempfile.mkdtemp(prefix="chaos-"))
    if options.goodput:
        compare_goodput(work, options.goodput, options.seed)
        return 0
    with contextlib.ExitStack() as stack:
        if "disk" in options.kinds and not options.times:
            stack.enter_context(small_disk(work / DISK))  # hosts see no disk that comes later
        hosts = stack.enter_context(three_hosts()) if options.hosts else None
        if options.times:
            measure_times(work, hosts, options.each)
            return 0
        numbers = range(options.first, options.first + options.runs)
        good = sum([one(number, options, hosts, work) for number in numbers])
    print(f"{good} of {options.runs} runs took the {EPOCHS * STEPS_PER_EPOCH} steps of an "
          "undisturbed one, every example once, with equal bits on all ranks")  # fmt: skip
    if good < options.runs:
        print(f"the files of the others are in {work}")
    return int(good < options.runs)


if __name__ == "__main__":
    sys.exit(main())
