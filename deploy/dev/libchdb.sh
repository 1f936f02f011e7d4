#!/bin/sh
# Fetches libchdb, the ClickHouse engine as a shared library, and prints its path.
#
# The library is 560 MB and so not part of the repository. It comes from the npm package
# that its makers publish, at one pinned version whose integrity is checked, and it lands in
#   ${CATENA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/catena}/libchdb/<version>/libchdb.so
# which is where sinks/embedded looks for it (embedded.LibraryVersion must name the same version).
#
# Running it again, or twice at once, is safe: the file appears by a rename, whole or not at all.
set -eu

name=libchdb
package='@chdb/lib-linux-x64-gnu'
version='26.7.3-stable.1'
integrity='XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw=='
size='150 MB'
otherwise='without it, point CATENA_CLICKHOUSE_ADDR at a ClickHouse server instead'
. "$(dirname "$0")/fetch.sh"

target="$cache/$version/libchdb.so"
if [ -f "$target" ]; then
	printf '%s\n' "$target"
	exit 0
fi
need_linux_amd64
# Only glibc can load it. musl's ldd names itself; glibc's getconf knows its own version.
if ! getconf GNU_LIBC_VERSION >/dev/null 2>&1; then
	fail 'the embedded engine needs glibc (2.28 or newer), which this system does not have'
fi
fetch
mkdir "$work/out"
tar -xzf "$archive" -C "$work/out" --no-same-owner --strip-components=1 package/libchdb.so ||
	fail "$package@$version has no libchdb.so"
rm -f "$archive"
chmod 755 "$work/out/libchdb.so" "$work/out"

mkdir -p "$cache/$version"
# A second run that finishes later replaces the file by an equal one; whoever mapped the first keeps it.
mv -f "$work/out/libchdb.so" "$target"
say 'done'
printf '%s\n' "$target"
