#!/usr/bin/env bash
# Train asynchronously: workers change the variables that parameter servers hold, and do not wait
# for each other. On this machine, or over ssh on many hosts.
#
#   launch/parameter_servers.sh [-w WORKERS] [-s SERVERS] [-H HOSTS | --hostfile FILE]
#     [--network-interface NAME] [--port PORT] [--ssh-port PORT] [--ssh-identity FILE]
#     [--wait SECONDS] [--heartbeat-s S] train ARGUMENTS...
#   launch/parameter_servers.sh -w 3 train --recipe launch/recipes/digits.toml
#
# A worker that dies is started again; its batch is dealt to another. Messages, signals and exit
# codes are those of launch/local.sh. TensorFlow's servers ask nobody for a password: they listen on
# the loopback interface, or on the one interface that you name. See launch/cluster.py.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec python -P -m launch.cluster "$@"
