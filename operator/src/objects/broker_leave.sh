#!/usr/bin/env bash
# Takes the node LEAVING out of the cluster; REMAINING is one that stays. Safe to repeat and to stop at any moment.
# Its program stops first and its process goes on: a process that vanished would look like half of a network to the last of two nodes,
# which then pauses itself. What is declared on it in the meantime is seen in the last look, and it comes back.
set -euo pipefail
# Said before the act: a signal that comes during it is heard only after it.
STATE=in

finish() {
    case $STATE in
        stopped) rabbitmqctl --node "$LEAVING" start_app || rabbitmqctl --node "$LEAVING" stop || true ;;
        # Its pod starts it again, and `start.sh` sees what it is by then.
        out) rabbitmqctl --node "$LEAVING" stop || true ;;
    esac
}
trap finish EXIT
trap 'exit 143' TERM

umask 077
rm -f "$HOME/.erlang.cookie"
cp /run/broker/erlang-cookie "$HOME/.erlang.cookie"

stay_if_needed() {
    local held
    held=$(bash /etc/rabbitmq/queues-on.sh "$REMAINING" "$LEAVING")
    if [[ $held != "[]" ]]; then
        echo "$LEAVING stays, for these lie on it: $held"
        exit 1
    fi
}

# No answer is no answer: it ends this, and the next attempt asks again.
member=$(rabbitmqctl --quiet --node "$REMAINING" eval "lists:member('$LEAVING', rabbit_nodes:list_members()).")
if [[ $member == true ]]; then
    stay_if_needed
    STATE=stopped
    # A node that is down for good leaves all the same.
    rabbitmqctl --node "$LEAVING" stop_app || true
    stay_if_needed
    # Should its data outlive this, the node may take it for its own no more (see start.sh).
    rabbitmqctl --node "$REMAINING" set_global_parameter "left-$LEAVING" true
    STATE=out
    rabbitmqctl --node "$REMAINING" forget_cluster_node "$LEAVING"
elif [[ $member != false ]]; then
    echo "$REMAINING does not say whether $LEAVING is in the cluster: $member"
    exit 1
fi
STATE=out
rabbitmqctl --node "$LEAVING" reset || true
echo "$LEAVING has left"
# The operator takes this away together with the pod.
sleep infinity &
wait $!
