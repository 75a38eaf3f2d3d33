# The commands of this project; `make help` lists them.

PYTHON ?= python3
# The torch that `make lock` takes. What it needs for CUDA is not locked: that depends on the build that pip finds.
TORCH ?= 2.13.0

BIN := .venv/bin
RUNTIME := .venv/.runtime
DEV := .venv/.dev
STUDY ?= benchmarks/studies/$(notdir $(FOLDER)).yaml
PASSWORDS := deploy/secrets/postgres_password deploy/secrets/serve_password

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: demo test check docs bench fuzz audit lock secrets clean help chromium

demo: $(RUNTIME) examples/data/demo.csv ## Install, build the demo data, search, print the result.
	$(BIN)/search run --study demo --config examples/demo.yaml
	@echo
	@echo 'Look at it in the Optuna dashboard and MLflow:  $(BIN)/search serve --study demo'

test: $(DEV) chromium ## Run all tests.
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(DEV) docs ## Lint, format, types, import rules, generated reference, docs: what CI and the pre-commit hook run.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/search/test_reference.py tests/docs -m "not slow"

docs: $(DEV) ## Build the site of docs/ into build/site; a broken link is an error (and would be none with --quiet).
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(DEV) ## Measure: FOLDER=... with train.csv.gz and test.csv.gz; results belong in docs/performance.md.
	@test -n '$(FOLDER)' || { echo 'error: name the data: make bench FOLDER=.../kev_cwe' >&2; exit 2; }
	$(BIN)/python -m benchmarks.real_data '$(FOLDER)' '$(STUDY)'

secrets: $(PASSWORDS) ## Make the passwords that docker-compose.yml reads: the database's, the dashboards'.

clean: ## Remove the environment, the caches and the demo data; studies stay.
	rm -rf .venv build *.egg-info .*_cache .hypothesis examples/data

help: ## List these commands.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'error: $(PYTHON) is missing or older than 3.11; name another one with `make PYTHON=python3.12 ...`' >&2; exit 2; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 2; }

$(RUNTIME): requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	$(BIN)/pip install --quiet --requirement requirements-dev.lock
	@touch $@

examples/data/demo.csv: requirements.lock search/drafting/demo.py | $(RUNTIME)
	$(BIN)/search data demo --out $@

# Not readable for others by its folder, but by the containers, which run as other users.
$(PASSWORDS):
	install -d -m 700 $(@D)
	umask 077 && $(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(32))' > $@
	chmod 644 $@

chromium:
	@if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; \
	  else echo 'warning: chromium or chromedriver is missing: the browser tests will not run' >&2; fi; fi

FREEZE = pip freeze --all --exclude pip --exclude fold-search | sed -e 's/+c[pu][u0-9]*$$//' -e '/^nvidia-/d' -e '/^cuda-/d' -e '/^triton=/d'
HEADER = Written by `make lock` from pyproject.toml; what torch needs for CUDA is left to pip.

fuzz: $(DEV) ## Fuzz for longer, with new inputs: EXAMPLES=5000 a test; by coverage where atheris is installed, SECONDS=60 a target.
	FUZZ_EXAMPLES=$(or $(EXAMPLES),5000) $(BIN)/pytest tests/fuzz --timeout=0
	@! $(BIN)/python -c 'import atheris' 2>/dev/null || for target in $$($(BIN)/python -m tests.fuzz.guided); do \
	  OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.guided $$target -max_total_time=$(or $(SECONDS),60) || exit 2; done

audit: $(DEV) ## Check the locked packages: conflicts, known vulnerabilities (online), a bill of materials.
	$(BIN)/pip check
	@mkdir -p build
	@PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --sv 1.6 --output-reproducible --validate \
	  --of JSON -o build/sbom.json requirements.lock
	@$(BIN)/pip-audit --requirement requirements.lock --requirement requirements-dev.lock --no-deps --disable-pip \
	  --progress-spinner off --timeout 5 --format json 2>/dev/null | $(BIN)/python .ci/audit.py

lock: ## Write both locks anew from pyproject.toml, out of a clean environment.
	@set -eu; env=$$(mktemp -d); trap 'rm -rf "$$env"' EXIT; \
	$(PYTHON) -m venv "$$env"; \
	"$$env/bin/pip" install --quiet torch==$(TORCH) '.[images,neptune]'; \
	{ echo '# $(HEADER)'; "$$env/bin/"$(FREEZE); } > requirements.lock; \
	"$$env/bin/pip" install --quiet --constraint requirements.lock '.[images,korean,neptune,dev]'; \
	{ echo '# $(HEADER)'; echo '-r requirements.lock'; "$$env/bin/"$(FREEZE) | grep -vxF -f requirements.lock; } > requirements-dev.lock
