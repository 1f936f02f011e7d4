#!/bin/sh
# Fetches a headless Chromium for the tests of the page, and prints its path.
#
# It comes from the npm package @sparticuz/chromium, which carries the binary itself, at one pinned version whose
# integrity is checked, and lands in
#   ${CATENA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/catena}/chromium/<version>/chromium
# with the few libraries beside it that a bare system lacks. Nothing is installed outside of the cache.
#
# Standard output carries the path alone; progress and errors go to standard error.
# Running it again, or twice at once, is safe: the folder appears by a rename, whole or not at all.
set -eu

package='@sparticuz/chromium'
version='153.0.0'
integrity='jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA=='

say() { printf 'chromium: %s\n' "$*" >&2; }
fail() {
	say "$*"
	exit 1
}

if [ -z "${CATENA_CACHE:-}" ] && [ -z "${XDG_CACHE_HOME:-}" ] && [ -z "${HOME:-}" ]; then
	fail 'none of CATENA_CACHE, XDG_CACHE_HOME and HOME is set: no folder to keep the browser in'
fi
cache="${CATENA_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/catena}/chromium"
target="$cache/$version"

if [ -x "$target/chromium" ]; then
	printf '%s\n' "$target/chromium"
	exit 0
fi

platform="$(uname -s)/$(uname -m)"
case "$platform" in
Linux/x86_64 | Linux/amd64) ;;
*) fail "the browser of $package is built for linux/amd64 only, this is $platform" ;;
esac
for tool in npm node openssl tar; do
	command -v "$tool" >/dev/null 2>&1 || fail "$tool is needed to fetch $package@$version and was not found"
done

mkdir -p "$cache"
# The temporary folder lies beside the target, so that the last step is a rename within one file system.
work="$(mktemp -d "$cache/.fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "fetching $package@$version (about 70 MB) …"
(cd "$work" && npm pack --silent --ignore-scripts "$package@$version" >/dev/null) ||
	fail "npm pack $package@$version did not succeed"
archive="$(find "$work" -maxdepth 1 -name '*.tgz' | head -n 1)"
[ -n "$archive" ] || fail "npm pack $package@$version left no archive"

actual="$(openssl dgst -sha512 -binary "$archive" | openssl base64 -A)"
[ "$actual" = "$integrity" ] || fail "integrity mismatch: want sha512-$integrity, have sha512-$actual"

say 'unpacking …'
tar -xzf "$archive" -C "$work" --no-same-owner package/bin || fail "$package@$version has no bin folder"
# Brotli is what Node can read everywhere, and a brotli command is rarely there.
unpack() {
	node -e 'const fs = require("fs"), zlib = require("zlib")
require("stream").pipeline(fs.createReadStream(process.argv[1]), zlib.createBrotliDecompress(), fs.createWriteStream(process.argv[2]),
	(error) => { if (error) { console.error(String(error)); process.exit(1) } })' "$1" "$2" || fail "$(basename "$1") cannot be unpacked"
}
mkdir "$work/out"
unpack "$work/package/bin/chromium.br" "$work/out/chromium"
for part in swiftshader al2023; do
	unpack "$work/package/bin/$part.tar.br" "$work/$part.tar"
	tar -xf "$work/$part.tar" -C "$work/out" --no-same-owner
done
# Its fonts, so that a picture looks the same on every machine: fontconfig finds them by XDG_DATA_HOME=<folder>/share.
unpack "$work/package/bin/fonts.tar.br" "$work/fonts.tar"
mkdir "$work/out/share"
tar -xf "$work/fonts.tar" -C "$work/out/share" --no-same-owner fonts
chmod 755 "$work/out/chromium" "$work/out"

# A second run that finishes later finds the folder there and leaves it.
[ -d "$target" ] || mv "$work/out" "$target"
[ -x "$target/chromium" ] || fail "$target holds no browser; remove it and run this again"
say 'done'
printf '%s\n' "$target/chromium"
