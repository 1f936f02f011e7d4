#!/usr/bin/env bash
# One Apache Kafka node for development and tests, on loopback.
#
#   kafka.sh fetch                       bring the pinned jars into the cache; prints their folder
#   kafka.sh run --port P --data DIR     run the node in the foreground; what it becomes is the JVM itself
#   kafka.sh format --port P --data DIR  only write server.properties and format the storage when it is new
#   kafka.sh pin                         rewrite libs.sha256 after a change of pom.xml
#
# Options of run and format:
#   --port P             where clients connect, on 127.0.0.1 (default 9092)
#   --controller-port P  the controller's own port (default: port + 1)
#   --data DIR           logs and generated configuration; kept, so that a second run finds the data of the first
#   --id CLUSTER         cluster id for a new DIR: 22 characters of URL-safe base64, as StorageTool random-uuid prints
#   --parent PID         run only: end when process PID ends, so that a test that was killed leaves no broker behind
#   --set KEY=VALUE      one more broker property; may be repeated, the last one wins
#
# The jars lie in ${CATENA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/catena}/kafka/<version>/. run fetches them if needed.
# Standard output carries results alone; the node's log and all else go to standard error, and "Kafka Server started" in
# it says that the node serves. run ends by exec: the pid is the JVM's, SIGTERM shuts it down cleanly and SIGKILL is a
# crash. KAFKA_HEAP_OPTS replaces the small default heap.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
java_minimum=17

say() { printf 'kafka.sh: %s\n' "$*" >&2; }
fail() {
	say "$*"
	exit 1
}
usage() {
	sed -n '2,/^set -/{/^#/{s/^# \{0,1\}//;p;};}' "${BASH_SOURCE[0]}" >&2
	exit 2
}

main() {
	local verb=${1:-}
	[ $# -eq 0 ] || shift
	case "$verb" in
	fetch) fetch ;;
	pin) pin ;;
	run | format)
		options "$@"
		"$verb"
		;;
	*) usage ;;
	esac
}

# --- fetch: Maven Central to cache ---

# libraries prints the folder of the jars, which bears the version of Kafka.
libraries() {
	local version
	version=$(sed -n 's:.*<kafka\.version>\(.*\)</kafka\.version>.*:\1:p' "$here/pom.xml")
	[ -n "$version" ] || fail "pom.xml has no <kafka.version>"
	if [ -z "${CATENA_CACHE:-}${XDG_CACHE_HOME:-}${HOME:-}" ]; then
		fail "none of CATENA_CACHE, XDG_CACHE_HOME and HOME is set: no folder to keep the jars in"
	fi
	printf '%s\n' "${CATENA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/catena}/kafka/$version"
}

# fetch is a no-op when the cache holds what libs.sha256 lists. The folder appears by a rename, whole or not at all, and
# carries the list it was checked against, so that a changed list is noticed.
fetch() {
	local target work
	target=$(libraries)
	if ! cmp -s "$here/libs.sha256" "$target/libs.sha256"; then
		mkdir -p "$(dirname "$target")"
		work=$(mktemp -d "$target.XXXXXX")
		# shellcheck disable=SC2064 # the folder of this run, whatever the variable says later
		trap "rm -rf '$work'" EXIT
		download "$work"
		(cd "$work" && sha256sum --quiet --strict -c "$here/libs.sha256" >&2) ||
			fail "the jars are not those of libs.sha256; they were not kept"
		cp "$here/libs.sha256" "$work/libs.sha256"
		chmod 755 "$work"
		# Of two runs at once the later one finds the folder in its way, and equal to its own.
		if ! mv -T "$work" "$target" 2>/dev/null && ! cmp -s "$here/libs.sha256" "$target/libs.sha256"; then
			rm -rf "$target"
			mv -T "$work" "$target"
		fi
		say "done"
	fi
	printf '%s\n' "$target"
}

download() {
	local said
	need_java
	need_maven
	say "fetching Apache Kafka and what it needs at run time (about 45 MB) …"
	# Even quiet, Maven writes escape sequences; what it says matters only when it fails.
	said=$(mvn --quiet --batch-mode -f "$here/pom.xml" dependency:copy-dependencies \
		-DincludeScope=runtime -DoutputDirectory="$1" </dev/null 2>&1) || fail "Maven did not succeed: $said"
}

pin() {
	local work
	work=$(mktemp -d)
	# shellcheck disable=SC2064
	trap "rm -rf '$work'" EXIT
	download "$work"
	(cd "$work" && LC_ALL=C sha256sum -- *.jar) >"$here/libs.sha256"
	say "wrote libs.sha256: $(wc -l <"$here/libs.sha256") jars"
}

java() { command "${JAVA_HOME:+$JAVA_HOME/bin/}java" "$@"; }

# java_version prints the major version, or nothing when there is no Java.
java_version() { { java -version 2>&1 || true; } | sed -n 's/.* version "\([0-9]*\).*/\1/p'; }

need_java() {
	local version
	version=$(java_version)
	if [ -z "$version" ] && install default-jre-headless; then version=$(java_version); fi
	[ -n "$version" ] || fail "Apache Kafka needs a Java runtime, $java_minimum or newer (Debian: apt-get install default-jre-headless)"
	[ "$version" -ge "$java_minimum" ] ||
		fail "Apache Kafka needs Java $java_minimum or newer, this is $version; set JAVA_HOME to a newer one"
}

need_maven() {
	command -v mvn >/dev/null || install maven ||
		fail "mvn is needed to fetch Apache Kafka and was not found (Debian: apt-get install maven)"
}

# install tries the package manager where that asks nobody for anything: as root on Debian, as in a CI container.
install() {
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
	say "$1 was not found: installing it with apt-get …"
	{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$1"; } \
		</dev/null >&2 || return 1
	hash -r
}

# --- run: cache to JVM ---

options() {
	port=9092 controller_port='' data='' cluster='' parent='' extra=''
	while [ $# -gt 0 ]; do
		[ $# -ge 2 ] || fail "$1 wants a value"
		case "$1" in
		--port) port=$2 ;;
		--controller-port) controller_port=$2 ;;
		--data) data=$2 ;;
		--id) cluster=$2 ;;
		--parent) parent=$2 ;;
		--set) extra+=$2$'\n' ;;
		*) fail "unknown option $1" ;;
		esac
		shift 2
	done
	[[ $port =~ ^[0-9]+$ ]] || fail "--port wants a number, not '$port'"
	controller_port=${controller_port:-$((port + 1))}
	[[ $controller_port =~ ^[0-9]+$ ]] || fail "--controller-port wants a number, not '$controller_port'"
	[[ $parent =~ ^[0-9]*$ ]] || fail "--parent wants a process id, not '$parent'"
	[ -n "$data" ] || fail "--data DIR is missing"
	# In log.dirs a comma separates folders, and a backslash escapes.
	case "$data" in *[,\\]*) fail "--data must have neither comma nor backslash" ;; esac
}

# format leaves the node ready to start: jars, configuration, formatted storage.
format() {
	local template said
	need_java
	libs=$(fetch)
	mkdir -p "$data"
	data=$(cd "$data" && pwd)
	template=$(<"$here/server.properties")
	template=${template//@PORT@/"$port"}
	template=${template//@CONTROLLER_PORT@/"$controller_port"}
	template=${template//@DATA@/"$data"}
	printf '%s\n\n# --set\n%s' "$template" "$extra" >"$data/server.properties"
	if [ ! -f "$data/log/meta.properties" ]; then
		# 16 random bytes, as StorageTool random-uuid makes them, without a dash in front; saves the start of another JVM.
		cluster=${cluster:-$(head -c 16 /dev/urandom | base64 | tr '+/' 'aZ' | tr -d '=')}
		said=$(jvm kafka.tools.StorageTool format --cluster-id "$cluster" --config "$data/server.properties" 2>&1) ||
			fail "the storage could not be formatted: $said"
	fi
}

# jvm_flags: a small heap, and the collector with the least overhead at that size; out of memory is a crash, not a limp.
jvm_flags() {
	# shellcheck disable=SC2206 # several options in one variable, as in Kafka's own scripts
	flags=(
		${KAFKA_HEAP_OPTS:--Xmx512m} -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true
		-Dlog4j2.configurationFile="$here/log4j2.properties" -cp "$libs/*"
	)
}

jvm() {
	jvm_flags
	java "${flags[@]}" "$@"
}

run() {
	format
	if [ -n "$parent" ]; then watch_parent & fi
	jvm_flags
	say "127.0.0.1:$port (controller :$controller_port), data in $data"
	exec "${JAVA_HOME:+$JAVA_HOME/bin/}java" "${flags[@]}" kafka.Kafka "$data/server.properties"
}

# watch_parent ends the node a second after its parent is gone: it asks first and kills ten seconds later. It lives as a
# child of the node ($$ stays the same through exec) and ends with it. It holds none of the node's streams, for whoever
# reads those waits until the last holder is gone.
watch_parent() {
	exec </dev/null >/dev/null 2>&1
	while kill -0 "$parent"; do
		kill -0 $$ || exit 0
		sleep 1
	done
	kill -TERM $$
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		sleep 1
		kill -0 $$ || exit 0
	done
	kill -KILL $$
}

main "$@"
