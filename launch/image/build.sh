#!/usr/bin/env bash
# In the Dockerfile's builder: what launch/setup.sh makes, without what only the build needs.
#
#   launch/image/build.sh VENV     (LOCKSTEP_HOROVOD: cpu or gpu)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export LOCKSTEP_VENV=${1:?usage: build.sh VENV}
python=$LOCKSTEP_VENV/bin/python

# gloo crashes if the host's name does not resolve, as in a build by buildah.
getent hosts "$(hostname)" >/dev/null || echo "127.0.1.1 $(hostname)" >>/etc/hosts
launch/setup.sh requirements.txt

# The same files without GPU kernels are 570 MB smaller. They replace TensorFlow's files, so that the
# package keeps its name for Horovod, Keras and our doctor.
if [[ ${LOCKSTEP_HOROVOD:-cpu} == cpu && $(uname -m) == x86_64 ]]; then
  version=$("$python" -c 'from importlib import metadata; print(metadata.version("tensorflow"))')
  "$python" -m pip install -q --no-deps --no-cache-dir "tensorflow-cpu==$version"
  "$python" launch/horovod/check.py
fi

# TensorFlow names libclang as a requirement but never imports it.
"$python" -m pip uninstall -q -y cmake wheel libclang pip
# Headers, static libraries, and the packages' own tests.
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$packages/tensorflow/include" "$LOCKSTEP_VENV/setup.log"
find "$packages" -name '*.a' -delete
find "$packages/numpy" "$packages/scipy" "$packages/sklearn" "$packages/pyarrow" \
  -type d -name tests -prune -exec rm -rf {} +
