#!/usr/bin/env bash
# Build the CUDA + NCCL variant of Horovod and load it. Needs nvcc, but no GPU.
#
#   launch/horovod/check_gpu.sh
#
# Environment variables: PYTHON (default python3), and those of build.sh. It uses a
# temporary virtual environment (about 6 GB), beside build.sh's cache of wheels.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-python3}
cache=${LOCKSTEP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lockstep}
cuda_home=${CUDA_HOME:-/usr/local/cuda}

fail() { printf 'horovod-gpu: %s\n' "$*" >&2; exit 2; }

[[ -x $cuda_home/bin/nvcc ]] ||
  fail "no nvcc under $cuda_home: install the CUDA toolkit or set CUDA_HOME"
command -v "$python" >/dev/null || fail "no $python: install Python 3.11 to 3.13, or set PYTHON"

mkdir -p "$cache"
work=$(mktemp -d "$cache/checking.XXXXXX")
trap 'rm -rf "$work"' EXIT
printf 'horovod-gpu: TensorFlow with its CUDA libraries, in %s ...\n' "$work" >&2
"$python" -m venv "$work/venv" || fail "no virtual environment: install python3-venv"
sed -e 's/^tensorflow==/tensorflow[and-cuda]==/' -e '/^horovod==/d' requirements.txt \
  >"$work/requirements.txt"
pip() {
  "$work/venv/bin/python" -m pip --disable-pip-version-check "$@" >"$work/log" 2>&1 ||
    { tail -n 25 "$work/log" >&2; fail "pip $1 failed"; }
}
pip install --no-cache-dir -r "$work/requirements.txt"
wheel=$(launch/horovod/build.sh "$work/venv/bin/python" gpu) || exit 2
pip install --no-cache-dir --no-index --no-deps "$wheel"

# A fresh process that is not told where NVIDIA's libraries are.
unset LD_LIBRARY_PATH
export TF_CPP_MIN_LOG_LEVEL=3
"$work/venv/bin/python" - <<'PY' || fail "$wheel was built but does not load"
import horovod.tensorflow as hvd

print(f"horovod-gpu: loaded; NCCL {hvd.nccl_built()}, CUDA {hvd.cuda_built()}, "
      f"gloo {hvd.gloo_built()}, MPI {hvd.mpi_built()}")
assert hvd.nccl_built() and hvd.cuda_built() and hvd.gloo_built()
PY
"$work/venv/bin/python" launch/horovod/check.py 2>"$work/log" ||
  { tail -n 25 "$work/log" >&2; fail "$wheel loads, but two ranks cannot reduce over gloo"; }
printf 'horovod-gpu: %s works\n' "$wheel"
