# Lockstep in a container: for `docker run` on one host, and as launcher and worker of an MPIJob.
#
#   docker build --target cpu -t lockstep:cpu .
#   docker build --target gpu -t lockstep:gpu .
#   docker run --rm lockstep:cpu launch/local.sh -n 2 train --recipe launch/recipes/digits.toml
#   docker run --rm --gpus all --shm-size 8g lockstep:gpu launch/local.sh train --dataset digits
#
# Another base must bring Python 3.11 to 3.13 and Open MPI 4.1, whose names for options the MPI
# Operator uses: Debian 12 (3.11, 4.1.4), Ubuntu 24.04 (3.12, 4.1.6).
ARG CPU_BASE=debian:bookworm-slim
# The driver of the host must be for CUDA 12. The image that is shipped has only NVIDIA's settings
# for containers: CUDA 12, cuDNN 9 and NCCL come as the packages that TensorFlow was tested with,
# and the "cudnn-runtime" image would bring all of them a second time.
ARG GPU_BUILD_BASE=nvidia/cuda:12.8.1-cudnn-devel-ubuntu24.04
ARG GPU_BASE=nvidia/cuda:12.8.1-base-ubuntu24.04

# What is the same in both images, and changes most often.
FROM scratch AS application
COPY launch/image/sshd_config /etc/lockstep/sshd_config
COPY launch/image/ssh_config /etc/ssh/ssh_config.d/lockstep.conf
COPY launch/image/openmpi.conf /etc/openmpi/openmpi-mca-params.conf
COPY requirements.txt /lockstep/
COPY models /lockstep/models/
COPY launch /lockstep/launch/
COPY app /lockstep/app/

FROM ${CPU_BASE} AS cpu-builder
# Debian and Ubuntu remove superseded versions from their mirrors: pinned ones stop building.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
       ca-certificates g++ libopenmpi-dev make openmpi-bin python3-dev python3-venv
WORKDIR /opt/lockstep
COPY requirements.txt ./
COPY launch/setup.sh launch/
COPY launch/horovod launch/horovod/
COPY launch/image/build.sh launch/image/
RUN LOCKSTEP_HOROVOD=cpu launch/image/build.sh venv

FROM ${GPU_BUILD_BASE} AS gpu-builder
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
       ca-certificates g++ libopenmpi-dev make openmpi-bin python3-dev python3-venv
WORKDIR /opt/lockstep
COPY requirements.txt ./
COPY launch/setup.sh launch/
COPY launch/horovod launch/horovod/
COPY launch/image/build.sh launch/image/
# Of the GPUs that it is for: 70 is V100, 75 T4, 80 A100, 86 A10, 89 L4 and L40, 90 H100 and H200.
ARG LOCKSTEP_CUDA_ARCHS=80,90
RUN LOCKSTEP_HOROVOD=gpu launch/image/build.sh venv

FROM ${CPU_BASE} AS cpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
       ca-certificates openmpi-bin openssh-client openssh-server python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/log/*.log /var/log/apt /etc/ssh/ssh_host_* \
    && useradd --create-home --uid 1000 --shell /bin/bash lockstep \
    && install -d -o lockstep -g lockstep /opt/lockstep/runs
WORKDIR /opt/lockstep
COPY --from=cpu-builder /opt/lockstep/venv venv/
COPY --from=application /etc /etc/
COPY --from=application /lockstep ./
ENV PATH=/opt/lockstep/venv/bin:$PATH PYTHONPATH=/opt/lockstep LOCKSTEP_VENV=/opt/lockstep/venv \
    MPLCONFIGDIR=/tmp/matplotlib
LABEL org.opencontainers.image.title="Lockstep (CPU)" \
      org.opencontainers.image.description="Image and text classifiers on many workers: TensorFlow, Keras 3 and Horovod" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# A number: Kubernetes cannot tell that a name is not root.
USER 1000:1000
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "app", "--help"]

FROM ${GPU_BASE} AS gpu
# Ubuntu 24.04 has a user of this number; ibverbs-providers are for NCCL on InfiniBand and RoCE.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
       ca-certificates ibverbs-providers openmpi-bin openssh-client openssh-server python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/log/*.log /var/log/apt /etc/ssh/ssh_host_* \
    && if id ubuntu; then userdel --remove ubuntu; fi \
    && useradd --create-home --uid 1000 --shell /bin/bash lockstep \
    && install -d -o lockstep -g lockstep /opt/lockstep/runs
WORKDIR /opt/lockstep
COPY --from=gpu-builder /opt/lockstep/venv venv/
COPY --from=application /etc /etc/
COPY --from=application /lockstep ./
ENV PATH=/opt/lockstep/venv/bin:$PATH PYTHONPATH=/opt/lockstep LOCKSTEP_VENV=/opt/lockstep/venv \
    MPLCONFIGDIR=/tmp/matplotlib
LABEL org.opencontainers.image.title="Lockstep (GPU)" \
      org.opencontainers.image.description="Image and text classifiers on many workers: TensorFlow, Keras 3 and Horovod with CUDA and NCCL" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
USER 1000:1000
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "app", "--help"]
