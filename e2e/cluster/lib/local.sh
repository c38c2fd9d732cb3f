# shellcheck shell=bash
# The local cluster: the parts in their order. Starting one that runs does nothing, so the same path also repairs.

for part in settings packages process pki network control_plane seed node services programs; do
    # shellcheck source=/dev/null
    source "$REPOSITORY/e2e/cluster/lib/$part.sh"
done

local_install() {
    [[ $(id -u) == 0 ]] || fail "the local cluster needs root (network namespaces, mounts); with Docker and kind it does not"
    install_packages etcd-server containerd runc containernetworking-plugins conntrack iptables nftables iproute2 \
        openssl curl util-linux procps buildah debootstrap gcc libc6-dev
    ensure_kubernetes
    ensure_helm
    "$IMAGES/build" pause coredns
}

local_start() {
    local node
    kubernetes_links
    step "network" network_up
    step "certificates" certificates
    local waiting=()
    for node in "${NODES[@]}"; do
        node_up "$node" &
        waiting+=($!)
    done
    step "control plane" control_plane_up
    start_provisioner
    start_edge
    apply_manifests &
    waiting+=($!)
    for process in "${waiting[@]}"; do wait "$process"; done
    for node in "${NODES[@]}"; do node_agents_up "$node"; done
    step "nodes ready" wait_for 60 "the nodes" nodes_ready
    step "DNS ready" wait_for 60 "CoreDNS" dns_ready
}

local_up() {
    local start
    local_install
    start=$(now)
    if healthy; then
        say "the cluster runs already"
    else
        # What is left of a cluster is started again; what cannot be is taken down and made anew.
        if [[ -e $STATE && ! -e $STATE/complete ]] || ! "$REPOSITORY/e2e/cluster/up" --start; then
            say "making a new cluster"
            local_down
            "$REPOSITORY/e2e/cluster/up" --start
        fi
        touch "$STATE/complete"
        say "cluster ready ($(duration "$start"))"
    fi
    install -m 600 "$ADMIN" "$LOCAL/kubeconfig"
}

local_down() {
    local name
    type -P ip >/dev/null || return 0
    for name in edge provisioner scheduler controller-manager; do end_process $name KILL; done
    for node in "${NODES[@]}"; do
        for name in kubelet proxy containerd; do end_process "$node-$name" KILL; done
    done
    end_containers
    forget_containers
    for name in apiserver etcd; do end_process $name KILL; done
    unmount_all
    remove_cgroups
    network_down
    remove_shared_folders
    rm -rf "$STATE" "$RUN"
}

# The kubelet writes to these whatever its settings say. They go if nothing of another kubelet is in them.
remove_shared_folders() {
    find /var/log/containers -type l -lname "$STATE/*" -delete 2>/dev/null || true
    rm -f /var/lib/kubelet/device-plugins/{kubelet.sock,DEPRECATION} 2>/dev/null || true
    rmdir /var/log/containers /var/lib/kubelet/device-plugins /var/lib/kubelet 2>/dev/null || true
}
