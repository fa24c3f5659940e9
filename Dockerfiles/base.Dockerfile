# The base of all images: Python, the packages and the code of the services. Built from the repository's root, as
# light-tts-base:VERSION (no torch, for the gateway), :VERSION-cpu and :VERSION-cuda; see `make images`.
# The CUDA variant needs no CUDA base: torch's wheels bring the libraries, the node brings the driver.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG EXTRAS=k8s,redis,otel
ARG VARIANT=
# An index with torch's CPU builds, https://download.pytorch.org/whl/cpu; PyPI's build brings gigabytes of CUDA.
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# The CUDA variant has constraints of its own: the versions that ran on GPUs.
COPY Dockerfiles/constraints*.txt /build/
RUN if [ "$VARIANT" = cuda ]; then mv /build/constraints-cuda.txt /build/constraints.txt; fi
COPY pyproject.toml README.md LICENSE /build/app/
# Install the packages first, from pyproject.toml alone: a change of the code does not install them again.
# Keep the image without torch small: compile only the modules that are imported (gateway.Dockerfile), and keep only the API
# of the Kubernetes client that discovery calls, because the whole client has a hundred megabytes.
RUN mkdir -p /build/app/services && touch /build/app/services/__init__.py \
 && compile=$([ -n "$VARIANT" ] || echo --no-compile) \
 && pip install $compile -c /build/constraints.txt "/build/app[${EXTRAS}]" && pip uninstall -qy light-tts \
 && if [ "$VARIANT" = cuda ]; then pip uninstall -qy onnxruntime \
      && pip install --no-deps -c /build/constraints.txt onnxruntime-gpu; fi \
 && if [ -z "$VARIANT" ]; then cd /opt/venv/lib/python3*/site-packages \
      && find . -type d -name tests -prune -exec rm -r {} + \
      && find kubernetes -path '*/api/*_api.py' ! -name discovery_v1_api.py -delete; fi
COPY protos protos
RUN python3 -m venv /build/protoc \
 && /build/protoc/bin/pip install -q -c /build/constraints.txt grpcio-tools \
 && /build/protoc/bin/python -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=. \
      protos/lighttts/*/*.proto && rm -r protos
COPY pyproject.toml README.md LICENSE ./
COPY cli cli
COPY services/__init__.py services/__init__.py
COPY services/common services/common
# Install in editable mode, so that the code finds the embedded model by its relative path. The gateway needs no pip.
RUN pip install -c /build/constraints.txt --no-deps -e . && python -m compileall -q cli services lighttts \
 && if [ -z "$VARIANT" ]; then pip uninstall -qy setuptools pip; fi

FROM ${BASE_IMAGE}
ARG VARIANT=
# Triton compiles a launcher for its kernels with the C compiler.
RUN if [ "$VARIANT" = cuda ]; then apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*; fi
# Processes write only below /tmp, /cache and the volumes that the chart mounts.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LIGHTTTS_HOST=0.0.0.0 LIGHTTTS_METRICS_PORT=9090
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
EXPOSE 9090
USER 10001:10001
