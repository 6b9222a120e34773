# The two commands that matter: `make demo` shows the main job, `make test`
# passes every check that CI runs. `make help` lists the rest.

GO      ?= go
TOOL    := $(GO) tool -modfile=tools/tools.mod
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/quorumlb/quorumlb/internal/version.Version=$(VERSION)
BIN     := bin
# What the contract in proto/ is compared with: main, and on main the commit before.
BASE    ?= $(shell m=$$(git rev-parse -q --verify main || git rev-parse -q --verify origin/main || git rev-parse HEAD); \
	if [ "$$m" = "$$(git rev-parse HEAD)" ]; then git rev-parse -q --verify HEAD^ || echo $$m; else echo $$m; fi)

# Packages whose tests run without the network lab.
UNIT := $(shell $(GO) list ./... 2>/dev/null | grep -v -e /test/)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

.PHONY: build
build: ## build the three programs into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

.PHONY: demo
demo: prepare build ## a lab of five nodes, seven disasters, one table (KEEP=1 keeps the lab)
	QUORUMLB_BIN=$(CURDIR)/$(BIN) $(GO) run ./test/demo $(if $(KEEP),-keep)

.PHONY: test
test: generate-check vet unit sim e2e model ## everything that CI runs

.PHONY: prepare
prepare: ## install, or name, the system tools that the lab needs
	@./test/prepare

.PHONY: generate
generate: ## generate code from proto/
	$(TOOL) buf generate

.PHONY: generate-check
generate-check: ## lint proto/, compare it with main, check that generated code is current
	$(TOOL) buf lint
	$(TOOL) buf breaking --against '.git#ref=$(BASE)'
	@rm -rf .cache/gen && mkdir -p .cache/gen && $(TOOL) buf generate -o .cache/gen
	@cd .cache/gen/proto && find . -name '*.go' | while read f; do \
		cmp -s "$$f" "../../../proto/$$f" || { echo "proto/$$f is not current: run 'make generate' and commit the result"; exit 1; }; done
	@cd proto && find . -name '*.pb.go' | while read f; do \
		[ -e "../.cache/gen/proto/$$f" ] || { echo "proto/$$f comes from no .proto file: delete it"; exit 1; }; done
	@rm -rf .cache/gen

.PHONY: vet
vet: ## go vet, staticcheck, gofmt
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofmt-ed:"; echo "$$out"; exit 1; }

.PHONY: unit
unit: ## unit tests with the race detector
	$(GO) test -race -timeout 15m $(UNIT)

.PHONY: e2e
e2e: build ## the lab: real processes, real sockets, real frames
	@./test/prepare test
	QUORUMLB_BIN=$(CURDIR)/$(BIN) $(GO) test -timeout 30m -count=1 -p 1 ./test/...

.PHONY: chaos
chaos: ## five nodes under a random mix of faults (SEED=, TIME=10m; a report in .cache/chaos)
	QUORUMLB_CHAOS_SEED=$(SEED) QUORUMLB_CHAOS_TIME=$(or $(TIME),10m) $(GO) test -run '^TestChaos$$' -v -count=1 -timeout 0 ./test/chaos

.PHONY: sim
sim: ## simulate random schedules for TIME (60s), or play the one of SEED again
	$(GO) test ./test/sim -count=1 -timeout 0 -run '^TestSim$$' -v -args -sim.seed=$(or $(SEED),0) -sim.time=$(or $(TIME),60s)

.PHONY: operations
operations: ## hold a million random operations against the rules of allocation, ten minutes (CHECKS=8400 runs of 120)
	$(GO) test ./raftnode/decider -count=1 -timeout 0 -run '^TestOperationsAgainstTheRules$$' -v -rapid.checks=$(or $(CHECKS),8400)

.PHONY: model
model: ## check the protocol with spin, and that each of its rules is needed
	@./test/prepare model
	$(GO) run ./test/model

.PHONY: mutants
mutants: ## which prover notices which of the deliberate bugs, an hour or two (ARGS="-only lease -chaos 0")
	$(GO) run ./test/mutants $(ARGS)

.PHONY: bench
bench: build ## every speed claim beside its peer, some hours; goes on where it was broken off (ARGS="-only writes")
	@./test/prepare bench
	QUORUMLB_BIN=$(CURDIR)/$(BIN) $(GO) run ./test/bench $(ARGS)

.PHONY: bench-report
bench-report: ## docs/benchmarks.md and its plots from what is measured
	$(GO) run ./test/bench -report $(ARGS)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (default 20s)
	@for p in $$($(GO) list ./... | grep -v /test/); do \
		for f in $$($(GO) test -list '^Fuzz' $$p 2>/dev/null | grep '^Fuzz'); do \
			echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(or $(FUZZTIME),20s) $$p || exit 1; done; done

.PHONY: clean
clean: ## remove what the build made
	rm -rf $(BIN) .cache
