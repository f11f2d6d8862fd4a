# Sourced by the other scripts: where we are, how to speak, how to reach cargo,
# PostgreSQL 15 and root.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Both workspaces build where the documentation says, whatever the caller's shell has set.
unset CARGO_TARGET_DIR
export CARGO_TERM_PROGRESS_WHEN=${CARGO_TERM_PROGRESS_WHEN:-auto}

say() { printf '==> %s\n' "$*"; }
fail() { printf 'ERROR:  %s\n' "$1" >&2; [ $# -lt 2 ] || printf 'HINT:  %s\n' "$2" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "root rights are needed for: $*" "Install sudo, or run this once as root."
    fi
}

# Another major version's pg_config may come first in PATH, so ask 15's own.
pg_config_15() {
    local own=/usr/lib/postgresql/15/bin/pg_config
    if [ -n "${PGRENGA_PG_CONFIG:-}" ]; then echo "$PGRENGA_PG_CONFIG"
    elif [ -x "$own" ]; then echo "$own"
    else command -v pg_config || fail "pg_config of PostgreSQL 15 not found" "Run 'make setup'."
    fi
}

if ! command -v cargo >/dev/null; then
    [ ! -r "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    command -v cargo >/dev/null || fail "cargo not found" "Install Rust 1.95 or later: https://rustup.rs"
fi
