# The decode service. BASE is light-tts-base of the variant wanted. It also holds the other services, which are
# small compared with its packages: the single-GPU profile of the chart runs `light-tts up` from it.
ARG BASE
FROM ${BASE} AS engines
ARG TENSORRT=no
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
USER 0:0
COPY Dockerfiles/constraints-cuda.txt /build/constraints.txt
# TensorRT's libraries come from its vendor's index: PIP_EXTRA_INDEX_URL=https://pypi.nvidia.com.
RUN mkdir -p /opt/engines && if [ "$TENSORRT" = yes ]; then \
    python -m pip install --no-cache-dir --target /opt/engines -c /build/constraints.txt tensorrt-cu12; fi

FROM ${BASE}
COPY --from=engines /opt/engines /opt/engines
ENV PYTHONPATH=/opt/engines
COPY models/tiny models/tiny
COPY services services
COPY gateway gateway
EXPOSE 50061
CMD ["python", "-P", "-m", "services.decode"]
