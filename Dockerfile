# One image for API, workers, model runtime and migrations. `docker build --build-arg TORCH_INDEX=…` takes torch from another index,
# for example the CPU-only one that pytorch.org names under "Get started".
FROM python:3.11-slim
ARG TORCH_INDEX=
WORKDIR /srv/stratamem
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep -E '^torch==' constraints.txt)"
COPY memory ./memory
COPY api ./api
COPY workers ./workers
COPY model_runtime ./model_runtime
COPY migrations ./migrations
# Its user can't write bytecode beside the sources: without it each start would compile 300 modules.
RUN pip install --editable . --constraint constraints.txt && python -m compileall -q . \
    && useradd --system --create-home stratamem && mkdir /data && chown stratamem /data
# pg_dump and pg_restore, for `stratamem backup` and `stratamem restore`
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-client && rm -rf /var/lib/apt/lists/*
USER stratamem
ENV STRATAMEM_DATA_DIR=/data STRATAMEM_LOG_FORMAT=json
VOLUME /data
EXPOSE 8080 8090
ENTRYPOINT ["stratamem"]
CMD ["serve"]
