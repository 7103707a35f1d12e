# `make demo` and `make test` do all the set-up themselves, in .venv/.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
# Tests of one file stay together: they share what they build.
PARALLEL := -n 2 --dist loadfile
# make PINNED=1: exactly these packages, by hash; else what pyproject.toml allows.
PINS   := requirements/linux-x86_64-py311.txt
RUNTIME_SOURCES := $(wildcard runtime/*.txt runtime/src/*.* runtime/src/*/*.* runtime/device/*.* runtime/include/*/*)

.PHONY: demo test nightly docs tsan asan fuzz mutants golden coverage audit pins lint format bench clean help
help:
	@echo "make demo     build and run a real model on this host's stand-ins for GPU and NPU"
	@echo "make test     the tests      make nightly  the long ones too"
	@echo "make docs     the documentation site, into build/docs"
	@echo "make tsan     the runtime's threads under ThreadSanitizer"
	@echo "make asan     the runtime under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make fuzz     every loader with what a fuzzer makes up, FUZZ_SECONDS=60 each"
	@echo "make golden   accept the plans and kernels of now as the ones to keep"
	@echo "make coverage what the tests reach, of Python and of the runtime; goes on where it was"
	@echo "make mutants  how many small faults in planner and split the tests notice, MUTANTS=250 of each"
	@echo "make audit    the environment against its pins, and an SBOM; WEAKNESSES=1 asks PyPI, too"
	@echo "make lint     every linter   make bench    the benchmarks of the README"

$(VENV)/.made:
	scripts/bootstrap.sh $(PYTHON) $(VENV)
	touch $@

# TVM first: the runtime is compiled against its headers, without a second copy in a build sandbox.
$(VENV)/.dependencies: pyproject.toml $(VENV)/.made
	$(PY) -m pip install -q --disable-pip-version-check --upgrade pip
	$(PY) scripts/requirements.py --build sign qnn cpu-opencl cross plot llm serve completion tune docs dev > $(VENV)/requirements.txt
	$(PY) -m pip install -q --disable-pip-version-check $(if $(PINNED),--require-hashes -r $(PINS),-r $(VENV)/requirements.txt)
	touch $@

$(READY): $(VENV)/.dependencies setup.py $(RUNTIME_SOURCES)
	$(PY) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY)
	$(PY) examples/encoder/demo.py

test: $(READY)
	$(PY) -m pytest $(PARALLEL) $(PYTEST_FLAGS)

nightly: $(READY)
	$(PY) -m pytest $(PARALLEL) -m "nightly or not nightly" $(PYTEST_FLAGS)

docs: $(READY)
	$(PY) -m sphinx -W --keep-going -b html docs build/docs

tsan: $(READY)
	scripts/tsan.sh $(PY)

asan: $(READY)
	scripts/asan.sh $(PY)

# What only one target needs.
extra = $(PY) scripts/requirements.py $(1) > $(VENV)/$(1).txt && $(PY) -m pip install -q --disable-pip-version-check -r $(VENV)/$(1).txt

FUZZ_SECONDS ?= 60
fuzz: $(READY)
	$(call extra,fuzz)
	scripts/fuzz.sh $(PY) $(FUZZ_SECONDS)

golden: $(READY)
	$(PY) tests/golden/golden.py --accept

pins: $(VENV)/.made
	scripts/pin.sh $(PY)

coverage: $(READY)
	$(call extra,coverage)
	scripts/coverage.sh $(PY)

MUTANTS ?= 250
mutants: $(READY)
	$(call extra,mutants)
	$(PY) scripts/mutants.py --sample $(MUTANTS)

audit: $(READY)
	$(call extra,audit)
	$(PY) scripts/audit.py $(if $(PINNED),--pinned) $(if $(WEAKNESSES),--weaknesses)

bench: $(READY)
	$(PY) benchmarks/real_models.py

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	scripts/lint_cpp.sh $(VENV)/bin

format: $(READY)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/clang-format -i $(filter %.h %.cc,$(RUNTIME_SOURCES))

clean:
	rm -rf $(VENV) build hetero_tvm/lib *.egg-info
