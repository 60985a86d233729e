#!/usr/bin/env bash
# Entry point of the launcher pod of an MPIJob: launch/hosts.sh on the MPI Operator's hosts.
#
#   launch/mpijob.sh ARGUMENTS...
#
# Environment variables: LOCKSTEP_HOSTFILE (default /etc/mpi/hostfile), LOCKSTEP_WAIT_S (how many
# seconds workers may take to start, default 300), LOCKSTEP_INTERFACE (default eth0),
# LOCKSTEP_TERMINATION_LOG (for `kubectl describe pod`: why the launch ended, and the last lines of
# the rank that failed; default /dev/termination-log).
set -euo pipefail

export LOCKSTEP_TERMINATION_LOG=${LOCKSTEP_TERMINATION_LOG:-/dev/termination-log}
hostfile=${LOCKSTEP_HOSTFILE:-/etc/mpi/hostfile}
# Without hosts, mpirun and horovodrun would start all ranks here, in the launcher pod.
if ! grep -qs '^[^#]*[^#[:space:]]' -- "$hostfile"; then
  told="error: the MPI Operator's hostfile $hostfile is missing or names no worker, so all ranks \
would start in this launcher pod: is this pod the launcher of an MPIJob with Worker replicas?"
  if [[ -w $LOCKSTEP_TERMINATION_LOG ]]; then printf '%s\n' "$told" >"$LOCKSTEP_TERMINATION_LOG"; fi
  printf '%s\n' "$told" >&2
  exit 2
fi
exec "$(dirname "${BASH_SOURCE[0]}")/hosts.sh" --hostfile "$hostfile" --mpi \
  --wait "${LOCKSTEP_WAIT_S:-300}" --network-interface "${LOCKSTEP_INTERFACE:-eth0}" "$@"
