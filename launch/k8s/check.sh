#!/usr/bin/env bash
# Say what is wrong with the training job of a kustomization, before `kubectl apply -k`: what the
# API server takes and the MPI Operator does not (launch/manifests.py). Needs no cluster.
#
#   launch/k8s/check.sh launch/k8s/overlays/cpu
#
# LOCKSTEP_MPIJOB_CRD names the operator's CRD (`kubectl get crd mpijobs.kubeflow.org -o yaml`), with
# which misspelt fields inside of pods are found, too.
set -euo pipefail

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${LOCKSTEP_VENV:-$home/.venv}/bin/python
[[ -x $python ]] || python=python3
if ! "$python" -c 'import yaml' 2>/dev/null; then
  printf 'error: %s has no PyYAML: pip install PyYAML, or make setup in %s\n' "$python" "$home" >&2
  exit 2
fi
PYTHONPATH=$home PYTHONSAFEPATH=1 exec "$python" -m launch.manifests "$@"
