#!/usr/bin/env bash
# Build the Dockerfile where there is no Docker and no registry: buildah, on a Debian made by
# debootstrap from the mirror that this machine uses. Prints the image's name; the log is on stderr.
#
#   tests/cluster/build_image.sh [cpu|gpu]      (default cpu)
#
# Needs root, and: apt-get install --no-install-recommends buildah debootstrap
# An image is built once for the files that go into it, and replaces the one before; its steps are
# kept by buildah (`buildah rmi --prune` forgets them), the wheel of Horovod by LOCKSTEP_CACHE.
# gpu takes nvcc from this machine's CUDA_HOME, since NVIDIA's base images cannot be had: what is
# checked is that the steps work, not the base.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() { printf 'image: %s\n' "$*" >&2; exit 2; }

target=${1:-cpu}
cache=${LOCKSTEP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lockstep}
base=localhost/lockstep-base:bookworm
[[ $target == cpu || $target == gpu ]] || fail "unknown target '$target': cpu or gpu"
[[ $(id -u) == 0 ]] || fail "needs root, for debootstrap and chroot"
for tool in buildah debootstrap; do
  command -v "$tool" >/dev/null || fail "no $tool (Debian: apt-get install $tool)"
done
mkdir -p "$cache"
exec 9>"$cache/image.lock"
flock 9 # one build at a time; who waited finds the image

contents=$(git ls-files -z --cached --others --exclude-standard -- Dockerfile .dockerignore \
  requirements.txt app launch models | xargs -0 sha256sum | sha256sum | cut -c1-12)
image=localhost/lockstep:$target-$contents
exists() { buildah inspect --type image "$1" >/dev/null 2>&1; }
if exists "$image"; then
  printf '%s\n' "$image"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! exists "$base"; then
  # The filters name what is asked for, the answer is this machine's mirror.
  # shellcheck disable=SC2016
  mirror=$(apt-get indextargets --format '$(REPO_URI)' \
    'Identifier: Packages' 'Codename: bookworm' 'Component: main' | head -n 1)
  debootstrap --variant=minbase --include=ca-certificates bookworm "$work/root" ${mirror:+"$mirror"} >&2
  rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
  container=$(buildah from scratch)
  buildah add -q "$container" "$work/root" / >&2
  buildah commit -q --rm "$container" "$base" >&2
fi

options=(--build-arg "CPU_BASE=$base" --volume "$cache:/root/.cache/lockstep")
# What pip of this machine needs to reach its index is mounted, so that it stays out of the image.
certificates=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}
options+=(--volume "$certificates:/run/certificates.crt:ro" --volume "$work/pip.conf:/etc/pip.conf:ro")
printf '[global]\ncert = /run/certificates.crt\n%s' \
  "${PIP_INDEX_URL:+index-url = $PIP_INDEX_URL$'\n'}" >"$work/pip.conf"
if [[ $target == gpu ]]; then
  cuda=$(readlink -f "${CUDA_HOME:-/usr/local/cuda}")
  [[ -x $cuda/bin/nvcc ]] || fail "no nvcc under $cuda: install the CUDA toolkit or set CUDA_HOME"
  options+=(--build-arg "GPU_BUILD_BASE=$base" --build-arg "GPU_BASE=$base" --volume "$cuda:/usr/local/cuda:ro")
fi
buildah bud --isolation chroot --format docker --pull-never --layers "${options[@]}" \
  --target "$target" --tag "$image" . >&2
buildah images --format '{{.Name}}:{{.Tag}}' | grep "^localhost/lockstep:$target-" | grep -vF "$image" |
  xargs -r buildah rmi >/dev/null 2>&1 || true # what is in use stays
printf '%s\n' "$image"
