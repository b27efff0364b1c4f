# Short names for what .venv/bin/edge-osbuild does. The first target that needs it makes the environment.

PROFILE ?= edge-server
ARCH ?=
ARGS ?=
TARGET ?=
NODE ?=
PROCESSES ?= 2

EDGE = .venv/bin/edge-osbuild
PYTEST = .venv/bin/python -m pytest
# A guest whose emulated timer fails (osbuild/qemu/serial.py) says nothing about the image: its test runs once more.
BOOT_TESTS = $(PYTEST) qemu-tests --board all --reruns 1 --only-rerun GuestStalled
READY = .venv/.ready
arch = $(if $(ARCH),--arch $(ARCH))
newest = $$(ls -td build/$(basename $(notdir $(PROFILE)))-[0-9]*-$(or $(ARCH),*)/ | head -n 1)

.PHONY: help image run bundle serve flash no-target test test-all test-quick test-unit test-postgresql test-images test-cluster test-qemu test-qemu-all bench conformance lint doctor wheel clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12
	@echo "Variables: PROFILE=$(PROFILE) ARCH=<as the profile says> ARGS=<further arguments>"

image: $(READY)  ## build an image: make image PROFILE=minimal ARCH=x86_64
	$(EDGE) build $(PROFILE) $(arch) $(if $(KEYS),--keys $(KEYS)) $(ARGS)

run: image build/ssh/id_ed25519  ## build an image and boot it in QEMU, with a user `edge` for the key build/ssh/id_ed25519
	@$(EDGE) seed $(PROFILE) --node dev -o "$(newest)seed.iso" \
		--set 'users=[{name: edge, sudo: true, ssh_keys: ["file:$(CURDIR)/build/ssh/id_ed25519.pub"]}]'
	@echo "log in with: ssh -i build/ssh/id_ed25519 edge@…, with the port that is shown below"
	$(EDGE) run "$(newest)" $(ARGS)

flash: $(if $(TARGET),image,no-target)  ## build an image and write it to a card: make flash TARGET=/dev/sdX NODE=name
	$(EDGE) flash "$(newest)" $(TARGET) $(if $(NODE),--profile $(PROFILE) $(NODE:%=--node %)) $(ARGS)

no-target: $(READY)
	@echo "Name the card: make flash TARGET=/dev/sdX. These are there:" >&2; $(EDGE) devices >&2; exit 2

serve: $(READY)  ## serve updates to devices: make serve ARGS="--listen 0.0.0.0:8443"
	$(EDGE) serve $(ARGS)

bundle: image  ## build an image and make a signed bundle: make bundle KEYS=keys/ (default: development keys)
	$(EDGE) bundle "$(newest)" $(if $(KEYS),--keys $(KEYS))

build/ssh/id_ed25519:
	@mkdir -p build/ssh && ssh-keygen -q -t ed25519 -N '' -C edge-osbuild-dev -f $@

# Runs parts one after the other, up to the first that fails, and says at the end how long each took.
define parts
	@mkdir -p build; : > build/.parts; status=0; \
	for part in $(1); do \
		begin=$$(date +%s); \
		$(MAKE) --no-print-directory $$part || status=$$?; \
		if [ $$status -eq 0 ]; then word=passed; else word=FAILED; fi; \
		printf '  %-14s %s %5d s\n' $$part $$word $$(($$(date +%s) - begin)) >> build/.parts; \
		[ $$status -eq 0 ] || break; \
	done; \
	echo; cat build/.parts; exit $$status
endef

test: $(READY)  ## run unit tests, build images, run the tests that boot them
	$(call parts,test-unit test-images test-cluster test-qemu)

test-all: export EDGE_FUZZ = all
test-all: $(READY)  ## the same, with the slow tests and all examples; writes docs/failure-matrix.md
	$(call parts,test-unit test-postgresql test-images test-qemu-all)

test-quick: $(READY)  ## run unit tests, boot one image: less than five minutes
	$(call parts,test-unit test-boot)

# Tests of one file run one after the other: they share what its fixtures make. There are twice as many processes as
# processors, since many tests wait for something. Each one imports all tests, which takes twice as long without byte code.
# EDGE_FUZZ=all runs all examples of generated input: see tests/support/examples.py.
test-unit: $(READY)
	tests/support/in-memory env -u PYTHONDONTWRITEBYTECODE $(PYTEST) tests --numprocesses $$(($$(nproc) * 2)) \
		--dist loadfile --no-loadscope-reorder $(ARGS)

# The tests with update servers once more, each server with a database of PostgreSQL instead of a file of SQLite.
test-postgresql: $(READY)
	EDGE_TEST_DATABASE=postgresql tests/support/in-memory $(PYTEST) tests/fleet tests/agent/fleet tests/cli/test_fleet.py \
		-m "not sqlite" --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

test-boot: $(READY)
	$(EDGE) build minimal
	$(PYTEST) qemu-tests/test_system.py -k test_an_image_boots_from_power_on_to_boot_complete $(ARGS)

# What `make test` boots: see qemu-tests/support/matrix.py.
test-images: $(READY)
	$(EDGE) build minimal
	$(EDGE) build edge-server
	$(EDGE) build edge-agent
	$(EDGE) build minimal --board arm64
	$(EDGE) build minimal --board armv7

# A boot of a cluster keeps two processors busy. Beside another guest it takes more than three times as long.
test-cluster: $(READY)
	$(BOOT_TESTS) -m "not slow and alone" $(ARGS)

# Groups of tests (qemu-tests/support/groups.py) in several processes: while the guest of one waits, the other computes.
# A guest has one processor then, so more processes than processors would only make all guests slow. PROCESSES=0 runs one
# test after the other, with two processors for each guest.
test-qemu: $(READY)
	$(BOOT_TESTS) -m "not slow and not alone" --numprocesses $(PROCESSES) \
		--dist loadgroup --no-loadscope-reorder $(ARGS)

# One process: docs/failure-matrix.md has the seconds of each case, and devices must be healthy before a deadline.
test-qemu-all: $(READY)
	$(EDGE) build minimal --board rpi2
	$(EDGE) build minimal --board rpi3
	for board in x86_64 arm64 armv7; do \
		for profile in minimal edge-server edge-agent; do $(EDGE) build $$profile --board $$board || exit 1; done; \
	done
	rm -rf build/failure-matrix; status=0; $(BOOT_TESTS) $(ARGS) || status=$$?; \
	.venv/bin/python qemu-tests/support/ledger.py --discard || status=$$?; exit $$status

bench: $(READY)  ## measure builds, sizes, memory and boot times
	PYTHONPATH=qemu-tests .venv/bin/python -m bench $(ARGS)

conformance: $(READY)  ## run Kubernetes' conformance tests: make conformance ARGS="--focus Secrets --minutes 30 --node native"
	PYTHONPATH=qemu-tests .venv/bin/python -m conformance $(ARGS)

lint: $(READY)  ## run ruff, mypy and shellcheck
	$(PYTEST) tests/test_lint.py

doctor: $(READY)  ## show what this host lacks
	$(EDGE) doctor

wheel: $(READY)  ## make the wheel, which pip installs, in build/
	rm -f build/edge_osbuild-*.whl
	.venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build .

clean:  ## delete build/ (keeps the cache and .venv)
	rm -rf --one-file-system build

.venv: $(READY)
.PHONY: .venv

# Host packages are only touched where one is missing. The environment is made by the first Python that is new enough.
$(READY): pyproject.toml host-packages.txt
	@lack=; for package in $$(sed 's/#.*//' host-packages.txt); do \
		dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || lack="$$lack $$package"; \
	done; \
	if [ -n "$$lack" ]; then \
		set -- apt-get install --no-install-recommends --yes $$lack; \
		if [ "$$(id -u)" -ne 0 ]; then \
			echo "This host lacks some packages. As root: apt-get update && $$*" >&2; exit 1; \
		fi; \
		echo "Installing on this host:$$lack"; export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && "$$@" -qq > /dev/null || exit 1; \
	fi
	@for python in python3 python3.14 python3.13 python3.12 python3.11 ""; do \
		if [ -z "$$python" ]; then \
			echo "No Python 3.11 or later with venv: apt-get install python3.11-venv" >&2; exit 1; \
		fi; \
		$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done; \
	echo "Making .venv with $$($$python --version)"; \
	[ -x .venv/bin/python ] || $$python -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@
