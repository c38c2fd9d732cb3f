# shellcheck shell=bash
# What every cluster has besides Kubernetes itself: names, volumes, and a way in from the host.

start_provisioner() {
    mkdir -p "$STATE/volumes"
    running provisioner || launch provisioner "$STATE/bin/volume-provisioner" --kubeconfig "$ADMIN" --root "$STATE/volumes"
}

# http://localhost:8080 → the edge's node port, on the first node that answers.
start_edge() {
    local port=${STOCK_PORT:-8080} targets=() node
    if running edge; then
        port_open "$port" && return 0
        # Running, but on another port: this run asks for a new one.
        end_process edge
    fi
    if port_open "$port"; then
        fail "port $port on this machine is taken by another program; choose one with STOCK_PORT=8081 e2e/cluster/up"
    fi
    for node in "${NODES[@]}"; do targets+=("$(address_of "$node"):$EDGE_NODE_PORT"); done
    launch edge "$STATE/bin/port-forwarder" --listen "127.0.0.1:$port" --targets "$(IFS=,; echo "${targets[*]}")"
    await edge 5 port_open "$port"
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

apply_manifests() { admin apply --server-side --force-conflicts -f "$REPOSITORY/e2e/cluster/manifests" >/dev/null; }

nodes_ready() {
    local ready
    ready=$(admin get nodes --no-headers 2>/dev/null | awk '$2 == "Ready"' | wc -l)
    ((ready == ${#NODES[@]}))
}

dns_ready() {
    [[ $(admin --namespace kube-system get deployment coredns -o 'jsonpath={.status.readyReplicas}/{.status.unavailableReplicas}' 2>/dev/null) == 2/ ]]
}

all_processes() {
    local node
    echo etcd apiserver controller-manager scheduler provisioner edge
    for node in "${NODES[@]}"; do echo "$node-containerd $node-kubelet $node-proxy"; done
}

healthy() {
    local name
    for name in $(all_processes); do running "$name" || return 1; done
    links_up && port_open "${STOCK_PORT:-8080}" && nodes_ready && dns_ready
}

links_up() {
    local node
    for node in "${NODES[@]}"; do [[ $(cat "/sys/class/net/$(namespace_of "$node")/operstate" 2>/dev/null) == up ]] || return 1; done
}
