"""`python -m app network`: what collectives take between the ranks that it is started on."""

import argparse

from app.advice.units import option, positive
from app.commands.parser import add_json, add_output, results, whole_number
from app.distributed.launcher import read_launcher
from app.errors import UserError

MOST_MB, BUDGET_S = 64, 10.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much to measure."""
    parser.description = (
        "Measure latency, bandwidth and speed of reduction between the ranks of the launcher: "
        "collectives from 1 KB on, each fitted as alpha + beta * bytes; on several hosts also "
        "inside one, and across."
    )
    parser.usage = "python -m app network [--max-mb N] [--seconds S] [--output DIR] [--json]"
    parser.add_argument(
        "--max-mb",
        type=whole_number(1, 1024),
        default=MOST_MB,
        metavar="N",
        help=f"the largest size, in 2^20 bytes [{MOST_MB}]",
    )
    parser.add_argument(
        "--seconds",
        type=option(positive),
        default=BUDGET_S,
        metavar="S",
        help=f"about so long for each kind of collective; larger sizes are left out [{BUDGET_S:g}]",
    )
    add_output(parser, "DIR", "also write network.json and network.png there")
    add_json(parser, "the content of network.json")


def run(options: argparse.Namespace) -> None:
    """Measure on every rank."""
    if read_launcher().size == 1:
        raise UserError(
            "network measures between ranks, and this is one process: start it on several, such "
            "as launch/local.sh -n 2 network"
        )
    with results(options) as found:
        from app.advice.network import measure_network
        from app.distributed.devices import connect_configured

        world = connect_configured(by_host=True)
        most = options.max_mb * 2**20
        found.append(measure_network(world, most, options.seconds, options.output))
