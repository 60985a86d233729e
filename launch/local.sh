#!/usr/bin/env bash
# Run `python -m app ARGUMENTS...` on ranks of this machine, over gloo, or MPI with mpirun.
#
#   launch/local.sh [-n N] [--gloo|--mpi] [--min-ranks N] [--max-ranks N] [--heartbeat-s S]
#     ARGUMENTS...
#   launch/local.sh -n 2 train --recipe launch/recipes/digits.toml
#
# Unlike plain horovodrun: without -n every GPU gets a rank; the progress bar reaches your terminal;
# the output of rank 0 has no prefix; after a failure, the last line says why the first rank failed;
# the exit code is the application's (2: your input; 75: stopped). See launch/start.py.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec python -P -m launch.start local "$@"
