# One image: the three services, the migrations and the vv command. `make image` builds it; deploy/README.md runs it.
#
# The base is pinned by its exact version. That tag is still rebuilt when Debian has security fixes, so what is released
# is built from a digest, which `make image` looks up and passes as PYTHON_IMAGE, and which the label
# org.opencontainers.image.base.name keeps.
ARG PYTHON_IMAGE=docker.io/library/python:3.13.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/image.txt requirements/
# The services with all that they can do. Wheels alone: the file has their hashes, but not those of what would build them.
RUN pip wheel --quiet --require-hashes --only-binary :all: --wheel-dir wheels --requirement requirements/image.txt
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY common common
COPY inventory_service inventory_service
COPY migrations migrations
COPY order_service order_service
COPY payment_service payment_service
COPY vv vv
COPY deploy/image/sitecustomize.py /opt/vv/lib/python3.13/site-packages/
# setuptools builds our own wheel, and stays behind.
RUN pip install --quiet --no-index --no-deps wheels/setuptools-*.whl \
    && pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir wheels . \
    && rm wheels/setuptools-*.whl \
    && python -m venv --without-pip /opt/vv \
    && pip --python /opt/vv/bin/python install --quiet --no-index --no-deps --no-compile wheels/*.whl \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/vv/lib

# The load tests, for the profile `load` of compose.yaml alone: docker build --target load.
FROM build AS load
COPY requirements/load.txt requirements/
RUN pip --python /opt/vv/bin/python install --quiet --require-hashes --only-binary :all: --requirement requirements/load.txt
COPY loadtests /opt/loadtests
ENV PATH=/opt/vv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT ["locust", "-f", "/opt/loadtests/locustfile.py", "--class-picker"]

FROM ${PYTHON_IMAGE} AS runtime
ARG PYTHON_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="VV-Ecommerce" \
      org.opencontainers.image.description="Order, inventory and payment service of a checkout backend, and its migrations" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
# Nothing here installs anything any more. The standard library comes without bytecode, and could not write any on a
# read-only file system: every start, and every probe, would compile it anew.
RUN rm -rf /usr/local/bin/pip* /usr/local/bin/idle* /usr/local/bin/pydoc* /usr/local/lib/python3.13/ensurepip \
        /usr/local/lib/python3.13/site-packages/* /usr/local/lib/python3.13/idlelib /usr/local/lib/python3.13/turtledemo \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/local/lib/python3.13 \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin vv
COPY --from=build /opt/vv /opt/vv
# Safe path: nothing is imported from the folder where a program happens to be started.
ENV PATH=/opt/vv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8081 8082 8083
# The probe finds out which service it is, and shows its certificate where connections need one.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "vv.probe"]
# docker run IMAGE inventory_service; docker run IMAGE vv migrate apply. Python is process 1 and gets the signals.
ENTRYPOINT ["python", "-m"]
CMD ["order_service"]
