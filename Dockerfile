# Images of learnback: --target server, trainer or client. `make image` builds all three.
#
# BASE needs python3 (3.11 or newer) with venv, and nothing else: no compiler is wanted, for everything
# comes as wheels, pinned by constraints.txt. TORCH_INDEX says which torch: that index has the CPU's,
# an empty one takes PyPI's, which is CUDA's and brings its libraries along (the node has the driver).
#
# The programs run as user 10001, need nothing of the root file system to be writable but /tmp, and are
# the container's first process, so that signals reach them.
ARG BASE=docker.io/library/python:3.12-slim-bookworm

# What is needed from others. It changes seldom, and is a layer of its own for that.
# hadolint ignore=DL3006
FROM ${BASE} AS needs
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
RUN python3 -m venv /opt/learnback
COPY pyproject.toml constraints.txt ./
COPY scripts/requirements scripts/
RUN python3 scripts/requirements > client.txt \
  && python3 scripts/requirements server trainer s3 > programs.txt

FROM needs AS client-needs
RUN /opt/learnback/bin/pip install --constraint constraints.txt --requirement client.txt \
  && /opt/learnback/bin/pip uninstall --yes pip

FROM needs AS program-needs
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/learnback/bin/pip install --constraint constraints.txt --requirement programs.txt \
  ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} \
  && /opt/learnback/bin/pip uninstall --yes pip

# What is ours, to be laid over the above.
FROM needs AS ours
COPY . .
RUN /opt/learnback/bin/pip install --no-deps --constraint constraints.txt --prefix /ours .

# hadolint ignore=DL3006
FROM ${BASE} AS bare
ENV PATH=/opt/learnback/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 10001:10001

FROM bare AS client
COPY --from=client-needs /opt/learnback /opt/learnback
COPY --from=ours /ours /opt/learnback
RUN ["python", "-c", "import learnback_client.cli"]
ENTRYPOINT ["learnback"]

FROM bare AS program
COPY --from=program-needs /opt/learnback /opt/learnback
COPY --from=ours /ours /opt/learnback

FROM program AS trainer
RUN ["python", "-c", "import learnback_trainer.loop, learnback_client.cli"]
ENV LEARNBACK_HEALTH_LISTEN=0.0.0.0:50052
EXPOSE 50052
# Beside other settings of the client (LEARNBACK_TLS, ...), which the environment may bring.
HEALTHCHECK --interval=30s --timeout=10s --start-period=300s --retries=3 \
  CMD ["learnback", "health", "--address", "127.0.0.1:50052"]
ENTRYPOINT ["learnback-trainer"]

FROM program AS server
RUN ["python", "-c", "import learnback_server.app, learnback_client.cli"]
ENV LEARNBACK_LISTEN=0.0.0.0:50051
EXPOSE 50051
HEALTHCHECK --interval=30s --timeout=10s --start-period=300s --retries=3 \
  CMD ["learnback", "health", "--address", "127.0.0.1:50051"]
ENTRYPOINT ["learnback-server"]
