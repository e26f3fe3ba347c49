# CI runs `check`, then a part of `faults` and `interop`. Only Go is needed for all but `interop`, which installs Debian packages.
MODULES := . services/admin services/antivirus services/archive services/disclaimer services/egress services/ingress services/signer cmd/stagecoach test
TOOL    := GOWORK=off go -C tools tool
FUZZTIME ?= 10s
RUN ?= .

.PHONY: build test race fuzz lint gen alerts faults interop bench images compose-test compose-faults reproducible check

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

alerts: ## what deploy/observability asks of Prometheus, by its own code
	GOWORK=off go -C tools/promcheck test ./...

faults: ## kills, pauses and cuts under load; six minutes, RUN=pattern for a part
	go test -count=1 -tags faults -timeout 20m -run '$(RUN)' ./test/faults/...

interop: ## against programs that are not ours, which it installs (apt-get, as root); two minutes
	./test/interop/install
	go test -count=1 -tags interop -timeout 20m ./test/interop/...

bench: ## against a bare relay, in one run; five minutes, ARGS="-mode bare,up -corpus mixed -rate 0" for a part
	go run ./test/bench $(ARGS)

images: ## container images, with base images of this machine's making, so without a registry
	./deploy/compose/images --local

compose-test: ## the compose files, in containers of their own: needs an engine, and root; ten minutes, RUN=pattern for a part
	@if docker info >/dev/null 2>&1; then ./deploy/compose/plugin/install && ./deploy/compose/images --local; fi
	go test -count=1 -tags compose -timeout 20m -v -run '$(RUN)' -skip TestCluster ./test/compose

compose-faults: ## of each kind one container of the cluster is killed, paused, cut off; a quarter of an hour, prints the recovery times
	@if docker info >/dev/null 2>&1; then ./deploy/compose/plugin/install && ./deploy/compose/images --local; fi
	go test -count=1 -tags compose -timeout 60m -v -run 'TestCluster' ./test/compose

reproducible: ## two builds in two places give the same programs, byte for byte
	./deploy/compose/images --twice

check: test race lint build alerts
