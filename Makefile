# CI runs `check`, then a part of `faults` and `interop`. Only Go is needed for all but `interop`, which installs Debian packages.
MODULES := . services/admin services/antivirus services/archive services/disclaimer services/egress services/ingress services/signer cmd/stagecoach test
TOOL    := GOWORK=off go -C tools tool
FUZZTIME ?= 10s
RUN ?= .

.PHONY: build test race fuzz lint gen faults interop bench images compose-test check

build: ## every module by itself, as an image builds it
	@for m in $(MODULES); do echo "build $$m"; GOWORK=off CGO_ENABLED=0 go -C $$m build ./... || exit 1; done

test:
	go test work

race: ## the packages in which goroutines meet
	go test -race -short work

fuzz: ## each fuzz target for FUZZTIME
	./tools/fuzz $(FUZZTIME)

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$'))" || { echo "gofmt -w these:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet work
	./tools/lint $(MODULES)

gen: ## generated code, after a change of proto/
	./tools/gen

faults: ## kills, pauses and cuts under load; six minutes, RUN=pattern for a part
	go test -count=1 -tags faults -timeout 20m -run '$(RUN)' ./test/faults/...

interop: ## against programs that are not ours, which it installs (apt-get, as root); two minutes
	./test/interop/install
	go test -count=1 -tags interop -timeout 20m ./test/interop/...

bench: ## against a bare relay, in one run; five minutes, ARGS="-mode bare,up -corpus mixed -rate 0" for a part
	go run ./test/bench $(ARGS)

images: ## container images, with base images of this machine's making, so without a registry
	./deploy/compose/images --local

compose-test: ## the compose file: built, started, tried and stopped; needs an engine
	./deploy/compose/plugin/install
	./deploy/compose/test --local

check: test race lint build
