# What this machine lacks, and how to get it; sourced by quickstart, local-cluster, nats/install and tests/.
# Progress and questions go to stderr, so that callers can keep stdout for what they print to be evaluated.
# shellcheck shell=bash
shopt -s inherit_errexit  # a failed step inside $(…) must not go on to mark its work as complete

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

bailiwick_cache() { printf '%s\n' "${BAILIWICK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bailiwick}"; }

# Prints the Debian package that brings capability $1, unless the machine has it already.
package_for() {
  case $1 in
    compiler) command -v c++ >/dev/null && command -v cc >/dev/null || echo g++ ;;
    curl) command -v curl >/dev/null || echo curl ;;
    certificates) [ -s /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates ;;
    python) command -v python3 >/dev/null || echo python3 ;;
    namespaces) command -v ip >/dev/null && command -v unshare >/dev/null || echo iproute2 ;;
    patch) command -v patch >/dev/null || echo patch ;;
    venv) python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || echo python3-venv ;;
    *) die "unknown capability: $1" ;;
  esac
}

# need CAPABILITY...: says what is missing, then installs it with apt-get; nothing is touched when nothing is missing.
need() {
  local capability package missing=() root=()
  for capability in "$@"; do
    package=$(package_for "$capability")
    if [ -n "$package" ]; then missing+=("$package"); fi
  done
  if [ ${#missing[@]} -eq 0 ]; then return; fi
  say "This machine lacks ${missing[*]}. Installing now with apt-get, together with what they depend on."
  command -v apt-get >/dev/null || die "there is no apt-get here: please install ${missing[*]} yourself and start again"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "installing needs root and there is no sudo: run 'apt-get install ${missing[*]}' as root and start again"
    root=(sudo)
  fi
  "${root[@]}" apt-get update -qq >/dev/null || die "apt-get update failed"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install ${missing[*]}"
}

need_rust() {
  if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
  command -v cargo >/dev/null || die "there is no cargo: install the Rust toolchain (https://rustup.rs) and start again"
}

# python_venv NAME REQUIREMENTS: a virtual environment in the cache holding exactly the pinned, hashed requirements.
# Prints its folder. Safe to run twice at once; a half-made one is made again.
python_venv() {
  local requirements=$2 folder lock
  folder=$(bailiwick_cache)/$1-$(sha256sum "$requirements" | cut -c1-12)
  if [ ! -e "$folder/.complete" ]; then
    need python venv
    mkdir -p "$(dirname "$folder")"
    exec {lock}>"$folder.lock"
    flock "$lock"
    if [ ! -e "$folder/.complete" ]; then
      say "fetching Python packages for $1: $(grep -c == "$requirements") pinned ones, into $folder"
      rm -rf "$folder"
      python3 -m venv "$folder" >&2
      "$folder/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$requirements" >&2
      touch "$folder/.complete"
    fi
    exec {lock}>&-
  fi
  printf '%s\n' "$folder"
}
