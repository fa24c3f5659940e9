# The llm service. BASE is light-tts-base of the variant wanted.
ARG BASE
FROM ${BASE}
COPY models/tiny models/tiny
COPY services/llm services/llm
EXPOSE 50052
CMD ["python", "-P", "-m", "services.llm"]
