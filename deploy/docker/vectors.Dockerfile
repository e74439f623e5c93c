# Vectors: docker build -f deploy/docker/vectors.Dockerfile -t inferbus/vectors .
# (from the root of the checkout; .dockerignore keeps the environments out)
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements/vectors.txt requirements/
RUN python -m venv /opt/inferbus \
    && /opt/inferbus/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/vectors.txt
COPY libs/common libs/common
COPY services/vectors services/vectors
RUN /opt/inferbus/bin/pip install --no-cache-dir --no-deps --no-build-isolation ./libs/common ./services/vectors

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin inferbus && install -d -o 10001 /vectors /files
COPY --from=build /opt/inferbus /opt/inferbus
ENV PATH=/opt/inferbus/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INFERBUS_FILES_URL=/files \
    INFERBUS_VECTORS_FOLDER=/vectors \
    INFERBUS_VECTORS_PROCESS=vectors-0
USER 10001
HEALTHCHECK --interval=10s --timeout=8s --start-period=15s --retries=3 \
    CMD ["sh", "-c", "exec python -m inferbus.probe \"$INFERBUS_VECTORS_PROCESS\""]
# SIGTERM: nothing new is pulled, what is being written is finished (INFERBUS_VECTORS_DRAIN_S, 10 s)
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "inferbus_vectors"]
