# The gateway: docker build -f deploy/docker/gateway.Dockerfile -t inferbus/gateway .
# (from the root of the checkout; .dockerignore keeps the environments out)
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements/services.txt requirements/
RUN python -m venv /opt/inferbus \
    && /opt/inferbus/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/services.txt
COPY libs/common libs/common
COPY services/gateway services/gateway
RUN /opt/inferbus/bin/pip install --no-cache-dir --no-deps --no-build-isolation ./libs/common ./services/gateway

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin inferbus && install -d -o 10001 /files
COPY --from=build /opt/inferbus /opt/inferbus
ENV PATH=/opt/inferbus/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INFERBUS_FILES_URL=/files \
    INFERBUS_GATEWAY_HOST=0.0.0.0 \
    INFERBUS_GATEWAY_PORT=8080 \
    INFERBUS_GATEWAY_PROCESS=gateway-0
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=4s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['INFERBUS_GATEWAY_PORT'] + '/health/ready', timeout=3)"]
# SIGTERM: no new requests, open ones are finished (INFERBUS_GATEWAY_DRAIN_S, 30 s)
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "inferbus_gateway"]
