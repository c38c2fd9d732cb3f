# shellcheck shell=bash
# One bridge on the host, one network namespace per node, and routes between them. Every step may be repeated.

network_up() {
    local node
    mkdir -p "$STATE" "$RUN"
    if ! ip link show $BRIDGE >/dev/null 2>&1; then
        ip link add $BRIDGE type bridge
        ip address add $HOST_ADDRESS/24 dev $BRIDGE
    fi
    ip link set $BRIDGE up
    # What the machine had before is written down, for `down` to put back.
    [[ -e $STATE/ip_forward ]] || cat /proc/sys/net/ipv4/ip_forward >"$STATE/ip_forward"
    echo 1 >/proc/sys/net/ipv4/ip_forward
    for node in "${NODES[@]}"; do node_network "$node"; done
    for node in "${NODES[@]}"; do
        ip route replace "$(pods_of "$node")" via "$(address_of "$node")" dev $BRIDGE
        node_routes "$node"
    done
    allow_forwarding
}

node_network() {
    local namespace
    namespace=$(namespace_of "$1")
    ip netns list | grep -q "^$namespace\b" || ip netns add "$namespace"
    if ! ip link show "$namespace" >/dev/null 2>&1; then
        ip link add "$namespace" type veth peer name eth0 netns "$namespace"
        ip link set "$namespace" master $BRIDGE
        enter "$1" ip address add "$(address_of "$1")/24" dev eth0
    fi
    # `up` also ends a node failure that a test left behind.
    ip link set "$namespace" up
    enter "$1" ip link set lo up
    enter "$1" ip link set eth0 up
    enter "$1" ip route replace default via $HOST_ADDRESS
    enter "$1" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

node_routes() {
    local other
    for other in "${NODES[@]}"; do
        [[ $other == "$1" ]] || enter "$1" ip route replace "$(pods_of "$other")" via "$(address_of "$other")"
    done
}

# Where a Docker engine runs, it drops what is forwarded. The chain's rules are ours alone and go with `down`.
allow_forwarding() {
    iptables -S FORWARD 2>/dev/null | grep -q -- '^-P FORWARD DROP' || return 0
    iptables -C FORWARD -i $BRIDGE -j ACCEPT 2>/dev/null || iptables -I FORWARD -i $BRIDGE -j ACCEPT
    iptables -C FORWARD -o $BRIDGE -j ACCEPT 2>/dev/null || iptables -I FORWARD -o $BRIDGE -j ACCEPT
}

network_down() {
    local node
    while iptables -D FORWARD -i $BRIDGE -j ACCEPT 2>/dev/null; do :; done
    while iptables -D FORWARD -o $BRIDGE -j ACCEPT 2>/dev/null; do :; done
    for node in "${NODES[@]}"; do
        ip link delete "$(namespace_of "$node")" 2>/dev/null || true
        ip netns delete "$(namespace_of "$node")" 2>/dev/null || true
    done
    # The host's routes to the pods go with the bridge.
    ip link delete $BRIDGE 2>/dev/null || true
    [[ ! -e $STATE/ip_forward ]] || cat "$STATE/ip_forward" >/proc/sys/net/ipv4/ip_forward
}
