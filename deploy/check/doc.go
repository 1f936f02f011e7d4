// Package check holds the files of deploy against the programs that read them:
// Compose's loader, BuildKit's parser and linter, Helm's linter and renderer,
// Kubernetes' types, Prometheus' parsers. None of them runs anything, so no
// engine and no cluster is needed.
//
// What that cannot show: that images of these names exist and start, that a
// network policy lets through what is needed, that Grafana draws its pages.
//
// It is a module of its own, because its dependencies are twenty times those of
// catena. `make check-deploy` runs it.
package check
