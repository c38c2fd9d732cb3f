#!/usr/bin/env bash
# Takes the node LEAVING out of the cluster; REMAINING is one that stays. Safe to repeat and to stop at any moment.
# Its program stops first and its process goes on: a process that vanished would look like half of a network to the last of two nodes,
# which then pauses itself. What is declared on it in the meantime is seen in the last look, and it comes back.
set -euo pipefail
STATE=in

finish() {
    case $STATE in
        stopped) rabbitmqctl --node "$LEAVING" start_app || true ;;
        # Should the node be wanted again by now, it starts as a new one.
        out) rabbitmqctl --node "$LEAVING" stop || true ;;
    esac
}
trap finish EXIT
trap 'exit 143' TERM

umask 077
cp /run/broker/erlang-cookie "$HOME/.erlang.cookie"

is_member() { [[ $(rabbitmqctl --quiet --node "$REMAINING" eval "lists:member('$LEAVING', rabbit_nodes:list_members()).") == true ]]; }

if is_member; then
    # A node that is down for good leaves all the same.
    ! rabbitmqctl --node "$LEAVING" stop_app || STATE=stopped
    held=$(bash /etc/rabbitmq/queues-on.sh "$REMAINING" "$LEAVING")
    if [[ $held != "[]" ]]; then
        echo "$LEAVING stays, for these lie on it: $held"
        exit 1
    fi
    # Should its data outlive this, the node may take it for its own no more (see start.sh).
    rabbitmqctl --node "$REMAINING" set_global_parameter "left-$LEAVING" true
    rabbitmqctl --node "$REMAINING" forget_cluster_node "$LEAVING"
fi
STATE=out
rabbitmqctl --node "$LEAVING" reset || true
echo "$LEAVING has left"
# The operator takes this away together with the pod.
sleep infinity &
wait $!
