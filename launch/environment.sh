# shellcheck shell=bash
# Sourced by the launch scripts: finds the Python of Lockstep's environment.
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${LOCKSTEP_VENV:-$home/.venv}
if [[ -d $venv ]]; then PATH=$(cd "$venv" && pwd)/bin:$PATH; fi
if ! command -v horovodrun >/dev/null; then
  printf "error: horovodrun is missing: run 'make setup' in %s, or install horovod==0.28.1\n" \
    "$home" >&2
  exit 2
fi
export PATH PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH}
