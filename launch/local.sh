#!/usr/bin/env bash
# Run `python -m app ARGUMENTS...` on N workers of this machine with horovodrun.
#
#   launch/local.sh [-n N] [--gloo|--mpi] ARGUMENTS...
#   launch/local.sh -n 2 train --recipe launch/recipes/digits.toml
#
# Differs from plain horovodrun in four things: the progress bar reaches your terminal, the
# output of rank 0 has no prefix, the exit code is the application's (2: your input), and
# --timeline is the application's.
set -euo pipefail

usage() { sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

ranks=2
transport=--gloo
while (($#)); do
  case $1 in
    -n) [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "-n needs a number of ranks, got '${2:-}'"
      ranks=$2; shift 2 ;;
    --gloo | --mpi) transport=$1; shift ;;
    -h | --help) usage; exit 0 ;;
    *) break ;;
  esac
done
(($#)) || { usage >&2; exit 2; }

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${LOCKSTEP_VENV:-$home/.venv}
[[ -d $venv ]] && PATH=$(cd "$venv" && pwd)/bin:$PATH
command -v horovodrun >/dev/null ||
  fail "horovodrun is missing: run 'make setup' in $home, or install horovod==0.28.1"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LOCKSTEP_EXIT_CODE_FILE=$work/code TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
export PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH}
if [[ -t 1 ]]; then
  LOCKSTEP_TERMINAL=$(tty) && export LOCKSTEP_TERMINAL
fi
if [[ -t 2 && " $* " != *' --quiet '* ]]; then printf 'starting %s rank(s) ...\n' "$ranks" >&2; fi
options=()
if [[ $transport == --mpi ]]; then
  mpi=''
  if [[ $(id -u) == 0 ]]; then mpi='--allow-run-as-root'; fi
  # A waiting rank of Open MPI spins; with more ranks than cores it must let the others compute.
  if ((ranks > $(nproc))); then mpi+=' --oversubscribe --mca mpi_yield_when_idle 1'; fi
  if [[ $mpi ]]; then options=("--mpi-args=$mpi"); fi
fi

# gloo prefixes a line with [RANK]<stdout>:, MPI with [JOB,RANK]<stdout>:
# MPI also where a write was split.
strip='s/^\[0\]<std\(out\|err\)>://; s/\[[0-9]*,0\]<std\(out\|err\)>://g'
end_of_rank='^Process [0-9]* exit with status code\|^Terminating remaining workers after failure'
echo_of_others='Horovod background loop uncaught exception\|<stderr>:Terminated$'
# As one word: horovodrun takes --timeline, even behind the command, for an option of its own.
printf -v command '%q ' exec python -m app "$@"
{
  {
    set +e
    horovodrun -np "$ranks" "$transport" "${options[@]}" bash -c "$command"
    echo $? >"$work/launcher"
  } 2>&1 >&3 | tee "$work/stderr" |
    sed -un "$strip; t show; /^\[[0-9,]*\]<std/b show; d; :show; /$echo_of_others/d; p" >&2
} 3>&1 | sed -u "/$end_of_rank/d; $strip"

code=$(cat "$work/launcher")
if [[ -s $work/code ]]; then
  exit "$(cat "$work/code")"
fi
if ((code)); then tail -n 15 "$work/stderr" >&2; fi
exit "$code"
