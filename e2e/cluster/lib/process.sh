# shellcheck shell=bash
# Processes by name: started in a session of their own, found again and ended by the pid that was recorded, and by nothing else.
# The caller sets PIDS (a folder of pid files) and LOGS.

# launch NAME COMMAND...: the file holds the pid and the process's start time, so that a reused pid is never taken for it.
launch() {
    local name=$1 process
    shift
    mkdir -p "$PIDS" "$LOGS"
    setsid "$@" >>"$LOGS/$name.log" 2>&1 </dev/null 9>&- &
    process=$!
    disown "$process"
    echo "$process $(start_time "$process")" >"$PIDS/$name"
}

start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

pid_of() { # pid_of NAME: prints it when that very process still runs
    local process started
    [[ -f $PIDS/$1 ]] && read -r process started <"$PIDS/$1" && [[ -n $started && $(start_time "$process") == "$started" ]] &&
        [[ $(sed 's/.*) //' "/proc/$process/stat" 2>/dev/null | cut -d' ' -f1) != Z ]] && echo "$process"
}

running() { pid_of "$1" >/dev/null; }

# end_process NAME [SIGNAL [SECONDS]]: asks, waits, then insists. What is left of its process group goes with it.
end_process() {
    local process end
    if process=$(pid_of "$1"); then
        if [[ ${2:-TERM} != KILL ]]; then
            kill -s "${2:-TERM}" "$process" 2>/dev/null || true
            end=$((SECONDS + ${3:-10}))
            while running "$1" && ((SECONDS < end)); do sleep 0.05; done
        fi
        kill -s KILL -- "-$process" 2>/dev/null || true
        # Its ports and mounts are free only when it is really gone.
        while pgrep --pgroup "$process" --runstates D,R,S,T,t >/dev/null; do sleep 0.02; done
    fi
    rm -f "$PIDS/$1"
}

# await NAME SECONDS COMMAND...: waits for COMMAND to succeed, gives up at once when the process has ended.
await() {
    local name=$1 seconds=$2 end
    end=$((SECONDS + seconds))
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ! running "$name" || ((SECONDS >= end)); then
            echo "error: $name did not come up; the end of $LOGS/$name.log:" >&2
            tail -n 20 "$LOGS/$name.log" >&2
            return 1
        fi
        sleep 0.05
    done
}
