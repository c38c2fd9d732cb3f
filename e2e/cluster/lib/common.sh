# shellcheck shell=bash
# Sourced by every script under e2e/: where things lie, and how a step speaks.

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
# What is expensive to make is kept here, keyed by a hash of what it was made from, and shared by all clones.
CACHE=${STOCK_CACHE:-$HOME/.cache/stockpipeline}
# What is cheap and belongs to one clone: the kubeconfig, links to the programs, the project's own images.
LOCAL=$REPOSITORY/.local
# One cluster per machine. Its paths are short because those of unix sockets may have 107 characters at most.
STATE=/var/lib/stockpipeline
RUN=/run/stockpipeline

KUBERNETES_VERSION=1.34.4
HELM_VERSION=3.22.0
# Simulated nodes, for the operator's benchmark.
KWOK_VERSION=0.7.0
NODES=(node-1 node-2 node-3)

export PATH=$LOCAL/bin:/usr/local/go/bin:$PATH:/usr/sbin:/sbin

mkdir -p "$CACHE/log" "$CACHE/bin" "$CACHE/images" "$LOCAL/bin" "$LOCAL/log"

say() { printf '==> %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

now() { date +%s%N; }

# duration START: the time since START as a person says it.
duration() {
    local ms=$((($(now) - $1) / 1000000))
    if ((ms < 60000)); then printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
    else printf '%d min %d s' $((ms / 60000)) $((ms / 1000 % 60)); fi
}

# step TEXT COMMAND...: runs it and says how long it took. The command is not part of a condition, so that within it, too,
# the first thing that fails ends the script.
step() {
    local start text=$1 outer=$STEP
    start=$(now)
    shift
    STEP=$text
    "$@"
    STEP=$outer
    say "$text ($(duration "$start"))"
}

STEP=
trap '[[ $? == 0 || -z $STEP ]] || echo "error: not done: $STEP" >&2' EXIT

# logged FILE COMMAND...: for what takes minutes. The output goes to the file, a sign of life every 30 s to the terminal.
logged() {
    local file=$1 start process seconds=0
    shift
    start=$(now)
    "$@" >"$file" 2>&1 </dev/null &
    process=$!
    while kill -0 "$process" 2>/dev/null; do
        sleep 0.5
        seconds=$((seconds + 1))
        ((seconds % 60)) || echo "    … $(duration "$start"), log: $file"
    done
    wait "$process" || { tail -n 30 "$file" >&2; return 1; }
}

# hash_of FILE-OR-FOLDER...: twelve letters that change when any of them does, wherever the clone lies.
hash_of() {
    local path
    for path; do
        if [[ -d $path ]]; then (cd "$path" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
        elif [[ -f $path ]]; then sha256sum <"$path"
        else echo "$path"; fi
    done | sha256sum | cut -c1-12
}

# exclusively NAME COMMAND...: two runs at once must not build the same thing twice into each other's files.
exclusively() {
    local lock=$CACHE/$1.lock
    shift
    (flock 9; "$@" 9>&-) 9>"$lock"
}

wait_for() { # wait_for SECONDS WHAT COMMAND...
    local seconds=$1 what=$2 end
    end=$((SECONDS + seconds))
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "error: waited $seconds s for $what" >&2; return 1; }
        sleep 0.1
    done
}

on_docker() { command -v docker >/dev/null && docker info >/dev/null 2>&1; }
on_kind() { command -v kind >/dev/null && on_docker; }
