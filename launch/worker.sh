#!/usr/bin/env bash
# A worker pod: sshd on port 2222, through which the launcher starts ranks; by key only, as the
# current user. Only /tmp needs to be writable. On SIGTERM, which only process 1 of a pod gets, its
# ranks are asked to stop, and the connection to the launcher stays until they have.
#
#   launch/worker.sh
set -euo pipefail

fail() { printf 'worker: %s\n' "$*" >&2; exit 2; }

config=/etc/lockstep/sshd_config
[[ -r $config ]] || fail "no $config: this is for the container that the Dockerfile builds"
[[ $(id -u) != 0 ]] || fail "running as root: run it as the image's user, 1000 (runAsUser: 1000)"
[[ -s ~/.ssh/authorized_keys ]] ||
  fail "no ~/.ssh/authorized_keys for $(id -un): mount the job's keys there (sshAuthMountPath: ~/.ssh)"
keys=$(mktemp -d) || fail "cannot write to ${TMPDIR:-/tmp}: mount an emptyDir there"
# Made at every start: a key in the image would be known to everybody.
ssh-keygen -q -t ed25519 -N '' -f "$keys/host_key"
/usr/sbin/sshd -D -e -f "$config" -h "$keys/host_key" &
sshd=$!

# The agents of this pod's ranks (launch/rank.py).
agents() {
  local folder words
  for folder in /proc/[0-9]*; do
    words=$(tr '\0' ' ' 2>/dev/null <"$folder/cmdline") || continue
    if [[ $words == *"-m launch.rank "* ]]; then printf '%s\n' "${folder#/proc/}"; fi
  done
}

stop() {
  trap '' TERM
  local pid second
  for pid in $(agents); do kill -TERM "$pid" 2>/dev/null || true; done
  for ((second = 0; second < 25; second++)); do
    [[ -n $(agents) ]] || break
    sleep 1
  done
  kill -TERM "$sshd" 2>/dev/null || true
  exit 0
}
trap stop TERM
wait "$sshd"
