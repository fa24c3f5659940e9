# The encode service. BASE is light-tts-base of the variant wanted.
ARG BASE
FROM ${BASE}
COPY models/tiny models/tiny
COPY services/encode services/encode
EXPOSE 50051
CMD ["python", "-P", "-m", "services.encode"]
