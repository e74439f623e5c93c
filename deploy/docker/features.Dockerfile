# Features: docker build -f deploy/docker/features.Dockerfile -t inferbus/features .
# (from the root of the checkout; .dockerignore keeps the environments out)
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements/features.txt requirements/
RUN python -m venv /opt/inferbus \
    && /opt/inferbus/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/features.txt
COPY libs/common libs/common
COPY services/features services/features
RUN /opt/inferbus/bin/pip install --no-cache-dir --no-deps --no-build-isolation ./libs/common ./services/features

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin inferbus && install -d -o 10001 /features
COPY --from=build /opt/inferbus /opt/inferbus
ENV PATH=/opt/inferbus/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INFERBUS_FEATURES_STATE=/features \
    INFERBUS_FEATURES_PROCESS=features-0
USER 10001
HEALTHCHECK --interval=10s --timeout=8s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "exec python -m inferbus.probe \"$INFERBUS_FEATURES_PROCESS\""]
# SIGTERM: no new requests, those that wait are answered (INFERBUS_FEATURES_DRAIN_S, 5 s); the next go to another process
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "inferbus_features"]
