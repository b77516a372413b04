# shellcheck shell=bash
# Sourced by the other tools: installs what is missing (as root), or says how and stops.

PATH=$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin

# need PROGRAM:PACKAGE...: every program can be run afterwards.
need() {
    local pair packages=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}")
    done
    [[ ${#packages[@]} -eq 0 ]] && return
    mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
    if [[ $(id -u) -ne 0 ]]; then
        echo "$0: programs are missing; run this once, then again what you ran:" >&2
        echo "    sudo apt-get install -y --no-install-recommends ${packages[*]}" >&2
        exit 1
    fi
    echo "== installing ${packages[*]}"
    apt-get update -qq
    # Another one may be at it, too: on a fresh machine its own updates. Nothing that is there goes for it.
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-remove --no-install-recommends \
        "${packages[@]}" >/dev/null
}

# need_no_service PROGRAM:PACKAGE...: the same for packages whose services would start with them.
need_no_service() {
    local one
    if [[ ${TANDEM_CI:-} && ! -e /usr/sbin/policy-rc.d ]]; then
        # A machine that is there for tests: nothing that is installed now starts by itself.
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
    fi
    for one in "$@"; do
        command -v "${one%%:*}" >/dev/null || [[ -e /usr/sbin/policy-rc.d ]] || {
            echo "$0: ${one##*:} is missing, and would start as a service: first" \
                "a /usr/sbin/policy-rc.d that ends with 101" >&2
            exit 1
        }
    done
    need "$@"
}

# need_postgres: a server, and where its programs are: $postgres. Debian has a folder for each version; any will do.
need_postgres() {
    find_postgres
    [[ $postgres ]] || need_no_service "postgres is missing:postgresql"
    find_postgres
}
find_postgres() {
    postgres=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort | tail -1)
}

# fetch PACKAGE...: unpacks Debian packages under target/fetched, whose files are looked at and whose
# services nobody wants. Where that does not work, the tests that look say SKIP.
fetch() {
    local package folder
    for package in "$@"; do
        folder=target/fetched/$package
        [[ -d $folder ]] && continue
        mkdir -p target/fetched
        (
            cd target/fetched || exit
            rm -rf "$package".part "$package"_*.deb
            { apt-get download -qq "$package" || { apt-get update -qq && apt-get download -qq "$package"; }; } \
                >/dev/null 2>&1 &&
                dpkg -x "$package"_*.deb "$package.part" && mv "$package.part" "$package"
            rm -f "$package"_*.deb
        ) || true
        [[ -d $folder ]] || echo "$0: the package $package could not be fetched" >&2
    done
}

# need_rust: a cargo that is new enough for the edition.
need_rust() {
    local version
    if ! command -v cargo >/dev/null; then
        echo "$0: Rust 1.88 or newer is needed (Debian's is older): https://rustup.rs, then" >&2
        echo "    rustup toolchain install stable" >&2
        exit 1
    fi
    version=$(rustc --version | cut -d' ' -f2)
    if [[ $(printf '%s\n' 1.88.0 "$version" | sort -V | head -1) != 1.88.0 ]]; then
        echo "$0: rustc $version is too old, 1.88 is needed: rustup update stable" >&2
        exit 1
    fi
}

# build PROFILE ARGUMENTS...: cargo build, silent unless it fails.
build() {
    local profile=$1 log code=0
    shift
    log=$(mktemp)
    cargo build --profile "$profile" --quiet "$@" 2>"$log" || code=$?
    [[ $code -eq 0 ]] || cat "$log" >&2
    rm -f "$log"
    return "$code"
}
