# The gateway. BASE is light-tts-base without torch. The chart also uses it to fetch models and to run `helm test`.
ARG BASE
FROM ${BASE}
COPY gateway gateway
USER 0:0
# The import writes the bytecode, which a container with a read-only root cannot do.
RUN env -u PYTHONDONTWRITEBYTECODE python -c \
    "import cli.app, cli.main, gateway.server, kubernetes.aio.client.api.discovery_v1_api, redis.asyncio"
USER 10001:10001
EXPOSE 50050 8080 50000
CMD ["python", "-P", "-m", "gateway"]
