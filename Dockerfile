# Lockstep on CPUs: Python 3.11, TensorFlow, Horovod (gloo and Open MPI 4.1), and the application.
#
#   docker build -t lockstep:cpu .
#   docker run --rm lockstep:cpu horovodrun -np 2 python -m app train --dataset digits
#
# The base must be Debian 12: its Python is 3.11 and its Open MPI 4.1, what the MPI Operator knows.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS builder
# Debian removes superseded versions from its mirrors, so a pinned one stops building:
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
       ca-certificates g++ libopenmpi-dev make openmpi-bin python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/lockstep
COPY requirements.txt ./
COPY launch/setup.sh launch/
COPY launch/horovod launch/horovod/
ENV LOCKSTEP_VENV=/opt/lockstep/venv
# gloo crashes where the hostname does not resolve, as in a build by buildah:
RUN { getent hosts "$(hostname)" || echo "127.0.1.1 $(hostname)" >>/etc/hosts; } \
    && launch/setup.sh requirements.txt \
    && venv/bin/python -m pip uninstall -y cmake wheel

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
       ca-certificates openmpi-bin openssh-client openssh-server python3 tini \
    && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
    && useradd --create-home --uid 1000 --shell /bin/bash lockstep \
    && install -d -o lockstep -g lockstep /opt/lockstep/runs
WORKDIR /opt/lockstep
COPY --from=builder /opt/lockstep/venv venv/
COPY app app/
COPY models models/
COPY launch launch/
COPY requirements.txt ./
ENV PATH=/opt/lockstep/venv/bin:$PATH PYTHONPATH=/opt/lockstep
USER lockstep
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "app", "--help"]
