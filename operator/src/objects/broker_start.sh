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
serves() { timeout 2 bash -c ": </dev/tcp/${1#rabbit@}/${AMQP_PORT:-5672}" 2>/dev/null; }
ask() { rabbitmqctl --quiet --node "${2-$OTHER}" eval "$1"; }

find_other() {
    for OTHER in $(nodes; cat /etc/rabbitmq/leaving); do
        [[ $OTHER == "$RABBITMQ_NODENAME" ]] || ! serves "$OTHER" || return 0
    done
    OTHER=
    return 1
}

may_start() {
    nodes | grep --quiet --line-regexp --fixed-strings "$RABBITMQ_NODENAME" || return 1
    # The only one; a member of a cluster; or the first of one that is not made yet.
    [[ $(nodes) != "$RABBITMQ_NODENAME" || -s /etc/rabbitmq/leaving ]] || return 0
    ! find_other || return 0
    [[ $POD_NAME == *-0 ]] && ! is_formed
}

has_data() { [[ -e $DATA/schema.DAT || -e $DATA/coordination ]]; }

# With nothing but its name, as a node whose program is stopped: the last one of two pauses itself while the other does not answer.
wait_until() {
    ! "$1" || return 0
    # shellcheck disable=SC2086 # several arguments
    erl -noinput ${RABBITMQ_CTL_ERL_ARGS:-} -name "$RABBITMQ_NODENAME" -kernel inet_dist_listen_min 25672 inet_dist_listen_max 25672 &
    placeholder=$!
    until "$1"; do
        echo "waiting until another node of the broker serves (if the volumes of all are lost: README, \"When something is wrong\")"
        sleep 2 &
        wait $!
    done
}

end_of_wait() {
    [[ -n ${placeholder-} ]] || return 0
    # At once: a signal that asks it to end is lost while it is still starting.
    kill -KILL "$placeholder"
    wait "$placeholder" || true
    placeholder=
}

is_member() { ask "lists:member('$RABBITMQ_NODENAME', rabbit_nodes:list_members())."; }
queues_here() { bash /etc/rabbitmq/queues-on.sh "$OTHER" "$RABBITMQ_NODENAME"; }
has_left() { ask "rabbit_runtime_parameters:value_global('left-$RABBITMQ_NODENAME')."; }

# What was decided here is what the server does: the files may have become other ones since, and a node that is not wanted any more is in none.
settle() {
    local node number=0
    sed '/^cluster_formation\.classic_config\.nodes\./d' /etc/rabbitmq/rabbitmq.conf >/tmp/rabbitmq.conf
    for node in "$RABBITMQ_NODENAME" $OTHER; do
        echo "cluster_formation.classic_config.nodes.$((++number)) = $node"
    done >>/tmp/rabbitmq.conf
    # Out of retries, after half a minute unless told otherwise, it would go on alone: `watch_join` ends it long before these are over.
    echo "cluster_formation.discovery_retry_limit = 10000" >>/tmp/rabbitmq.conf
    export RABBITMQ_CONFIG_FILE=/tmp/rabbitmq.conf
}

# RabbitMQ goes on alone when it takes itself for the older of two lone nodes: that would be a second cluster. And what it waits for may be
# gone. Both end it, the first before it serves, and the next start looks anew. The server itself is told to look, for nobody else is as quick.
watch_join() {
    local end='io:put_chars(user, "this node has not joined another one: starting it anew\n"), erlang:halt(1)'
    local watch="
        Watch = fun Watch(Looks) ->
            case rabbit_db:is_init_finished() of
                true -> lists:member('$OTHER', rabbit_nodes:list_members()) orelse begin $end end;
                false when Looks > 3000 -> $end;
                false -> timer:sleep(100), Watch(Looks + 1)
            end
        end,
        Watch(1)."
    until ask "$watch" "$RABBITMQ_NODENAME"; do sleep 1; done >/dev/null 2>&1
    rm -f "$JOINING"
}

start_empty() {
    echo "what the volume of this node holds is of no use to the cluster: starting empty"
    rm -rf "${DATA:?}"
}

if has_data && [[ -e $JOINING ]]; then
    # It ended while it joined. Started with what is on the volume it would be a cluster of its own, or half of a member.
    wait_until find_other
    held=$(queues_here)
    if [[ $held == "[]" ]]; then start_empty; else rm -f "$JOINING"; fi
    end_of_wait
elif has_data && [[ -e /tmp/tried ]] && find_other && [[ $(is_member) == false && $(has_left) == true ]]; then
    # It did not start at the first try: it left while nobody could take its data away. `leave.sh` notes in the cluster who leaves: without that
    # note the data stays, for a cluster that never knew this node is none that it belongs to.
    start_empty
fi
: >/tmp/tried

if ! has_data; then
    wait_until may_start
    if [[ -n $OTHER ]]; then
        # Fails when the others never knew it, which is the ordinary case.
        rabbitmqctl --quiet --node "$OTHER" forget_cluster_node "$RABBITMQ_NODENAME" 2>/dev/null || true
        held=$(queues_here)
        if [[ $held != "[]" ]]; then
            echo "this node lost its volume, and without it these have no majority that could give up its replicas: $held: bring the other nodes back" >&2
            exit 1
        fi
        if [[ $(is_member) != false ]]; then
            echo "this node lost its volume, and $OTHER has not forgotten its name yet: trying again" >&2
            exit 1
        fi
        mkdir -p "$RABBITMQ_MNESIA_BASE"
        : >"$JOINING"
    else
        rm -f "$JOINING"
    fi
    end_of_wait
    settle
    if [[ -e $JOINING ]]; then watch_join & fi
fi
exec rabbitmq-server
