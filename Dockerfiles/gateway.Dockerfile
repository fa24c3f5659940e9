# The gateway. BASE is light-tts-base without torch. It is also what fetches models and speaks in `helm test`.
ARG BASE
FROM ${BASE}
COPY gateway gateway
USER 0:0
# Importing makes the bytecode, which a container with a read-only root cannot keep.
RUN env -u PYTHONDONTWRITEBYTECODE python -c \
    "import cli.main, gateway.server, kubernetes.aio.client.api.discovery_v1_api, redis.asyncio"
USER 10001:10001
EXPOSE 50050 8080 50000
CMD ["python", "-P", "-m", "gateway"]
