# The topology process, and the command line: docker build -f deploy/docker/topology.Dockerfile -t inferbus/topology .
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements/services.txt requirements/
RUN python -m venv /opt/inferbus \
    && /opt/inferbus/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/services.txt
COPY libs/common libs/common
RUN /opt/inferbus/bin/pip install --no-cache-dir --no-deps --no-build-isolation ./libs/common

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin inferbus
COPY --from=build /opt/inferbus /opt/inferbus
ENV PATH=/opt/inferbus/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INFERBUS_HEALTH_HOST=0.0.0.0 \
    INFERBUS_HEALTH_PORT=9090 \
    INFERBUS_TOPOLOGY_PROCESS=topology-0
EXPOSE 9090
USER 10001
HEALTHCHECK --interval=10s --timeout=8s --start-period=15s --retries=3 \
    CMD ["sh", "-c", "exec python -m inferbus.probe \"$INFERBUS_TOPOLOGY_PROCESS\""]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "inferbus.topology"]
