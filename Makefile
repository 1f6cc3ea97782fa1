# What people and CI call. Everything is installed into .venv; `make clean` removes it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help setup up demo bench load faults test mysql lint workflows advisories check hooks dist lock image image-check clean

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet
# Given to vv, locust or pytest: make up ARGS="--port-offset 100", make test ARGS="-k checkout -x"
ARGS ?=
# Of pytest: tests mostly wait, so that two processes are nearly twice as fast as one, also on two cores.
PROCESSES ?= 2

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

setup: $(VENV)/.runtime ## Install the vv command and what it needs into .venv

up: setup ## Run the whole stack until Ctrl-C; data stays in .data
	@exec $(VENV)/bin/vv up $(ARGS)

demo: setup ## Hold a flash sale and check the books
	@exec $(VENV)/bin/vv demo $(ARGS)

bench: setup ## Measure orders a second and latencies
	@exec $(VENV)/bin/vv bench $(ARGS)

load: $(VENV)/.load ## Load-test a running stack: a web page, or make load ARGS="--headless FlashSale -u 500 -r 500"
	@exec $(VENV)/bin/locust -f loadtests/locustfile.py --class-picker --web-host 127.0.0.1 $(ARGS)

faults: $(VENV)/.dev ## Break everything while buyers shop, and check every promise: make faults SECONDS=60 SEEDS=1-20
	@exec $(VENV)/bin/python -m tests.faults.harness $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(MUTATIONS),--mutations) $(ARGS)

# make test DATABASE_URL=…: make hands variables of its command line on to what it runs.
test: $(VENV)/.dev ## Run every test, also on a server of yours: make test DATABASE_URL=mysql://root:secret@127.0.0.1:3306/
	@$(VENV)/bin/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

mysql: .mysql/mysqld ## Unpack MySQL (Debian only), to be tested with: make test VV_DATABASE_PROGRAM=$PWD/.mysql/mysqld

.mysql/mysqld: tests/unpack_mysql.sh
	@tests/unpack_mysql.sh .mysql

lint: $(VENV)/.dev ## Check style and types
	@$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

advisories: $(VENV)/.dev ## Look the pinned dependencies up in a database of advisories
	@$(VENV)/bin/python -m tests.advisories

workflows: $(VENV)/.hooks ## Check the pipelines: .github and .ci
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
	actionlint
	zizmor --offline --quiet .github
	shellcheck .ci/*
	pre-commit validate-config

check: lint workflows advisories test ## What must hold before a change lands

hooks: $(VENV)/.dev $(VENV)/.hooks ## Have git check each commit: style, types, pipelines, secrets
	@$(VENV)/bin/pre-commit install

dist: $(VENV)/.runtime ## Build sdist and wheel into dist/
	@rm -rf dist build *.egg-info
	# With the setuptools that is pinned. Both carry the time of the commit, so that whoever builds it gets the same wheel.
	export SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct)
	for kind in sdist wheel; do
		$(VENV)/bin/python -c "from setuptools import build_meta; build_meta.build_$$kind('dist')" > /dev/null
	done
	ls dist

lock: $(VENV)/.runtime ## Resolve the versions in requirements/ anew
	@$(PIP) uv
	compile() {
		local output=requirements/$$1.txt; shift
		echo '# Made by "make lock" from setup.cfg.' > "$$output.new"
		# setuptools installs the project itself.
		echo setuptools | $(VENV)/bin/uv pip compile --quiet setup.cfg - "$$@" --universal --python-version 3.11 \
			--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links >> "$$output.new"
		mv "$$output.new" "$$output"
	}
	compile runtime
	compile load --extra load --constraint requirements/runtime.txt
	# What the image has: the services with all that they can do.
	compile image --extra discovery --extra otel --constraint requirements/load.txt
	# The load tests are tested, too.
	compile dev --extra test --extra lint --extra load --extra discovery --extra otel \
		--constraint requirements/image.txt --constraint requirements/load.txt
	compile hooks --extra hooks --constraint requirements/dev.txt

# The base by the digest that its tag has now; IMAGE and VERSION may be given.
IMAGE ?= vv-ecommerce
image: ## Build the container image
	@version=$${VERSION:-$$(sed -n 's/^version = //p' setup.cfg)}
	base=$$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile | head -n 1)
	digest=$$(docker buildx imagetools inspect "$$base" --format '{{.Manifest.Digest}}')
	docker build --build-arg "PYTHON_IMAGE=$$base@$$digest" --build-arg "VERSION=$$version" \
		--build-arg "REVISION=$$(git rev-parse HEAD)" --tag "$(IMAGE):$$version" --tag "$(IMAGE):latest" $(ARGS) .

image-check: $(VENV)/.dev ## Carry out the image's steps without a container engine, and run it: needs root, debootstrap, Python 3.13
	@python=$${PYTHON:-$$(command -v python3.13)}
	$(VENV)/bin/python -m tests.image --python "$$python" $(ARGS)

clean: ## Remove .venv and caches; .data stays
	@rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.runtime: requirements/runtime.txt setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo 'Installing what requirements/runtime.txt pins.'
	$(PIP) --require-hashes -r requirements/runtime.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.load: $(VENV)/.runtime requirements/load.txt
	@echo 'Installing what requirements/load.txt pins.'
	$(PIP) --require-hashes -r requirements/load.txt
	touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@echo 'Installing what requirements/dev.txt pins.'
	$(PIP) --require-hashes -r requirements/dev.txt
	touch $@

$(VENV)/.hooks: $(VENV)/.runtime requirements/hooks.txt
	@echo 'Installing what requirements/hooks.txt pins.'
	$(PIP) --require-hashes -r requirements/hooks.txt
	touch $@

# The first Python that is new enough, or PYTHON=… A bare Debian has no venv for it until its package is there.
$(VENV)/bin/python:
	@for python in $${PYTHON:-python3.13 python3.12 python3.11 python3}; do
		version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))' \
			2> /dev/null) && break
		python=
	done
	if [ -z "$$python" ]; then
		echo 'Python 3.11 or newer was not found; install it, or name it: make setup PYTHON=/path/to/python3' >&2
		exit 1
	fi
	if ! "$$python" -c 'import ensurepip, venv' 2> /dev/null; then
		root=; [ "$$(id -u)" = 0 ] || root='sudo -n'
		if ! command -v apt-get > /dev/null || ! $$root true 2> /dev/null; then
			echo "Python's venv module is not there; install it first (Debian, Ubuntu: apt-get install python3-venv)." >&2
			exit 1
		fi
		echo "Installing the Debian package python$$version-venv."
		install="$$root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends"
		output=$$($$install "python$$version-venv" 2>&1) ||
			output=$$({ $$root apt-get -qq update && $$install "python$$version-venv"; } 2>&1) ||
			{ echo "$$output" >&2; exit 1; }
	fi
	rm -rf $(VENV)
	"$$python" -m venv $(VENV)
