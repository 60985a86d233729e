#!/usr/bin/env bash
# Run `python -m app ARGUMENTS...` on ranks of many hosts, over ssh, after checking the hosts.
#
#   launch/hosts.sh (-H HOSTS | --hostfile FILE | --discovery SCRIPT [--slots-per-host N])
#     [--gloo|--mpi] [--ssh-port PORT] [--ssh-identity FILE] [--network-interface NAME]
#     [--wait SECONDS] [--min-ranks N] [--max-ranks N] [--heartbeat-s S] ARGUMENTS...
#   launch/hosts.sh -H gpu1:4,gpu2:4 train --recipe launch/recipes/digits.toml
#
# Everything else is as in launch/local.sh. See launch/start.py.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec python -P -m launch.start hosts "$@"
