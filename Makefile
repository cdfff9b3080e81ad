# `make demo` runs the main job on the checkpoint and the photographs that ship; `make test` runs every check.
# Both make a virtual environment and install what they need. Variables:
#   PYTHON         the interpreter to build the environment from (3.11 or later)
#   TORCH_OPTIONS  extra options of `pip install torch`, to choose a CPU or CUDA build
PYTHON ?= python3
TORCH_OPTIONS ?=
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: help demo test extras formats fast lint types imports docs wheel bench-refine clean

help:
	@echo "make demo    prune the reference checkpoint to half of its filters on the shipped photographs"
	@echo "make test    lint, types, import rules, all tests"
	@echo "make extras  the tests of what needs spandrel, timm, onnx2torch, ray, OpenVINO, ncnn, MNN and a notebook"
	@echo "make formats the tests of LiteRT, ExecuTorch and Core ML, which take 1.5 GB more to install"
	@echo "make fast    the tests that take seconds"
	@echo "make docs    build the documentation site into site/"
	@echo "make wheel   build the wheel and the source distribution into dist/"

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "qcompress needs Python 3.11 or later; $$($(PYTHON) --version) found. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time) ..."
	$(PIP) $(TORCH_OPTIONS) '$(TORCH)'
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

# spandrel, timm and onnx2torch want torchvision, which here and there does not fit the torch that is installed; so they are tested
# in an environment of their own, laid over the first; so are ray, what runs a notebook, and the runtimes of other formats.
$(VENV)-extras/.ready: $(VENV)/.ready-dev
	$(PYTHON) -m venv $(VENV)-extras
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(VENV)-extras/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth"
	$(VENV)-extras/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt '.[restoration,timm,onnx-in,ray,notebook,openvino,ncnn,mnn]'
	$(VENV)-extras/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes qcompress
	@touch $@

# The heavy formats once more apart. What litert-torch declares cannot be met together with the tested set (xdsl 0.28 wants an older
# typing-extensions), but it runs with it: so it is installed without its dependencies, and they by name.
LITERT := litert-torch ai-edge-litert ai-edge-quantizer litert-converter litert-lm-builder xdsl jax jaxlib jaxtyping \
  wadler_lindig transformers kagglehub kagglesdk absl-py multipledispatch immutabledict ordered-set lark fire termcolor tomli \
  backports.strenum sentencepiece tabulate torchao

$(VENV)-formats/.ready: $(VENV)/.ready-dev
	$(PYTHON) -m venv $(VENV)-formats
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(VENV)-formats/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth"
	$(VENV)-formats/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt '.[openvino,ncnn,mnn,executorch,coreml]'
	$(VENV)-formats/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt --no-deps $(LITERT)
	$(VENV)-formats/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes qcompress
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/qcompress prune reference --sparsity 0.5 --out demo.slim

# Without its cache: the order of imports depends on which modules exist, which the cache of an unchanged file does not know.
lint: $(VENV)/.ready-dev
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready-dev
	$(BIN)/mypy

imports: $(VENV)/.ready-dev
	$(BIN)/lint-imports

# One thread per worker: two workers with two threads each would only get in each other's way on two cores.
test: lint types imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2
	$(MAKE) extras
	$(MAKE) docs

EXTRAS_TESTS := tests/test_loaders_extras.py tests/test_security_networks.py tests/test_fuzz_networks.py tests/test_workers_ray.py \
	tests/test_notebook.py tests/test_exporters_formats.py

extras: $(VENV)-extras/.ready
	PYTHONPATH="$(CURDIR)" QCOMPRESS_EXTRAS=1 OMP_NUM_THREADS=1 $(VENV)-extras/bin/python -m pytest $(EXTRAS_TESTS)

formats: $(VENV)-formats/.ready
	PYTHONPATH="$(CURDIR)" QCOMPRESS_FORMATS=1 OMP_NUM_THREADS=1 $(VENV)-formats/bin/python -m pytest tests/test_exporters_formats.py

# The generator of the site is in an environment of its own, laid over the first, whose commands and names become pages.
$(VENV)-docs/.ready: $(VENV)/.ready
	$(PYTHON) -m venv $(VENV)-docs
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(VENV)-docs/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth"
	$(VENV)-docs/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt '.[docs]'
	$(VENV)-docs/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes qcompress
	@touch $@

docs: $(VENV)-docs/.ready
	PYTHONPATH="$(CURDIR)" $(VENV)-docs/bin/python docs/tools/site_build.py build/docs
	$(VENV)-docs/bin/zensical build --strict --config-file build/docs/mkdocs.yml
	rm -rf site
	mv build/docs/site site

fast: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow"

# A stale build/lib would ship deleted modules.
wheel: $(VENV)/.ready-dev
	rm -rf build
	$(BIN)/python -m build

clean:
	rm -rf build dist site *.egg-info demo.slim .mypy_cache .ruff_cache .pytest_cache .hypothesis
