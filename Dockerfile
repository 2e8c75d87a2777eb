# One image for every service; the command says which: `pavane api`, `pavane coordinator`, ...
FROM python:3.13-slim AS build
WORKDIR /source
RUN pip install --no-cache-dir build
COPY pyproject.toml README.md ./
COPY schemas schemas
COPY lua lua
COPY history history
COPY coordinator coordinator
COPY agent_runner agent_runner
COPY orchestrator_api orchestrator_api
COPY pavane pavane
COPY examples examples
RUN python -m build --wheel --outdir /wheel

FROM python:3.13-slim
COPY --from=build /wheel /wheel
RUN pip install --no-cache-dir /wheel/*.whl && rm -r /wheel && useradd --create-home pavane
USER pavane
WORKDIR /home/pavane
ENV PAVANE_LOG_FORMAT=json
ENTRYPOINT ["pavane"]
CMD ["--help"]
