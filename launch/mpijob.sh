#!/usr/bin/env bash
# Entry point of the launcher pod of an MPIJob: launch/hosts.sh on the MPI Operator's hosts.
#
#   launch/mpijob.sh ARGUMENTS...                                  over MPI, on all workers
#   launch/mpijob.sh --elastic [--min-ranks N] [--max-ranks N] train ARGUMENTS...
#       over gloo, on the workers that run, while they fail, go and come
#
# Environment variables: LOCKSTEP_HOSTFILE (default /etc/mpi/hostfile), LOCKSTEP_DISCOVERY (default
# /etc/mpi/discover_hosts.sh), LOCKSTEP_WAIT_S (how many seconds workers may take to start, default
# 300), LOCKSTEP_INTERFACE (default eth0), LOCKSTEP_TERMINATION_LOG (for `kubectl describe pod`: why
# the launch ended, and the last lines of the rank that failed; default /dev/termination-log).
set -euo pipefail

export LOCKSTEP_TERMINATION_LOG=${LOCKSTEP_TERMINATION_LOG:-/dev/termination-log}
hostfile=${LOCKSTEP_HOSTFILE:-/etc/mpi/hostfile}
discovery=${LOCKSTEP_DISCOVERY:-/etc/mpi/discover_hosts.sh}
wait_s=${LOCKSTEP_WAIT_S:-300}

fail() {
  if [[ -w $LOCKSTEP_TERMINATION_LOG ]]; then
    printf 'error: %s\n' "$*" >"$LOCKSTEP_TERMINATION_LOG"
  fi
  printf 'error: %s\n' "$*" >&2
  exit 2
}

if [[ ${1:-} == --elastic ]]; then
  shift
  [[ -x $discovery ]] || fail "the MPI Operator's $discovery is missing: is this pod the launcher of \
an MPIJob?"
  # It names the pods that run, so none at first, where the launcher does not wait for them.
  until [[ -n $("$discovery" || true) ]]; do
    ((SECONDS < wait_s)) || fail "$discovery names no worker after $wait_s s: do their pods run?"
    ((SECONDS)) || printf 'waiting for %s to name a worker ...\n' "$discovery" >&2
    sleep 1
  done
  # It prints no slots; the operator tells Open MPI how many there are.
  options=(--discovery "$discovery" --slots-per-host "${OMPI_MCA_orte_set_default_slots:-1}")
else
  # Without hosts, mpirun and horovodrun would start all ranks here, in the launcher pod.
  grep -qs '^[^#]*[^#[:space:]]' -- "$hostfile" || fail "the MPI Operator's hostfile $hostfile is \
missing or names no worker, so all ranks would start in this launcher pod: is this pod the launcher \
of an MPIJob with Worker replicas?"
  options=(--hostfile "$hostfile" --mpi)
fi
exec "$(dirname "${BASH_SOURCE[0]}")/hosts.sh" "${options[@]}" --wait "$wait_s" \
  --network-interface "${LOCKSTEP_INTERFACE:-eth0}" "$@"
