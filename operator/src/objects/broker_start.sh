#!/usr/bin/env bash
# Starts a node of the broker. One with data starts at once. One without waits until it is wanted and another one serves: two empty
# nodes that meet each other first would be a second cluster. And before it joins, the others forget the node of its name that lost
# its volume, if there was one: it must not come back with votes it does not remember.
set -euo pipefail
trap 'exit 143' TERM

umask 077
rm -f "$HOME/.erlang.cookie"
cp /run/broker/erlang-cookie "$HOME/.erlang.cookie"

DATA=$RABBITMQ_MNESIA_BASE/$RABBITMQ_NODENAME
# There while the node joins for the first time.
JOINING=$DATA.joining
OTHER=

# Read anew each time: the files follow the resource.
nodes() { sed -n 's/^cluster_formation\.classic_config\.nodes\.[0-9]* = //p' /etc/rabbitmq/rabbitmq.conf; }
is_formed() { [[ $(</etc/rabbitmq/formed) == yes ]]; }
serves() { timeout 2 bash -c ": </dev/tcp/${1#rabbit@}/5672" 2>/dev/null; }
ask() { rabbitmqctl --quiet --node "$OTHER" eval "$1"; }

find_other() {
    for OTHER in $(nodes; cat /etc/rabbitmq/leaving); do
        [[ $OTHER == "$RABBITMQ_NODENAME" ]] || ! serves "$OTHER" || return 0
    done
    OTHER=
    return 1
}

may_start() {
    nodes | grep --quiet --line-regexp --fixed-strings "$RABBITMQ_NODENAME" || return 1
    # The only one, or the first of a cluster that is not made yet.
    [[ $(nodes) != "$RABBITMQ_NODENAME" || -s /etc/rabbitmq/leaving ]] || return 0
    [[ $POD_NAME != *-0 ]] || is_formed || return 0
    find_other
}

has_data() { [[ -e $DATA/schema.DAT || -e $DATA/coordination ]]; }

# What is on the volume is of no use to a node that died while it joined: started with it, it would be a cluster of its own. Neither is it to one that
# has left the cluster while nobody could take its data away, of which it hears at its second try. `leave.sh` notes in the cluster who leaves: without
# that note the data stays, for a cluster that never knew this node is none that it belongs to.
if has_data && [[ -e $JOINING || -e /tmp/tried ]] && find_other; then
    left="{lists:member('$RABBITMQ_NODENAME', rabbit_nodes:list_members()), rabbit_runtime_parameters:value_global('left-$RABBITMQ_NODENAME')}."
    left=$(ask "$left")
    if [[ $left == "{false,true}" || ( -e $JOINING && $left == "{false,"* ) ]]; then
        echo "this node is not in the cluster, and what its volume holds is of no use: starting empty"
        rm -rf "${DATA:?}"
    fi
fi
: >/tmp/tried

if ! has_data; then
    # Nothing but its name, as of a node whose program is stopped: the last one of two pauses itself while the other does not answer.
    erl -noinput -name "$RABBITMQ_NODENAME" -kernel inet_dist_listen_min 25672 inet_dist_listen_max 25672 &
    placeholder=$!
    until may_start; do
        echo "no data yet: waiting until another node of the broker serves"
        sleep 2 &
        wait $!
    done
    if [[ -n $OTHER ]]; then
        # Fails when the others never knew it, which is the ordinary case.
        rabbitmqctl --quiet --node "$OTHER" forget_cluster_node "$RABBITMQ_NODENAME" 2>/dev/null || true
        held=$(bash /etc/rabbitmq/queues-on.sh "$OTHER" "$RABBITMQ_NODENAME")
        if [[ $held != "[]" ]]; then
            echo "this node lost its volume, and without it these have no majority that could give up its replicas: $held: bring the other nodes back" >&2
            exit 1
        fi
    fi
    kill "$placeholder"
    wait "$placeholder" || true
    if [[ -n $OTHER ]]; then
        mkdir -p "$RABBITMQ_MNESIA_BASE"
        : >"$JOINING"
        { rabbitmqctl --quiet await_startup --timeout 600 && rm -f "$JOINING"; } &
    fi
fi
exec rabbitmq-server
