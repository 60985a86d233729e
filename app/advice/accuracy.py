"""What ways to communicate are known to cost in accuracy. The one place of these numbers.

Mean test accuracy on digits in percent, 30 epochs, 4 ranks. With SGD, `none`, int8, topk, powersgd
and local are means of 8 seeds by this code (`python -m tests.benchmarks.convergence`; the interval
of a difference is about 0.2 points). The others, and all with Adam, are of prototypes with 3 seeds,
set off against `none` as they were there: differences below about 0.3 points say nothing. Other
data, longer training or more ranks may show others.
"""

from typing import NamedTuple

# The same numbers as one worker would get, but for the order of additions.
EXACT = ("none", "every_step", "hierarchical")
SOURCE = "digits, 4 ranks, means of 8 or 3 seeds"
BASE = {"sgd": 98.9, "adam": 98.4}
# By compression or sync: the accuracy with SGD, and with Adam where it was measured.
SEEN: dict[str, dict[str, float]] = {
    "fp16": {"sgd": 98.9},
    "int8": {"sgd": 99.0, "adam": 98.6},
    "topk": {"sgd": 98.6, "adam": 97.0},
    "powersgd": {"sgd": 99.0, "adam": 98.4},
    "terngrad": {"sgd": 98.8},
    "overlapped": {"sgd": 98.0, "adam": 98.5},
    "local": {"sgd": 98.9},
    "delayed": {"sgd": 99.1},
}
ROUND_SEEN = 8  # steps; with 22 prototypes lost 0.2 points, with 50 0.1
# What is known beside that.
NOTES = {
    "topk": "loses more under Adam; 1.7 points on CIFAR-10 after 5 epochs, 0.9 with "
    "compress_from_epoch = 1, nothing on CLINC150 (3 seeds each)",
    "local": "0.5 points on CLINC150 (3 seeds); 3 on CIFAR-10 with rounds of 50 steps, "
    "and 2 with Adam on digits (1 seed each)",
    "delayed": "2 points with Adam on digits (1 seed)",
    "powersgd": "0.7 points on CIFAR-10 after 5 epochs, 0.3 on CLINC150 (3 seeds each)",
    "terngrad": "loses to int8 above 8 ranks",
}

ASYNCHRONOUS = (
    "where workers are uneven, or come and go: launch/parameter_servers.sh, in which nobody waits "
    "for a slow one (not tried here; 2 and 3 workers, 3 seeds: nothing lost on digits; on CIFAR-10 "
    "after 3 epochs 6.5 and 10 points with Adam, 13.5 and 18 with SGD)"
)


class Cost(NamedTuple):
    """Points of accuracy that were lost (0 if none, None if never measured), and in words."""

    points: float | None
    text: str


def is_exact(name: str) -> bool:
    """Whether a compression or sync leaves the update what it is on one worker, at every step."""
    return name in EXACT


def inexact(compression: str, sync: str, steps: int = 1) -> list[str]:
    """Which of the two change what is learned, by their names in `SEEN`; `steps`: of a round."""
    if sync == "hierarchical" and steps > 1:
        sync = "local"  # between hosts, which take steps of their own
    return [name for name in (compression, sync) if not is_exact(name)]


def cost_of(compression: str, sync: str, optimizer: str, steps: int = 1) -> Cost:
    """What is known of a combination under an optimizer, "sgd" or another; AdamW counts as Adam.

    A combination of two that both change what is learned is taken for the sum of them, which
    nobody has measured.
    """
    names = inexact(compression, sync, steps)
    if not names:
        return Cost(0.0, "none: the update of one worker")
    optimizer = "adam" if optimizer == "adamw" else optimizer
    base, lost, texts = BASE.get(optimizer, 0.0), 0.0, []
    unknown = False
    for name in names:
        seen = SEEN.get(name, {}).get(optimizer)
        if seen is None:
            unknown = True
            texts.append(f"{name}: not measured with {optimizer}")
            if "sgd" in SEEN.get(name, {}):
                texts[-1] += f", {SEEN[name]['sgd']:.1f} against {BASE['sgd']:.1f} with sgd"
        else:
            lost += max(0.0, round(base - seen, 3))
            texts.append(f"{name}: {seen:.1f} against {base:.1f}")
        if name in NOTES:
            texts[-1] += f" ({NOTES[name]})"
    return Cost(None if unknown else lost, "; ".join(texts))
