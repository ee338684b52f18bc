# `make help` lists the targets. Tools and the local cluster install themselves into a cache outside the checkout.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# IMG is the controller's image; CONTROLLER_IMG is another name of it.
CONTROLLER_IMG ?= opensandbox/controller:dev
IMG ?= $(CONTROLLER_IMG)
TASK_EXECUTOR_IMG ?= opensandbox/task-executor:dev
# IMAGE_PULL_POLICY is the Deployment's: IfNotPresent suits loaded images, Always a tag that is pushed again and again.
IMAGE_PULL_POLICY ?= IfNotPresent
CONTAINER_TOOL ?= docker
# OVERLAY is the kustomization that is deployed: config/default, config/namespaced or one of your own.
OVERLAY ?= config/default
# CLUSTER is the kind of local cluster: node (real kubelet), kwok (simulated nodes) or kind. CLUSTER_NAME tells several apart.
CLUSTER ?= node
CLUSTER_NAME ?= default
# GOTESTFLAGS are added to every `go test`, FUZZTIME is spent on each fuzz target.
GOTESTFLAGS ?=
FUZZTIME ?= 10s
# PLUGIN_PLATFORMS are those that .krew.yaml names.
PLUGIN_PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64

LOCALCLUSTER = go -C hack/localcluster run .
KUBECTL ?= $(or $(shell command -v kubectl 2>/dev/null),$(shell $(LOCALCLUSTER) assets --cluster=kwok)/kubectl)
# The race detector needs a C compiler; without one the tests run without it.
RACE := $(if $(shell command -v $${CC:-gcc} 2>/dev/null),-race)
GOTEST = go test $(RACE) -shuffle=on -timeout=20m $(GOTESTFLAGS)
# Nothing of the machine, the folder, the time or the clone gets into a binary: see the target reproducible.
GOBUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X main.version=$(VERSION)'

##@ General

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-30s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: clean
clean: ## Delete what the targets wrote into the checkout (the cache and clusters stay)
	rm -rf bin

##@ Development

.PHONY: build
build: ## Build the static binaries bin/controller, bin/task-executor and bin/kubectl-sandbox
	$(GOBUILD) -o bin/controller ./cmd/controller
	$(GOBUILD) -o bin/task-executor ./cmd/task-executor
	$(GOBUILD) -o bin/kubectl-sandbox ./cmd/kubectl-sandbox

.PHONY: plugin-archives
plugin-archives: ## Build the kubectl plugin for PLUGIN_PLATFORMS, as the archives in bin/plugin that .krew.yaml names
	rm -rf bin/plugin && mkdir -p bin/plugin
	for platform in $(PLUGIN_PLATFORMS); do \
		folder=bin/plugin/$${platform/\//_}; \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} $(GOBUILD) -o $$folder/kubectl-sandbox ./cmd/kubectl-sandbox; \
		cp LICENSE THIRD_PARTY_NOTICES $$folder/; \
		tar --create --gzip --owner=0 --group=0 --mode=a=rX,u+w --sort=name --mtime=@0 \
			--file=bin/plugin/kubectl-sandbox_$(VERSION)_$${platform/\//_}.tar.gz --directory=$$folder .; \
		rm -r $$folder; \
	done

.PHONY: fmt
fmt: ## Format all Go files
	gofmt -w $$(hack/verify/go-files.sh)

.PHONY: generate
generate: ## Generate deep copies of the API types, and the clients in pkg/client
	hack/tools/generate.sh deepcopy
	hack/tools/generate.sh clients

.PHONY: manifests
manifests: ## Generate definitions (with and without CEL rules), docs/reference.md and the controller's role
	hack/tools/generate.sh manifests

.PHONY: chart
chart: ## Generate the Helm chart's templates from config/, and the table of its values
	hack/tools/generate.sh chart

.PHONY: licenses
licenses: ## Judge the licences of what is linked into the binaries, and write THIRD_PARTY_NOTICES
	go -C hack/licenses run .

.PHONY: lint
lint: ## Run the linters over every module with code of its own
	hack/verify/lint.sh

.PHONY: verify
verify: ## Check every promise about the checkout; each failure names the command that fixes it
	hack/verify/all.sh

.PHONY: reproducible
reproducible: ## Build the binaries twice, in other folders and with other caches, and compare them (minutes)
	hack/verify/reproducible.sh

.PHONY: vulncheck
vulncheck: ## Look for known vulnerabilities in what the binaries call; fails where VULNDB can't be read
	hack/verify/vulncheck.sh

.PHONY: presubmit
presubmit: verify lint test-unit ## What to run before a push

##@ Tests

.PHONY: test
test: test-unit test-rules test-fuzz test-integration test-faults test-e2e test-helm test-browser ## Run all tests

.PHONY: test-unit
test-unit: ## Run unit tests (no cluster)
	@[ -n "$(RACE)" ] || echo "no C compiler found: the tests run without the race detector (install gcc to have it)"
	$(GOTEST) $$(go list ./... | grep -v '^opensandbox.io/controller/test/\(integration\|e2e\)')
	go -C hack/localcluster test $(RACE) -shuffle=on $(GOTESTFLAGS) ./...
	go -C hack/licenses test $(RACE) -shuffle=on $(GOTESTFLAGS) ./...

.PHONY: test-rules
test-rules: ## Test the rules and alerts for Prometheus, and the queries of the dashboard, with promtool
	hack/test/rules.sh $(GOTEST)

.PHONY: test-integration
test-integration: ## Run integration tests against a real API server and etcd
	hack/test/with-cluster.sh kwok integration -- $(GOTEST) ./test/integration/...

.PHONY: test-faults
test-faults: ## Run two controllers with faults for a minute: the target faults, short and always the same
	@$(MAKE) faults FOR=60s SEED=1

.PHONY: test-e2e
test-e2e: ## Run end-to-end tests on a real node (Linux as root)
	@if [ "$$(uname -s)" != Linux ] || [ "$$(id -u)" != 0 ]; then \
		echo "SKIP test-e2e: a real node needs Linux and root; this is $$(uname -s) as $$(id -un)"; \
	else \
		hack/test/with-cluster.sh node e2e -- hack/test/e2e.sh $(GOTEST) ./test/e2e/...; \
	fi

.PHONY: test-helm
test-helm: ## Install, upgrade and uninstall the chart on a real node (Linux as root)
	@if [ "$$(uname -s)" != Linux ] || [ "$$(id -u)" != 0 ]; then \
		echo "SKIP test-helm: a real node needs Linux and root; this is $$(uname -s) as $$(id -un)"; \
	else \
		hack/test/with-cluster.sh node helm -- hack/test/helm.sh $(GOTEST) ./test/e2e/... -run Sample; \
	fi

.PHONY: test-browser
test-browser: ## Test the dashboard in a headless browser on a real node (Linux as root): SCREENSHOTS=docs/images writes those of the docs
	hack/test/browser.sh go -C test/browser test -timeout=20m $(GOTESTFLAGS) ./... $(if $(SCREENSHOTS),-screenshots=$(abspath $(SCREENSHOTS)))

.PHONY: bench
bench: ## Measure on a simulated cluster: BENCH=scenarios, N=, RATE=, POOL=, FOR=, RUNS=, BENCHFLAGS=
	$(GOBUILD) -o bin/controller ./cmd/controller
	$(GOBUILD) -o bin/bench ./test/bench
	bin/bench $(if $(BENCH),-bench=$(BENCH)) $(if $(N),-n=$(N)) $(if $(RATE),-rate=$(RATE)) $(if $(POOL),-pool=$(POOL)) \
		$(if $(FOR),-for=$(FOR)) $(if $(RUNS),-runs=$(RUNS)) $(BENCHFLAGS)

.PHONY: test-fuzz
test-fuzz: ## Fuzz every fuzz target for two seconds each
	hack/test/fuzz.sh 2s

.PHONY: faults
faults: ## Break everything around two controllers and audit what became of it: FOR=10m, SEED=random, FAULTSFLAGS=
	$(GOBUILD) -o bin/controller ./cmd/controller
	$(GOBUILD) -o bin/faults ./test/faults
	bin/faults $(if $(FOR),-for=$(FOR)) $(if $(SEED),-seed=$(SEED)) $(FAULTSFLAGS)

.PHONY: mutants
mutants: ## Break the controller in one place after the other, and see that faults finds each: MUTANTS="a b", FOR=, SEEDS=
	FOR=$(FOR) SEEDS='$(SEEDS)' FAULTSFLAGS='$(FAULTSFLAGS)' hack/test/mutants.sh $(MUTANTS)

.PHONY: fuzz
fuzz: ## Fuzz every fuzz target for FUZZTIME each
	hack/test/fuzz.sh $(FUZZTIME)

##@ Local cluster

.PHONY: cluster-up
cluster-up: ## Start a local cluster: CLUSTER=node (default), kwok or kind
	$(LOCALCLUSTER) up --cluster=$(CLUSTER) --name=$(CLUSTER_NAME)

.PHONY: cluster-down
cluster-down: ## Stop it and leave nothing behind
	$(LOCALCLUSTER) down --name=$(CLUSTER_NAME)

.PHONY: kubeconfig
kubeconfig: ## Print the path of its kubeconfig (make -s kubeconfig)
	@$(LOCALCLUSTER) kubeconfig --name=$(CLUSTER_NAME)

.PHONY: demo
demo: ## Show it all on a local cluster, from nothing to tasks in sandboxes
	@CLUSTER=$(CLUSTER) CLUSTER_NAME=$(CLUSTER_NAME) MAKE="$(MAKE)" hack/demo/demo.sh

.PHONY: walkthrough
walkthrough: ## Run hack/walkthrough/commands.txt on a real node (Linux as root), and draw it as docs/images/walkthrough.svg
	hack/test/with-cluster.sh node walk -- hack/test/deployed.sh \
		bash -c 'PATH=$$PWD/bin:$$PATH go run ./hack/walkthrough hack/walkthrough/commands.txt docs/images/walkthrough.svg'

.PHONY: sbom
sbom: build ## Write a bill of materials (CycloneDX) for each binary to bin/NAME.cdx.json, and check it
	for binary in controller task-executor kubectl-sandbox; do \
		"$$(hack/tools/tool.sh cyclonedx-gomod)" bin -json -output-version 1.6 -std -noserial -notimestamp -version $(VERSION) \
			-output bin/$$binary.cdx.json bin/$$binary; \
		go run ./hack/verify/sbom bin/$$binary bin/$$binary.cdx.json $(VERSION); \
	done

##@ Images

.PHONY: images
images: build ## Write both images as loadable tarballs to bin/images, without any container engine
	mkdir -p bin/images
	$(LOCALCLUSTER) images --out=$(CURDIR)/bin/images --bin=$(CURDIR)/bin --controller-image=$(IMG) --task-executor-image=$(TASK_EXECUTOR_IMG)

.PHONY: docker-build
docker-build: ## Build the controller's image IMG
	$(CONTAINER_TOOL) build --build-arg VERSION=$(VERSION) -t $(IMG) -f Dockerfile .

.PHONY: docker-push
docker-push: ## Push the controller's image IMG
	$(CONTAINER_TOOL) push $(IMG)

.PHONY: docker-build-task-executor
docker-build-task-executor: ## Build the task-executor's image TASK_EXECUTOR_IMG
	$(CONTAINER_TOOL) build --build-arg VERSION=$(VERSION) -t $(TASK_EXECUTOR_IMG) -f Dockerfile.task-executor .

.PHONY: docker-push-task-executor
docker-push-task-executor: ## Push the task-executor's image TASK_EXECUTOR_IMG
	$(CONTAINER_TOOL) push $(TASK_EXECUTOR_IMG)

##@ Deployment, to the cluster of KUBECONFIG

.PHONY: install
install: ## Install the custom resource definitions
	KUBECTL='$(KUBECTL)' hack/deploy/deploy.sh install

.PHONY: uninstall
uninstall: ## Delete all batches and pools, then the definitions
	KUBECTL='$(KUBECTL)' hack/deploy/undeploy.sh uninstall

.PHONY: deploy
deploy: ## Deploy the controller IMG, and write samples with TASK_EXECUTOR_IMG to bin/deploy/samples
	KUBECTL='$(KUBECTL)' CONTAINER_TOOL='$(CONTAINER_TOOL)' IMG='$(IMG)' TASK_EXECUTOR_IMG='$(TASK_EXECUTOR_IMG)' \
		IMAGE_PULL_POLICY='$(IMAGE_PULL_POLICY)' OVERLAY='$(OVERLAY)' hack/deploy/deploy.sh deploy

.PHONY: undeploy
undeploy: ## Delete all batches and pools, then the controller and the definitions
	KUBECTL='$(KUBECTL)' OVERLAY='$(OVERLAY)' hack/deploy/undeploy.sh undeploy
