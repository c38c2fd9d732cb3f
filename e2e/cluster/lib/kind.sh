# shellcheck shell=bash
# The kind cluster, where a Docker engine and kind are there.

KIND_CLUSTER=stockpipeline

kind_up() {
    if kind get clusters 2>/dev/null | grep -qx $KIND_CLUSTER; then
        kind export kubeconfig --name $KIND_CLUSTER --kubeconfig "$LOCAL/kubeconfig"
        if kind_ready 5; then
            say "the cluster runs already"
            return
        fi
        # After a restart of Docker, nodes may come back with other addresses and never join again.
        kind_ready 60 || { say "making a new cluster"; kind_down; }
    fi
    if ! kind get clusters 2>/dev/null | grep -qx $KIND_CLUSTER; then
        step "kind cluster created" kind create cluster --name $KIND_CLUSTER --config "$(kind_config)" --kubeconfig "$LOCAL/kubeconfig" --wait 120s
    fi
    chmod 600 "$LOCAL/kubeconfig"
    step "nodes and DNS ready" kind_ready 120
}

# STOCK_PORT as on the local cluster, for machines where 8080 is taken.
kind_config() {
    sed "s/hostPort: 8080/hostPort: ${STOCK_PORT:-8080}/" "$REPOSITORY/kind-config.yaml" >"$LOCAL/kind-config.yaml"
    echo "$LOCAL/kind-config.yaml"
}

kind_ready() { # kind_ready SECONDS
    kubectl --kubeconfig "$LOCAL/kubeconfig" wait node --all --for condition=Ready --timeout "$1s" >/dev/null &&
        kubectl --kubeconfig "$LOCAL/kubeconfig" --namespace kube-system rollout status deployment/coredns --timeout "$1s" >/dev/null
}

kind_down() { kind delete cluster --name $KIND_CLUSTER; }

kind_clients() {
    command -v kubectl >/dev/null || fail "kubectl is missing"
    command -v helm >/dev/null || ensure_helm
    link_clients
}
