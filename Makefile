# Every target sets up what it needs; VENV may point at an environment that exists.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
# Where a comma would end an argument of $(call ...).
comma := ,
RUN ?= runs/demo
# torch of this version comes as a CPU build; a plain `torch` would pull gigabytes of CUDA.
TORCH := torch==2.13.0
# Packages beside the library: the benches, and how the embedded model is made.
BESIDE := -e ./training -e ./bench
# Two workers; the tests of a file stay together. More would need a gigabyte of memory each.
PARALLEL := -n 2 --dist loadfile
# What `make serve` keeps of an image's tokens, and where it listens.
KEEP ?= 0.1
PORT ?= 8000
.PHONY: demo docs page test test-slow test-oldest test-middle test-lmms test-page test-vllm test-ray serve bench-paper bench-quick bench-guards bench-mass bench-distance bench-robot check demo-model demo-models clean

# Where nothing is measured, waiting threads sleep instead of spinning: faster on a busy machine.
# Not where times are: those are to be what people get.
test test-slow test-oldest test-middle test-lmms test-page test-vllm test-ray demo-model demo-models: export GOMP_SPINCOUNT := 0
test test-slow test-oldest test-middle test-lmms test-page test-vllm test-ray demo-model demo-models: export OMP_WAIT_POLICY := passive

define install
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@test -f $(VENV)/$(1).done -a ! pyproject.toml -nt $(VENV)/$(1).done || \
	  { echo "installing $(2) into $(VENV)"; \
	    $(VENV)/bin/pip install -q --disable-pip-version-check $(TORCH) $(2) && \
	    touch $(VENV)/$(1).done; }
endef

demo: ## answer a question about a photograph, unpruned and pruned; writes out/demo.png
	$(call install,demo,-e '.[demo]')
	@mkdir -p out
	$(VENV)/bin/otprune ask src/otprune/demo/samples/coffee.jpg "Is the blue star left of the red circle?" \
	  --tokens 324 --keep 0.1 --repeats 15 --overlay out/demo.png

page: ## the page, on http://127.0.0.1:7860
	$(call install,page,-e '.[page]')
	$(VENV)/bin/otprune page

test: ## the default suite
	$(call install,dev,-e '.[dev]' $(BESIDE))
	$(PY) -m pytest $(PARALLEL)

test-slow: ## what takes minutes
	$(call install,dev,-e '.[dev]' $(BESIDE))
	$(PY) -m pytest $(PARALLEL) -m slow

# The oldest transformers that pyproject.toml allows, and the last before 5.24 renamed the cache, in
# front of the environment's own, so that nothing else is installed twice; `make test` runs with the
# newest.
define test-transformers
	$(call install,dev,-e '.[dev]' $(BESIDE))
	@test -f $(VENV)/transformers-$(1)/done || \
	  { echo "installing transformers $(1) beside $(VENV)"; \
	    $(VENV)/bin/pip install -q --disable-pip-version-check --no-deps \
	      --target $(VENV)/transformers-$(1) transformers==$(1) && \
	    touch $(VENV)/transformers-$(1)/done; }
	PYTHONPATH=$(abspath $(VENV)/transformers-$(1)) $(PY) -m pytest $(PARALLEL) $(2)
endef

test-oldest: ## engine and families with the oldest transformers that is allowed
	$(call test-transformers,5.18.0,tests/engines tests/families tests/demo)

test-middle: ## every family, in the matrix and in sessions, with one in the middle
	$(call test-transformers,5.23.0,tests/families/test_matrix.py tests/families/test_watch.py tests/demo)

# lmms-eval brings a hundred packages along, torchvision among them: an environment of its own.
define install-lmms
	@test -x $(VENV)-lmms/bin/python || $(PYTHON) -m venv $(VENV)-lmms
	@test -f $(VENV)-lmms/lmms.done -a ! pyproject.toml -nt $(VENV)-lmms/lmms.done || \
	  { echo "installing otprune[dev,lmms] into $(VENV)-lmms"; \
	    $(VENV)-lmms/bin/pip install -q --disable-pip-version-check \
	      $(TORCH) -e ".[dev,lmms]" $(BESIDE) && touch $(VENV)-lmms/lmms.done; }
endef

test-lmms: ## the plugin, run by lmms-eval itself on a task of our own
	$(install-lmms)
	$(VENV)-lmms/bin/python -m pytest -n 2 -m lmms tests/engines/lmms_eval

# playwright drives Debian's Chromium: its own would be another download.
define install-chromium
	@command -v chromium > /dev/null || { test "$$(id -u)" = 0 && apt-get -qq update && \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium > /dev/null; } || \
	  { echo "the page is tested in Chromium: install it (on Debian: apt-get install chromium)"; exit 2; }
endef

site/index.html:
	$(MAKE) docs

test-page: site/index.html ## the page and the documentation, in a headless Chromium
	$(install-chromium)
	$(call install,page-test,-e '.[dev$(comma)page]' $(BESIDE) 'playwright>=1.50')
	$(PY) -m pytest -m page tests/page tests/docs

# vLLM pins torch, transformers and a hundred more: an environment of its own.
define install-vllm
	@test -x $(VENV)-vllm/bin/python || $(PYTHON) -m venv $(VENV)-vllm
	@test -f $(VENV)-vllm/vllm.done -a ! pyproject.toml -nt $(VENV)-vllm/vllm.done \
	  -a ! requirements/vllm.txt -nt $(VENV)-vllm/vllm.done || \
	  { echo "installing requirements/vllm.txt into $(VENV)-vllm"; \
	    $(VENV)-vllm/bin/pip install -q --disable-pip-version-check --no-deps -r requirements/vllm.txt && \
	    $(VENV)-vllm/bin/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . $(BESIDE) && \
	    $(VENV)-vllm/bin/python -m tools.vllm_environment && touch $(VENV)-vllm/vllm.done; }
endef

test-vllm: ## pruning in vLLM's own CPU build, against transformers; ten minutes
	$(install-vllm)
	$(VENV)-vllm/bin/python -m pytest $(PARALLEL) -m vllm tests/engines/vllm

# Ray beside that environment, which itself stays without it: vLLM behaves otherwise where Ray is.
define install-ray
	$(install-vllm)
	@test -x $(VENV)-ray/bin/python || $(VENV)-vllm/bin/python -m venv $(VENV)-ray
	@test -f $(VENV)-ray/ray.done -a ! requirements/ray.txt -nt $(VENV)-ray/ray.done || \
	  { echo "installing requirements/ray.txt into $(VENV)-ray" && \
	    $(VENV)-vllm/bin/python -c 'import sysconfig as s; print("import site; site.addsitedir(%r)" % s.get_path("purelib"))' \
	      > "$$($(VENV)-ray/bin/python -c 'import sysconfig as s; print(s.get_path("purelib"))')/vllm.pth" && \
	    $(VENV)-ray/bin/pip install -q --disable-pip-version-check --no-deps -r requirements/ray.txt && \
	    touch $(VENV)-ray/ray.done; }
endef

test-ray: ## vLLM on several machines: Ray and data parallel in two network namespaces; needs root, not in .ci/run
	$(install-ray)
	$(VENV)-ray/bin/python -m pytest -m vllm_ray tests/engines/vllm

serve: ## the embedded model in vLLM, pruned, on http://127.0.0.1:8000; what to ask: docs/vllm.md
	$(install-vllm)
	HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=1 \
	  $(VENV)-vllm/bin/vllm serve src/otprune/demo/model --served-model-name demo \
	  --host 127.0.0.1 --port $(PORT) --dtype float32 --enforce-eager --block-size 32 \
	  --hf-overrides '{"otprune": {"keep": $(KEEP)}}' --trust-request-mm-kwargs

bench-paper: ## the paper's table, measured with MODEL=... (needs the Hugging Face hub or its cache)
	@test -n "$(MODEL)" || { echo "say which: make bench-paper MODEL=llava-hf/llava-1.5-7b-hf"; exit 2; }
	$(install-lmms)
	$(VENV)-lmms/bin/python -m tools.bench_paper --model "$(MODEL)" $(ARGS)

bench-quick: ## every bench on small sizes but those that need a server; under three minutes each
	$(call install,dev,-e '.[dev]' $(BESIDE))
	rm -rf out/bench-quick
	$(VENV)/bin/otprune fetch vit-s
	$(VENV)/bin/otprune bench all --quick --out out/bench-quick

bench-guards: ## what selection may cost beside the published algorithm, alone and beside two busy processes
	$(call install,dev,-e '.[dev]' $(BESIDE))
	$(PY) -m pytest bench/guards

check: ## lint, format, types
	$(call install,dev,-e '.[dev]' $(BESIDE))
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

docs: ## the documentation as a site, in site/; it and the site need no network
	$(call install,docs,-e '.[dev$(comma)docs]' $(BESIDE))
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	$(PY) -m pytest -m docs tests/docs

demo-model: ## train the embedded model again: hours; resumes where it stopped
	$(call install,train,-e '.[demo]' -e './training[photos]')
	$(PY) -m otprune_training.train $(RUN)
	$(PY) -m otprune_training.export $(RUN)
	$(PY) -m otprune_training.evaluate $(RUN)
	$(PY) -m otprune_training.dense $(RUN)
	$(PY) -m otprune_training.evaluate $(RUN) --dense

demo-models: ## two more of the embedded model's kind, which `make bench-mass` compares
	$(call install,train,-e '.[demo]' -e './training[photos]')
	test -f $(RUN)/talks.pt || $(MAKE) demo-model
	$(PY) -m otprune_training.train runs/seed1 --seed 1 --tower $(RUN) --language 600 --talks 150
	$(PY) -m otprune_training.export $(RUN) runs/models/questions --stage language
	$(PY) -m otprune_training.export runs/seed1 runs/models/seed1

runs/models/theta10000/model.safetensors:
	$(call install,train,-e '.[demo]' -e './training[photos]')
	$(PY) -m otprune_training.train runs/theta10000 --weights src/otprune/demo/model \
	  --theta 10000 --language 0 --talks 500 --batch 16 --float32 --threads 1 --seed 1
	$(PY) -m otprune_training.export runs/theta10000 runs/models/theta10000

bench-distance: runs/models/theta10000/model.safetensors ## what positions and the distance term add
	$(VENV)/bin/otprune bench distance --out docs/results/distance \
	  --model theta10000=runs/models/theta10000

bench-mass: demo-models ## what attention mass adds, in three models
	$(VENV)/bin/otprune bench mass --out docs/results/mass \
	  --model questions=runs/models/questions --model seed1=runs/models/seed1

# Where MuJoCo renders: osmesa needs Debian's libosmesa6 and no GPU.
bench-robot: export MUJOCO_GL ?= osmesa
bench-robot: ## selectors of streams on a simulated robot's camera and on real clips; half an hour
	$(call install,robot,-e '.[encoder]' -e ./training -e './bench[robot]')
	$(PY) -m otprune_bench.robot.episodes runs/robot
	-$(PY) -m otprune_bench.robot.clips runs/robot
	$(VENV)/bin/otprune fetch vit-s
	$(VENV)/bin/otprune bench robot --out docs/results/robot

clean:
	rm -rf $(VENV) $(VENV)-lmms $(VENV)-vllm $(VENV)-ray runs out site
