# qcompress for CI: computes on the CPU, runs as nobody in particular. In a checkout:
#
#     docker build --tag qcompress .
#     docker run --rm --user "$(id -u)" --volume "$PWD:/data" qcompress prune model.pt --data images --max-drop 0.3
#
# Exit codes are those of the command line. The versions are the tested ones of constraints.txt.
FROM python:3.11-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
COPY constraints.txt /opt/qcompress/
COPY --from=wheel /wheels /opt/qcompress/
RUN python -m pip install --no-cache-dir --no-deps --constraint /opt/qcompress/constraints.txt \
        --index-url https://download.pytorch.org/whl/cpu torch \
    && python -m pip install --no-cache-dir --constraint /opt/qcompress/constraints.txt /opt/qcompress/*.whl \
    && useradd --create-home --uid 10001 qcompress
USER 10001
WORKDIR /data
ENTRYPOINT ["qcompress"]
CMD ["--help"]
