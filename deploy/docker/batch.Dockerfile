# Batch: docker build -f deploy/docker/batch.Dockerfile -t inferbus/batch .
# (from the root of the checkout; .dockerignore keeps the environments out)
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements/services.txt requirements/
RUN python -m venv /opt/inferbus \
    && /opt/inferbus/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/services.txt
COPY libs/common libs/common
COPY services/batch services/batch
RUN /opt/inferbus/bin/pip install --no-cache-dir --no-deps --no-build-isolation ./libs/common ./services/batch

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin inferbus && install -d -o 10001 /files
COPY --from=build /opt/inferbus /opt/inferbus
ENV PATH=/opt/inferbus/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INFERBUS_FILES_URL=/files \
    INFERBUS_BATCH_PROCESS=batch-0
USER 10001
HEALTHCHECK --interval=10s --timeout=8s --start-period=15s --retries=3 \
    CMD ["sh", "-c", "exec python -m inferbus.probe \"$INFERBUS_BATCH_PROCESS\""]
# SIGTERM: no new chunks, rows that run are waited for (INFERBUS_BATCH_DRAIN_S, 10 s); the rest is taken up by another
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "inferbus_batch"]
