#!/usr/bin/env bash
# queues-on.sh NODE OTHER: the queues that lie on OTHER, in all virtual hosts, as the metadata of NODE knows them; `[]` if there are none.
# No node but NODE is asked: one that hangs or is stopped must not hold this up.
set -euo pipefail
exec rabbitmqctl --quiet --node "$1" eval "
    Node = list_to_atom(\"$2\"),
    IsOn = fun(Queue) ->
        case amqqueue:get_type(Queue) of
            rabbit_classic_queue -> node(amqqueue:get_pid(Queue)) == Node andalso not amqqueue:is_exclusive(Queue);
            _ -> lists:member(Node, maps:get(nodes, amqqueue:get_type_state(Queue), []))
        end
    end,
    [rabbit_misc:rs(amqqueue:get_name(Queue)) || Queue <- rabbit_db_queue:get_all(), IsOn(Queue)]."
