# Read by the scripts beside it, which fetch what the tests need into
#   ${CATENA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/catena}/<name>
# once they have set name, and those that take a package of npm also package, version, integrity and size.
#
# Standard output carries the path alone; progress and errors go to standard error.

say() { printf '%s: %s\n' "$name" "$*" >&2; }
fail() {
	say "$*"
	[ -z "${otherwise:-}" ] || say "$otherwise"
	exit 1
}

if [ -z "${CATENA_CACHE:-}" ] && [ -z "${XDG_CACHE_HOME:-}" ] && [ -z "${HOME:-}" ]; then
	fail 'none of CATENA_CACHE, XDG_CACHE_HOME and HOME is set: no folder to put it into'
fi
cache="${CATENA_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/catena}/$name"

# need TOOL…: fails unless all of them are there.
need() {
	for tool in "$@"; do
		command -v "$tool" >/dev/null 2>&1 || fail "$tool is needed and was not found"
	done
}

# need_linux_amd64: for what is built for nothing else.
need_linux_amd64() {
	case "$(uname -s)/$(uname -m)" in
	Linux/x86_64 | Linux/amd64) ;;
	*) fail "$package is built for linux/amd64 only, this is $(uname -s)/$(uname -m)" ;;
	esac
}

# fetch: sets archive to the package, checked, in the temporary folder work, which goes when the script ends. It lies in
# the cache, so that the last step can be a rename within one file system.
fetch() {
	need npm openssl tar
	mkdir -p "$cache"
	work="$(mktemp -d "$cache/.fetch.XXXXXX")"
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	say "fetching $package@$version (about $size) …"
	(cd "$work" && npm pack --silent --ignore-scripts "$package@$version" >/dev/null) ||
		fail "npm pack $package@$version did not succeed"
	archive="$(find "$work" -maxdepth 1 -name '*.tgz' | head -n 1)"
	[ -n "$archive" ] || fail "npm pack $package@$version left no archive"
	actual="$(openssl dgst -sha512 -binary "$archive" | openssl base64 -A)"
	[ "$actual" = "$integrity" ] || fail "integrity mismatch: want sha512-$integrity, have sha512-$actual"
	say 'unpacking …'
}
