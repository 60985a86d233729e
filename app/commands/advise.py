"""`python -m app advise`: which compression and sync pay, here or on another cluster."""

import argparse
from typing import Any

from app.advice.units import bandwidth, duration, option, positive, share
from app.commands.parser import (
    add_json,
    add_output,
    add_recipe,
    refuse_launcher,
    results,
    whole_number,
)
from app.distributed.launcher import read_launcher
from app.errors import UserError
from app.recipe import add_flags, given_keys, load

LATENCY, LOCAL_LATENCY = "20us", 5e-6
# Of a cluster, and the option that each of them is of use with.
NEEDS = {
    "bandwidth": "workers",
    "latency": "workers",
    "per_host": "workers",
    "local_bandwidth": "per_host",
    "compute_ms": "workers",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is asked for, and flags for every key of a config."""
    parser.description = (
        "Measure the computing of a model and the network between the ranks of the launcher, "
        "predict the step time of every compression and sync, try the best few, and recommend. "
        "Rounds are of 8 steps, or as the config has them (--sync local --sync-every-steps N). "
        "With --workers: predict for a cluster that is not there, in this process alone."
    )
    parser.usage = (
        "python -m app advise [--recipe FILE] [--tries N] [--seconds S] [--overlap X] "
        "[--workers N --bandwidth B [--latency T] [--per-host N --local-bandwidth B] "
        "[--compute-ms T]] [--published] [--output DIR] [--json] [--KEY VALUE ...]"
    )
    add_recipe(parser)
    parser.add_argument(
        "--tries", type=whole_number(1, 30), default=4, metavar="N", help="ways to try [4]"
    )
    _add(parser, "--seconds", positive, "S", "how long to try each [5]", default=5.0)
    _add(
        parser,
        "--overlap",
        share,
        "X",
        "the share of the computing that an exchange at every step is assumed to run beside: 0 on "
        "CPUs, up to 0.67 (the backward pass) where a GPU computes [0]",
        default=0.0,
    )
    parser.add_argument("--workers", type=whole_number(2, 1_000_000), metavar="N", help="ranks")
    _add(parser, "--bandwidth", bandwidth, "B", "of a host's link to the others, such as 25Gbit")
    _add(parser, "--latency", duration, "T", f"of a message between hosts [{LATENCY}]")
    parser.add_argument(
        "--per-host", type=whole_number(1, 1024), metavar="N", help="ranks on each host [1]"
    )
    _add(parser, "--local-bandwidth", bandwidth, "B", "between ranks of a host, such as 300Gbit")
    _add(parser, "--compute-ms", positive, "T", "a step without exchange; default: measured here")
    parser.add_argument(
        "--published",
        action="store_true",
        help="show Horovod's published efficiency on 512 GPUs beside this model of costs, and end",
    )
    add_output(parser, "DIR", "also write advice.json and advice.png there")
    add_json(parser, "the content of advice.json")
    add_flags(parser)


def _add(parser: Any, flag: str, read: Any, metavar: str, text: str, default: Any = None) -> None:
    parser.add_argument(flag, type=option(read), default=default, metavar=metavar, help=text)


def run(options: argparse.Namespace) -> None:
    """Advise on every rank, or for a cluster in this process."""
    check_options(options)
    if options.published:
        refuse_launcher("advise --published")
        show_published()
        return
    with results(options) as found:
        config = load(options.recipe, given_keys(options))
        launched = read_launcher()
        if options.workers:
            refuse_launcher("advise --workers")
        elif launched.size == 1:
            raise UserError(
                "advise measures between ranks, and this is one process: start it on several, such "
                "as launch/local.sh -n 2 advise, or describe a cluster with --workers and "
                "--bandwidth"
            )
        if launched.rank == 0:
            from app.preflight import check

            check(config, False, launched.size)
        found.append(_advise(config, options))


def check_options(options: argparse.Namespace) -> None:
    """Raise UserError for options that need another."""
    for name, other in NEEDS.items():
        if getattr(options, name) is not None and getattr(options, other) is None:
            raise UserError(f"--{_flag(name)} needs --{_flag(other)}", shared=True)
    if options.workers is None:
        return
    if options.bandwidth is None:
        raise UserError("--workers needs --bandwidth, such as 25Gbit", shared=True)
    per_host = options.per_host or 1
    if per_host > 1 and options.local_bandwidth is None:
        raise UserError("--per-host needs --local-bandwidth, such as 300Gbit", shared=True)
    if options.workers % per_host:
        raise UserError(
            f"--workers {options.workers} cannot be dealt to hosts of {per_host}: use a multiple "
            "of --per-host",
            shared=True,
        )


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _advise(config: Any, options: argparse.Namespace) -> dict[str, Any]:
    from app.advice.advise import Wanted, advise_cluster, advise_here

    wanted = Wanted(options.tries, options.seconds, options.overlap, options.output)
    if options.workers:
        compute_s = options.compute_ms and options.compute_ms / 1e3
        return advise_cluster(config, cluster_of(options), compute_s, wanted)
    from app.distributed.devices import connect_configured

    return advise_here(config, connect_configured(by_host=True), wanted)


def cluster_of(options: argparse.Namespace) -> Any:
    """The `Cluster` that the options describe."""
    from app.advice.model import Cluster, Line

    latency = duration(LATENCY) if options.latency is None else options.latency
    across = Line(latency, 1 / options.bandwidth)
    local = Line(LOCAL_LATENCY, 1 / (options.local_bandwidth or options.bandwidth))
    return Cluster(options.workers, across, local, options.per_host or 1)


def show_published() -> None:
    """Print the table, and what was assumed."""
    from app.advice import published
    from app.columns import columns

    print(columns(published.table(), numbers=True))
    print("\n" + (published.__doc__ or "").partition("\n\n")[2].strip())
