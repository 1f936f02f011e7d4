#!/bin/sh
# Fetches a headless Chromium for the tests of the page, and prints its path.
#
# It comes from the npm package @sparticuz/chromium, which carries the binary itself, at one pinned version whose
# integrity is checked, and lands in
#   ${CATENA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/catena}/chromium/<version>/chromium
# with the few libraries beside it that a bare system lacks. Nothing is installed outside of the cache.
#
# Running it again, or twice at once, is safe: the folder appears by a rename, whole or not at all.
set -eu

name=chromium
package='@sparticuz/chromium'
version='153.0.0'
integrity='jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA=='
size='70 MB'
. "$(dirname "$0")/fetch.sh"

target="$cache/$version"
if [ -x "$target/chromium" ]; then
	printf '%s\n' "$target/chromium"
	exit 0
fi
need_linux_amd64
need node
fetch
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
