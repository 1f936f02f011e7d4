#!/bin/sh
# Installs clients of JavaScript and Python, for HTTP and the native protocol, at pinned versions, for the test that runs them against the embedded
# engine, and prints the folder:
#
#   CATENA_TEST_CLIENTS="$(deploy/dev/clients.sh)" go test ./sinks/embedded -run Clients
#
# Running it again is instant; a folder without the file "installed" is made anew.
set -eu

node_package='@clickhouse/client@1.23.1'
python_package='clickhouse-connect==1.12.0'
native_package='clickhouse-driver[lz4,zstd]==0.2.11'

name=clients
. "$(dirname "$0")/fetch.sh"

# The name carries the versions, so that a change of pin installs anew.
target="$cache/node-${node_package##*@}-python-${python_package##*==}-native-${native_package##*==}"

if [ -f "$target/installed" ]; then
	printf '%s\n' "$target"
	exit 0
fi
need node npm python3

mkdir -p "$cache"
# A virtual environment knows its own path, so it cannot be moved: it is made in place, and the file "installed", written
# last, says that the folder is whole. The lock keeps two runs from building it at once.
if ! mkdir "$target.lock" 2>/dev/null; then
	fail "another run is installing, or was killed: wait, or remove $target.lock"
fi
trap 'rm -rf "$target.lock"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

rm -rf "$target"
mkdir -p "$target"
say "installing $node_package …"
(cd "$target" && npm install --silent --no-audit --no-fund --ignore-scripts --prefix . "$node_package" >&2) || fail 'npm install did not succeed'
say "installing $python_package and $native_package …"
python3 -m venv "$target/venv" >&2
"$target/venv/bin/pip" install --quiet --disable-pip-version-check "$python_package" "$native_package" >&2 || fail 'pip install did not succeed'
touch "$target/installed"
say 'done'
printf '%s\n' "$target"
