# Everything the project needs is fetched by the targets below, at pinned versions, into one cache that all clones share:
# ${CATENA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/catena}. What is there already costs nothing. Only Go has to be
# installed, npm for the embedded engine, and Java and Maven for the targets that name Kafka.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CACHE := $(or $(CATENA_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/catena)
VERSION ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)

GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := $(CACHE)/bin/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint

# What may be set on the command line, as in `make bench BENCH=Decode COUNT=6`.
PKG ?= ./...
TESTFLAGS ?=
BENCH ?= .
BENCHTIME ?= 1s
COUNT ?= 1
ROWS ?= 20000000
RUNS ?= 15
DATA ?=
FUZZ ?= ^Fuzz
FUZZSKIP ?= ^FuzzSource
FUZZPARALLEL ?=
FUZZTIME ?= 60s
SEEDS ?= 2000
MUTANT ?=
MUTANTS ?= 1
META ?= 200
SIZING ?= 300000
SIZING_LIMIT ?=
CRASHSEED ?= 0
RECORDS ?= 5000000
RATE ?= 3000
AWAY ?= 10m
DURATION ?= 30m
KAFKA_PORT ?= 9092
KAFKA_DATA ?= $(CACHE)/kafka-data

# need stops with a sentence instead of "command not found": $(call need,command,how to get it).
need = command -v $(1) >/dev/null || { echo 'make $@ needs $(1), which was not found: $(2)' >&2; exit 1; }
need_go = $(call need,go,install Go 1.26 or newer (go.dev/dl))

# every_test passes on what go test -v says, line by line, and fails if a test was skipped or none matched: for the targets that exist
# to run tests which plain `go test ./...` skips.
every_test = { bad=; while IFS= read -r line; do printf '%s\n' "$$line"; \
	case "$$line" in *'--- SKIP'*|*'[no tests to run]'*) bad=yes ;; esac; done; \
	[ -z "$$bad" ] || { echo 'make $@: a test that had to run did not' >&2; exit 1; }; }

.PHONY: help build check-deploy manifests sizing demo demo-live test test-kafka test-page chromium test-crash check sim mutants bench bench-writer bench-sql fuzz fuzz-sources dashboards kafka clean \
	libchdb kafka-fetch fmt-check tidy-check vet imports lint race clean-cache reference

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## compile bin/catena
	@$(need_go)
	go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/catena ./cmd/catena

demo: libchdb build ## run the five stories once, with Kafka and ClickHouse embedded, and print what catena found
	bin/catena demo

demo-live: libchdb build ## the same, and keep serving it to a ClickHouse client until Ctrl-C
	bin/catena demo --serve

test: libchdb ## run all tests that need neither Java nor a server (TESTFLAGS=…)
	@$(need_go)
	CATENA_REQUIRE_LIBCHDB=1 go test $(TESTFLAGS) ./...

test-kafka: libchdb kafka-fetch ## run the tests against a real Kafka broker and real ClickHouse clients
	@$(need_go)
	@CATENA_TEST_KAFKA=1 CATENA_REQUIRE_LIBCHDB=1 \
		go test ./cmd/catena -run 'TestKafka' -count=1 -v -timeout 15m | $(every_test)
	@clients="$$(bash deploy/dev/clients.sh)"; \
	CATENA_TEST_CLIENTS="$$clients" CATENA_REQUIRE_LIBCHDB=1 \
		go test ./sinks/embedded -run 'Client' -count=1 -v -timeout 10m | $(every_test)

test-crash: libchdb kafka-fetch ## kill catena again and again, and do worse, against real Kafka; the rows stay equal to the truth (CRASHSEED=…)
	@$(need_go)
	@CATENA_TEST_CRASH=1 CATENA_REQUIRE_LIBCHDB=1 \
		go test ./cmd/catena -run '^TestCrash' -crash.seed $(CRASHSEED) -count=1 -v -timeout 15m | $(every_test)

test-page: libchdb chromium ## drive the page with the keyboard in a headless Chromium (PAGE_UPDATE=1 takes the screenshots of docs/ anew)
	@$(need_go)
	@CATENA_TEST_CHROMIUM="$$(bash deploy/dev/chromium.sh)" CATENA_REQUIRE_LIBCHDB=1 \
		go test ./cmd/catena -run '^TestBrowser' -count=1 -v -timeout 10m $(if $(PAGE_UPDATE),-args -update) | $(every_test)

check-deploy: ## hold the files of deploy against the loaders and linters of Compose, BuildKit, Helm, Kubernetes, Prometheus and Grafana
	@$(need_go)
	cd deploy/check && go mod tidy -diff && go vet . && go test -count=1 .

manifests: ## render deploy/k8s from the chart in deploy/helm
	@$(need_go)
	cd deploy/check && go test -count=1 . -run '^TestManifests$$' -update

test-moves: libchdb kafka-fetch ## let records flow through three instances whose partitions move all the time (RECORDS=5000000 RATE=3000)
	@$(need_go)
	@CATENA_TEST_CRASH=1 CATENA_REQUIRE_LIBCHDB=1 \
		go test ./cmd/catena -run '^TestMoves$$' -crash.seed $(CRASHSEED) -crash.records $(RECORDS) -crash.rate $(RATE) -count=1 -v -timeout 3h | $(every_test)

test-away: libchdb kafka-fetch ## take the database away while records come in, and see that memory stays bounded (AWAY=10m RATE=3000)
	@$(need_go)
	@CATENA_TEST_CRASH=1 CATENA_REQUIRE_LIBCHDB=1 \
		go test ./cmd/catena -run '^TestCrashAway$$' -crash.seed $(CRASHSEED) -crash.away $(AWAY) -crash.rate $(RATE) -count=1 -v -timeout 3h | $(every_test)

soak: libchdb kafka-fetch ## let records flow at a steady pace; fails if memory or goroutines rise (DURATION=30m RATE=3000)
	@$(need_go)
	@CATENA_TEST_CRASH=1 CATENA_REQUIRE_LIBCHDB=1 \
		go test ./cmd/catena -run '^TestSoak$$' -crash.seed $(CRASHSEED) -crash.soak $(DURATION) -crash.rate $(RATE) -count=1 -v -timeout 24h | $(every_test)

check: fmt-check tidy-check vet imports lint race ## everything that must hold before a commit, next to the tests

sim: ## play 2,000 made-up worlds against the truth, and 200 of them in twenty deliveries each (SEEDS=… META=…)
	@$(need_go)
	@go test ./correlate/simtest -run '^(TestTruth|TestMetamorphic)$$' -seeds $(SEEDS) -meta $(META) -count=1 -v -timeout 20m | $(every_test)

mutants: ## plant each of the known bugs in the correlator and see that the worlds find it (MUTANT=part of a name, MUTANTS=4 for a quarter of them)
	@$(need_go)
	@go test ./correlate/simtest -run '^TestMutants$$' -mutants -mutant '$(MUTANT)' -mutant.every $(MUTANTS) -mutant.from "$$(git rev-list --count HEAD 2>/dev/null || echo 0)" -count=1 -v -timeout 60m | $(every_test)

sizing: libchdb ## measure the whole path as docs/sizing.md tells it (SIZING=300000 records, SIZING_LIMIT=1GiB of memory)
	@$(need_go)
	@CATENA_SIZING=$(SIZING) CATENA_SIZING_LIMIT='$(SIZING_LIMIT)' CATENA_REQUIRE_LIBCHDB=1 go test ./cmd/catena -run '^TestSizing$$' -count=1 -v -timeout 30m | $(every_test)

bench: libchdb ## run the benchmarks (BENCH=regexp PKG=./… COUNT=6 for benchstat, BENCHTIME=1s)
	@$(need_go)
	go test -run '^$$' -bench '$(BENCH)' -benchmem -benchtime $(BENCHTIME) -count $(COUNT) -timeout 2h $(PKG)

bench-writer: libchdb ## carry rows into the engine and into a Null table, over HTTP and native, as the table of docs/benchmarks.md
	@$(need_go)
	@go test ./sinks/clickhouse -run '^$$' -bench '^BenchmarkWriter$$' -benchtime $(if $(filter 1s,$(BENCHTIME)),10x,$(BENCHTIME)) -timeout 30m | awk '\
		BEGIN { print "| table | protocol | compression | rows/s | CPU s a million rows | the database\047s |"; print "|---|---|---|--:|--:|--:|" } \
		/^BenchmarkWriter\// { sub(/-[0-9]+$$/, "", $$1); split($$1, name, "/"); split("", v); for (i = 3; i < NF; i += 2) v[$$(i + 1)] = $$i; n++; \
			printf "| %s | %s | %s | %.0f | %.1f | %.1f |\n", name[2] == "null" ? "`ENGINE = Null`" : "`" name[2] "`", name[3], name[4], v["rows/s"], v["cpu-s/Mrow"], v["db-cpu-s/Mrow"] } \
		/^(FAIL|panic|---)/ { print > "/dev/stderr"; bad = 1 } \
		END { exit bad || !n }'

# At 20,000,000 rows it wants half an hour on two cores for the filling, 4 GB of memory and 10 GB of disk; DATA keeps the tables for
# the next run, in the same version of the tables.
bench-sql: libchdb ## what each question costs on a large table, as the table of docs/benchmarks.md (ROWS=20000000 RUNS=15 DATA=folder)
	@$(need_go)
	@CATENA_REQUIRE_LIBCHDB=1 go test ./cmd/catena -run '^TestSQLBench$$' -sql.rows $(ROWS) -sql.runs $(RUNS) -sql.data '$(DATA)' -count=1 -v -timeout 3h | $(every_test)

# Of each benchmark line it takes the values by their units; the columns are those of docs/benchmarks.md.
bench-sources: ## decode the golden records of each source next to fastjson's parse, as the table of docs/benchmarks.md
	@$(need_go)
	@go test ./ingest -run '^$$' -bench '^BenchmarkSources$$' -benchtime $(BENCHTIME) | awk '\
		BEGIN { print "| source | records | bytes a record | MB/s | events/s | allocs a record | × fastjson | with SHA-256 |"; print "|---|--:|--:|--:|--:|--:|--:|--:|" } \
		/^BenchmarkSources\// { sub(/^BenchmarkSources\//, "", $$1); sub(/-[0-9]+$$/, "", $$1); split("", v); for (i = 3; i < NF; i += 2) v[$$(i + 1)] = $$i; n++; \
			printf "| `%s` | %d | %.0f | %.0f | %.0f | %.2f | %s | %s |\n", $$1, v["records"], v["B/record"], v["MB/s"], v["events/s"], v["allocs/record"], \
				v["x-fastjson"] ? sprintf("%.2f", v["x-fastjson"]) : "–", v["x-fastjson-hashed"] ? sprintf("%.2f", v["x-fastjson-hashed"]) : "–" } \
		/^(FAIL|panic|---)/ { print > "/dev/stderr"; bad = 1 } \
		END { exit bad || !n }'

# Up to Go 1.26 a run can end in a bare "context deadline exceeded" when its time is up, with no input to show for it
# (golang/go#75804, mended in 1.27). That alone is no finding. A finding leaves its input in testdata/fuzz.
fuzz: ## run each fuzz target but those of sources for FUZZTIME, one after the other (FUZZ=regexp PKG=./…)
	@$(need_go)
	@targets="$$(go test -list '$(FUZZ)' $(PKG) | \
		awk '/^Fuzz/ && !/$(FUZZSKIP)/ { name[++n] = $$1 } $$1 == "ok" { for (i = 1; i <= n; i++) print $$2 ":" name[i]; n = 0 }')"; \
	[ -n "$$targets" ] || { echo 'make fuzz: no fuzz target matches $(FUZZ)' >&2; exit 1; }; \
	log="$$(mktemp)"; trap 'rm -f "$$log"' EXIT; \
	for target in $$targets; do \
		echo "fuzz $$target"; \
		go test -run '^$$' -fuzz "^$${target##*:}\$$" -fuzzminimizetime 20x $(if $(FUZZPARALLEL),-parallel $(FUZZPARALLEL)) -fuzztime $(FUZZTIME) "$${target%:*}" 2>&1 | tee "$$log" && continue; \
		grep -q '^ *context deadline exceeded$$' "$$log" && ! grep -qE 'Failing input written|^panic:' "$$log" || exit 1; \
		echo 'time was up in the middle of an input; nothing was found'; \
	done

fuzz-sources: ## the same for the target of every source (FUZZ=^FuzzSourceOkta FUZZTIME=60s FUZZPARALLEL=1)
	@$(MAKE) --no-print-directory fuzz FUZZ='$(if $(filter ^Fuzz,$(FUZZ)),^FuzzSource,$(FUZZ))' FUZZSKIP='^$$' PKG=./ingest FUZZTIME=$(FUZZTIME) FUZZPARALLEL=$(FUZZPARALLEL)

dashboards: ## write the JSON of the Grafana dashboards from deploy/grafana/*.go
	@$(need_go)
	go run ./deploy/grafana

kafka: kafka-fetch ## run one Kafka node on 127.0.0.1:9092 until Ctrl-C (KAFKA_PORT=… KAFKA_DATA=folder, which is kept)
	@deploy/dev/kafka/kafka.sh run --port $(KAFKA_PORT) --data '$(KAFKA_DATA)'

chromium: ## fetch the headless browser of `make test-page` into the cache
	@bash deploy/dev/chromium.sh >/dev/null

libchdb: ## fetch the embedded ClickHouse engine into the cache
	@bash deploy/dev/libchdb.sh >/dev/null

kafka-fetch: ## fetch Apache Kafka into the cache
	@deploy/dev/kafka/kafka.sh fetch >/dev/null

fmt-check: ## fail if gofmt would change a file
	@$(need_go)
	@unformatted="$$(gofmt -l .)"; [ -z "$$unformatted" ] || { echo "not gofmt-ed: $$unformatted" >&2; exit 1; }

tidy-check: ## fail if go mod tidy would change go.mod or go.sum
	@$(need_go)
	go mod tidy -diff

vet: ## go vet
	@$(need_go)
	go vet ./...

reference: ## write the parts of docs/reference.md that are made of the code
	@$(need_go)
	go test ./cmd/catena -run '^TestReference$$' -count=1 -update

imports: ## fail if a package imports against the one-way path
	@$(need_go)
	@go test ./cmd/catena -run '^TestImports' -count=1 -v | $(every_test)

lint: ## golangci-lint, built at its pinned version the first time
	@$(need_go)
	@[ -x '$(GOLANGCI_LINT)' ] || { echo 'building golangci-lint $(GOLANGCI_LINT_VERSION), once: two to four minutes …' >&2; \
		GOFLAGS= GOBIN='$(dir $(GOLANGCI_LINT))' \
		go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION); }
	'$(GOLANGCI_LINT)' run ./...

# Of the program's own tests those that run the whole path: all of them would take ten minutes, and most run it again.
RACE ?= ^(TestEndToEnd|TestServer.*|TestMetrics|TestCanary|TestTraces|TestPage.*|TestSecret.*)$$

race: ## the short tests under the race detector
	@$(need_go)
	@$(call need,$(or $(CC),cc),the race detector links with a C compiler (Debian: apt-get install gcc libc6-dev))
	go test -race -short $$(go list ./... | grep -v 'cmd/catena$$')
	go test -race -short ./cmd/catena -run '$(RACE)'

clean: ## remove what was built here
	rm -rf bin
	find . -name '*.test' -type f -not -path './.git/*' -delete

clean-cache: ## remove what the targets fetched, for all clones, and the data of `make kafka`
	@case '$(CACHE)' in / | "$$HOME" | "$$HOME/") echo 'make $@: $(CACHE) is no folder of our own' >&2; exit 1 ;; esac
	cd '$(CACHE)' 2>/dev/null || exit 0; rm -rf bin/golangci-lint-* chromium kafka kafka-data libchdb clients
