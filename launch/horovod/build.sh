#!/usr/bin/env bash
# Build the Horovod wheel that fits the TensorFlow of PYTHON, or take it from the cache.
# The last line printed is the wheel's path; progress goes to stderr.
#
#   launch/horovod/build.sh PYTHON [cpu|gpu]
#
# A Horovod binary is bound to the TensorFlow, Python, compiler, MPI and CUDA it was built
# with, so the cache key holds all of them. The cache lies outside the repository:
#   LOCKSTEP_CACHE   (default ${XDG_CACHE_HOME:-~/.cache}/lockstep)
# gpu reads CUDA_HOME (default /usr/local/cuda), and LOCKSTEP_CUDA_ARCHS (default 80,90).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${1:?usage: build.sh PYTHON [cpu|gpu]}
variant=${2:-cpu}
version=$(sed -n 's/^horovod==\([0-9.]*\).*/\1/p' "$here/../../requirements.txt")
cache=${LOCKSTEP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lockstep}/horovod

fail() { printf 'horovod: %s\n' "$*" >&2; exit 2; }

case $variant in cpu | gpu) ;; *) fail "unknown variant '$variant': cpu or gpu" ;; esac
command -v "${CXX:-g++}" >/dev/null || fail "no C++ compiler: install g++ (Debian: apt-get install g++)"
"$python" - <<'PY' || fail "Python's headers are missing: install python3-dev"
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
PY

export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1
mpi=none
if echo '#include <mpi.h>' | mpicxx -E -x c++ - >/dev/null 2>&1; then # headers may be missing
  export HOROVOD_WITH_MPI=1
  mpi=$(mpirun --version 2>/dev/null | sed -n '1s/[^0-9.]*//gp')
else
  export HOROVOD_WITHOUT_MPI=1
fi

cuda=none
if [[ $variant == gpu ]]; then
  cuda_home=${CUDA_HOME:-/usr/local/cuda}
  [[ -x $cuda_home/bin/nvcc ]] || fail "no nvcc under $cuda_home: install the CUDA toolkit or set CUDA_HOME"
  nccl=$("$python" -c 'import os, nvidia.nccl; print(list(nvidia.nccl.__path__)[0])' 2>/dev/null) ||
    fail "NCCL is missing in $python: pip install 'tensorflow[and-cuda]' of the same version"
  archs=${LOCKSTEP_CUDA_ARCHS:-80,90}
  cuda=$("$cuda_home/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')-$archs
fi

key=$("$python" - "$variant" "$version" "$mpi" "$cuda" <<'PY'
import importlib.metadata as metadata, platform, subprocess, os, sys
compiler = subprocess.check_output([os.environ.get("CXX", "g++"), "-dumpfullversion"], text=True)
libc = "-".join(platform.libc_ver())
print("_".join([*sys.argv[1:], "tf" + metadata.version("tensorflow"), sys.implementation.cache_tag,
                platform.machine(), libc, "gcc" + compiler.strip()]))
PY
)
recipe=$(cat "$here/build.sh" "$here"/include/tensorflow/compiler/xla/client/*.h | sha256sum | cut -c1-12)
home=$cache/${key}_$recipe
find_wheel() { compgen -G "$home/horovod-*.whl" || true; }

wheel=$(find_wheel)
if [[ -z $wheel ]]; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/building.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  if [[ $variant == gpu ]]; then
    mkdir -p "$work/nccl/lib"
    ln -s "$nccl/include" "$work/nccl/include"
    ln -s "$nccl/lib/libnccl.so.2" "$work/nccl/lib/libnccl.so"
    export HOROVOD_GPU=CUDA HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=$cuda_home
    export HOROVOD_NCCL_HOME=$work/nccl HOROVOD_NCCL_LINK=SHARED HOROVOD_BUILD_CUDA_CC_LIST=$archs
    export PATH=$cuda_home/bin:$PATH
    # horovod/tensorflow/*.so finds pip's NCCL beside it, with no LD_LIBRARY_PATH:
    export LDFLAGS="-Wl,-rpath,\$ORIGIN/../../nvidia/nccl/lib${LDFLAGS:+ $LDFLAGS}"
  fi
  printf 'building Horovod %s (%s, MPI %s, CUDA %s): about 3 minutes, once ...\n' \
    "$version" "$variant" "$mpi" "$cuda" >&2
  export CPLUS_INCLUDE_PATH=$here/include${CPLUS_INCLUDE_PATH:+:$CPLUS_INCLUDE_PATH}
  PATH=$(dirname "$python"):$PATH MAKEFLAGS=${MAKEFLAGS:--j$(nproc)} "$python" -m pip wheel --no-deps \
    --no-build-isolation --no-cache-dir --no-binary horovod "horovod==$version" -w "$work/wheel" \
    >"$work/log" 2>&1 || { cp "$work/log" "$cache/failed.log"; tail -n 40 "$work/log" >&2
      fail "the build failed; whole log: $cache/failed.log"; }
  # Only a finished wheel ever carries its final name.
  mv -T "$work/wheel" "$home" 2>/dev/null || true # another set-up may have been faster
  wheel=$(find_wheel)
  [[ -n $wheel ]] || fail "no wheel in $home: is the disk full?"
fi
printf '%s\n' "$wheel"
