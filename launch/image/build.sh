#!/usr/bin/env bash
# In the Dockerfile's builder: what launch/setup.sh makes, less what only building needed.
#
#   launch/image/build.sh VENV
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export LOCKSTEP_VENV=${1:?usage: build.sh VENV}

# gloo crashes where the name of the host does not resolve, as in a build by buildah.
getent hosts "$(hostname)" >/dev/null || echo "127.0.1.1 $(hostname)" >>/etc/hosts
launch/setup.sh requirements.txt
packages=$("$LOCKSTEP_VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# TensorFlow names libclang as a requirement but never imports it.
"$LOCKSTEP_VENV/bin/python" -m pip uninstall -q -y cmake wheel libclang pip
# Headers, static libraries, and the packages' own tests (a third of what pip installs).
rm -rf "$packages"/tensorflow/include "$packages"/nvidia/*/include "$LOCKSTEP_VENV/setup.log"
find "$packages" -name '*.a' -delete
find "$packages/numpy" "$packages/scipy" "$packages/sklearn" "$packages/pyarrow" \
  -type d -name tests -prune -exec rm -rf {} +
