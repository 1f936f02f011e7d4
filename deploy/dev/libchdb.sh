#!/bin/sh
# Fetches libchdb, the ClickHouse engine as a shared library, and prints its path.
#
# The library is 560 MB and so not part of the repository. It comes from the npm package
# that its makers publish, at one pinned version whose integrity is checked, and it lands in
#   ${CATENA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/catena}/libchdb/<version>/libchdb.so
# which is where sinks/embedded looks for it (embedded.LibraryVersion must name the same version).
#
# Standard output carries the path alone; progress and errors go to standard error.
# Running it again, or twice at once, is safe: the file appears by a rename, whole or not at all.
set -eu

package='@chdb/lib-linux-x64-gnu'
version='26.7.3-stable.1'
integrity='XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw=='

say() { printf 'libchdb: %s\n' "$*" >&2; }
fail() {
	say "$*"
	say 'without it, point CATENA_CLICKHOUSE_ADDR at a ClickHouse server instead'
	exit 1
}

if [ -z "${CATENA_CACHE:-}" ] && [ -z "${XDG_CACHE_HOME:-}" ] && [ -z "${HOME:-}" ]; then
	fail 'none of CATENA_CACHE, XDG_CACHE_HOME and HOME is set: no folder to keep the library in'
fi
cache="${CATENA_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/catena}/libchdb"
target="$cache/$version/libchdb.so"

if [ -f "$target" ]; then
	printf '%s\n' "$target"
	exit 0
fi

platform="$(uname -s)/$(uname -m)"
case "$platform" in
Linux/x86_64 | Linux/amd64) ;;
*) fail "the embedded engine is built for linux/amd64 only, this is $platform" ;;
esac
# Only glibc can load it. musl's ldd names itself; glibc's getconf knows its own version.
if ! getconf GNU_LIBC_VERSION >/dev/null 2>&1; then
	fail 'the embedded engine needs glibc (2.28 or newer), which this system does not have'
fi
for tool in npm openssl tar; do
	command -v "$tool" >/dev/null 2>&1 || fail "$tool is needed to fetch $package@$version and was not found"
done

mkdir -p "$cache"
# The temporary folder lies beside the target, so that the last step is a rename within one file system.
work="$(mktemp -d "$cache/.fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "fetching $package@$version (about 150 MB) …"
(cd "$work" && npm pack --silent --ignore-scripts "$package@$version" >/dev/null) ||
	fail "npm pack $package@$version did not succeed"
archive="$(find "$work" -maxdepth 1 -name '*.tgz' | head -n 1)"
[ -n "$archive" ] || fail "npm pack $package@$version left no archive"

actual="$(openssl dgst -sha512 -binary "$archive" | openssl base64 -A)"
[ "$actual" = "$integrity" ] || fail "integrity mismatch: want sha512-$integrity, have sha512-$actual"

say 'unpacking …'
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
