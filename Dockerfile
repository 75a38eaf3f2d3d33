# One image for every service of docker-compose.yml but the database.
#
# `--build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` leaves CUDA out and makes it much smaller.
FROM python:3.11-slim-bookworm

ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet

WORKDIR /opt/search
COPY requirements.lock ./
RUN pip install --requirement requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY fold_search ./fold_search
COPY search ./search
COPY objectives ./objectives
COPY models ./models
COPY storage ./storage
RUN pip install --no-deps --no-build-isolation .

# New named volumes take the owner of these folders.
RUN useradd --create-home search \
    && install --directory --owner search /study /study/data /study/studies /mlflow
USER search
WORKDIR /study
CMD ["search", "--help"]
