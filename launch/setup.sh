#!/usr/bin/env bash
# Make the virtual environment that everything runs in, or find it ready.
#
#   launch/setup.sh REQUIREMENTS...      e.g. launch/setup.sh requirements.txt
#
# Environment variables: LOCKSTEP_VENV (default .venv), PYTHON (default python3),
# LOCKSTEP_HOROVOD (cpu or gpu; default cpu).
#
# The environment is trusted only if it carries a stamp of everything that went into it, and the
# stamp is written last: an interrupted set-up is started afresh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${LOCKSTEP_VENV:-.venv}
python=${PYTHON:-python3}
variant=${LOCKSTEP_HOROVOD:-cpu}

fail() { printf 'set-up: %s\n' "$*" >&2; exit 2; }

command -v "$python" >/dev/null || fail "no $python: install Python 3.11 to 3.13 (Debian: apt-get install python3 python3-venv python3-dev)"
base=$(readlink -f "$(command -v "$python")")
mpi=no
if echo '#include <mpi.h>' | mpicxx -E -x c++ - >/dev/null 2>&1; then mpi=yes; fi
wanted=$({ pwd; echo "$base $variant $mpi"; cat "$@" launch/setup.sh launch/horovod/build.sh \
  launch/horovod/include/tensorflow/compiler/xla/client/*.h; } | sha256sum)

ready() { [[ -x $venv/bin/python && $(cat "$venv/lockstep-ready" 2>/dev/null) == "$wanted" ]]; }

if ready; then exit 0; fi

# What is there is deleted below.
if [[ -n $(ls -A "$venv" 2>/dev/null) && ! -f $venv/pyvenv.cfg ]]; then
  fail "$venv is not a virtual environment: name another place in LOCKSTEP_VENV, or remove it"
fi
owner=$(cat "$venv/lockstep-clone" 2>/dev/null || true)
if [[ -n $owner && $owner != "$PWD" && -d $owner ]]; then
  fail "$venv is that of the clone in $owner: unset LOCKSTEP_VENV, or name another place in it"
fi

missing=()
command -v "${CXX:-g++}" >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
command -v flock >/dev/null || missing+=(util-linux)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
"$python" -c 'import os, sysconfig; os.stat(sysconfig.get_paths()["include"] + "/Python.h")' \
  2>/dev/null || missing+=(python3-dev)
if ((${#missing[@]})); then
  fail "missing packages: ${missing[*]} (Debian: apt-get install ${missing[*]})"
fi
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
  fail "$("$python" --version) is not supported: set PYTHON to a Python 3.11 to 3.13"

exec 9>"$venv.lock"
flock 9 # one set-up at a time; who waited finds it ready
if ready; then exit 0; fi

printf 'set-up: a virtual environment in %s, once (about 5 minutes) ...\n' "$venv" >&2
rm -rf "$venv"
"$python" -m venv "$venv"
pwd >"$venv/lockstep-clone"
log=$venv/setup.log
pip() {
  "$venv/bin/python" -m pip "$@" >>"$log" 2>&1 9>&- ||
    { tail -n 25 "$log" >&2; fail "pip $1 failed; whole log: $log"; }
}
packages=$venv/packages.txt
cat "$@" | grep -v '^horovod==' >"$packages"
[[ $variant == cpu ]] || sed -i 's/^tensorflow==/tensorflow[and-cuda]==/' "$packages"
pip install --disable-pip-version-check --no-cache-dir -r "$packages"
wheel=$(launch/horovod/build.sh "$(cd "$venv" && pwd)/bin/python" "$variant" 9>&-) || exit 2
pip install --disable-pip-version-check --no-index --no-deps --no-cache-dir "$wheel"
"$venv/bin/python" launch/horovod/check.py >>"$log" 2>&1 9>&- ||
  { tail -n 25 "$log" >&2; fail "Horovod was built but does not work; whole log: $log"; }
printf '%s\n' "$wanted" >"$venv/lockstep-ready.partial"
mv "$venv/lockstep-ready.partial" "$venv/lockstep-ready"
printf 'set-up: done\n' >&2
