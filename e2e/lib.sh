# shellcheck shell=bash
# What the demo and the tests share: a cluster with the operator on it, and a pipeline on that.

source "$(dirname "${BASH_SOURCE[0]}")/images/lib.sh"

PORT=${STOCK_PORT:-8080}
OPERATOR_NAMESPACE=stockpipeline-system
DEMO_NAMESPACE=demo

# With CARGO_HOME set or rustup installed by hand, cargo may be off the PATH.
require_cargo() {
    export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null || fail "cargo is missing: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$REPOSITORY/Cargo.toml") or newer (https://rustup.rs)"
}

# With the whole workspace, crates get the same features as in the unit tests: with other crates chosen, cargo would compile some of their
# dependencies once more.
SERVER_TESTS=(--workspace --locked --features "workloads/servers,stockpipeline-operator/servers")
CLUSTER_TESTS=(--workspace --locked --features e2e/cluster)

# cluster_runs: is there a cluster, this clone's or another's?
cluster_runs() {
    if on_kind; then kind get clusters 2>/dev/null | grep -qx stockpipeline; else [[ -e $STATE/complete ]]; fi
}

# operator_up: the cluster, all images on it, and the operator, ready.
operator_up() {
    "$REPOSITORY/e2e/cluster/up"
    export KUBECONFIG=$LOCAL/kubeconfig
    "$IMAGES/build-project"
    step "images of the project on every node" "$IMAGES/load" "$LOCAL/images/operator.tar" "$LOCAL/images/workloads.tar"
    "$IMAGES/load-standins"
    step "operator installed" install_operator
}

# image_digest ARCHIVE: changes with the image's content, for its tag does not.
image_digest() { { tar -xOf "$LOCAL/images/$1.tar" index.json || tar -xOf "$LOCAL/images/$1.tar" manifest.json; } 2>/dev/null | sha256sum | cut -c1-16; }

install_operator() { install_release "$REPOSITORY" dev operator; }

# install_release TREE TAG ARCHIVE: the tree's chart, with the operator's image of that tag, which is in .local/images/ARCHIVE.tar.
install_release() {
    local values=(--set "images.operator=localhost/stockpipeline-operator:$2" --set images.workloads=localhost/stockpipeline-workloads:dev)
    on_kind || values+=(--values "$REPOSITORY/e2e/cluster/values.yaml")
    restricted_namespace "$OPERATOR_NAMESPACE"
    # An operator of the same tag and other content must replace the one that runs.
    helm upgrade --install stockpipeline "$1/charts/stockpipeline" --namespace "$OPERATOR_NAMESPACE" --reset-values "${values[@]}" \
        --set-string "podAnnotations.stockpipeline\.io/image=$(image_digest "$3")" >"$LOCAL/log/helm-install.log" 2>&1 || {
        cat "$LOCAL/log/helm-install.log" >&2
        return 1
    }
    # `kubectl wait` takes a definition so new that it has no condition for an error.
    wait_for 30 "the API server to serve StockPipelines" kubectl get --raw /apis/stockpipeline.io/v1alpha1
    kubectl rollout status deployment/stockpipeline --namespace "$OPERATOR_NAMESPACE" --timeout=90s >/dev/null || {
        diagnose_operator >&2
        return 1
    }
}

diagnose_operator() {
    kubectl get pods --namespace "$OPERATOR_NAMESPACE" --output wide
    kubectl get events --namespace "$OPERATOR_NAMESPACE" --sort-by .metadata.creationTimestamp | tail -n 15
    kubectl logs --namespace "$OPERATOR_NAMESPACE" --selector app.kubernetes.io/name=stockpipeline-operator --tail 30
}

# restricted_namespace NAME: with the strictest of the pod security standards enforced.
restricted_namespace() {
    kubectl apply --filename - >/dev/null <<-END
		apiVersion: v1
		kind: Namespace
		metadata:
		  name: $1
		  labels: {pod-security.kubernetes.io/enforce: restricted}
		END
}

# demo_up: the demo's pipeline, Ready, with prices on the page.
demo_up() {
    restricted_namespace "$DEMO_NAMESPACE"
    renew_workloads
    kubectl apply --namespace "$DEMO_NAMESPACE" --filename "$REPOSITORY/examples/demo.yaml"
    step "pipeline demo ready" ready_with_progress
    step "prices through NGINX" "$REPOSITORY/e2e/first-price" "$PORT" MSFT TSLA AAPL
}

# Pods that run hold the image they started with; those of a pipeline that is there already start anew when it is another now.
renew_workloads() {
    local digest before key=stockpipeline.io/workloads-image
    digest=$(image_digest workloads)
    before=$(kubectl get namespace "$DEMO_NAMESPACE" --output "jsonpath={.metadata.annotations.stockpipeline\.io/workloads-image}")
    if [[ -n $before && $before != "$digest" ]]; then
        kubectl rollout restart deployment --namespace "$DEMO_NAMESPACE" \
            --selector 'app.kubernetes.io/component in (publisher, consumer, liveview)' >/dev/null
    fi
    kubectl annotate namespace "$DEMO_NAMESPACE" --overwrite "$key=$digest" >/dev/null
}

# ready_with_progress: waits for Ready and prints what the operator waits for, whenever that changes.
ready_with_progress() {
    local last='' message
    kubectl wait --for=condition=Ready spl/demo --namespace "$DEMO_NAMESPACE" --timeout=180s >/dev/null 2>"$LOCAL/log/wait.log" &
    local waiting=$!
    while kill -0 "$waiting" 2>/dev/null; do
        message=$(kubectl get spl/demo --namespace "$DEMO_NAMESPACE" \
            --output 'jsonpath={.status.conditions[?(@.type=="Ready")].message}' 2>/dev/null) || message=
        if [[ -n $message && $message != "$last" ]]; then echo "    $message"; fi
        last=$message
        sleep 0.5
    done
    wait "$waiting" || { cat "$LOCAL/log/wait.log" >&2; return 1; }
}

diagnose_demo() {
    local condition='{range .items[*].status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}'
    kubectl get spl --namespace "$DEMO_NAMESPACE" --output wide
    kubectl get spl --namespace "$DEMO_NAMESPACE" --output "jsonpath=$condition"
    kubectl get pods --namespace "$DEMO_NAMESPACE" --output wide
    kubectl get events --namespace "$DEMO_NAMESPACE" --sort-by .metadata.creationTimestamp | tail -n 20
    diagnose_operator
}

# remove_pipelines: and waits for their pods; a namespace with running pods in it goes only after half of their longest grace period.
remove_pipelines() {
    kubectl get customresourcedefinition stockpipelines.stockpipeline.io >/dev/null 2>&1 || return 0
    kubectl delete spl --all --namespace "$DEMO_NAMESPACE" --timeout=30s >/dev/null
    kubectl wait --for=delete pod --all --namespace "$DEMO_NAMESPACE" --timeout=90s >/dev/null
}

# demo_down: the pipeline and its children, then the operator. The chart keeps the definition, which goes with the cluster.
demo_down() {
    export KUBECONFIG=$LOCAL/kubeconfig
    step "pipeline demo and its children removed" remove_pipelines
    step "namespace $DEMO_NAMESPACE removed" kubectl delete namespace "$DEMO_NAMESPACE" --ignore-not-found --timeout=90s
    step "operator removed" helm uninstall stockpipeline --namespace "$OPERATOR_NAMESPACE" --ignore-not-found --wait --timeout 60s
    kubectl delete namespace "$OPERATOR_NAMESPACE" --ignore-not-found --timeout=60s
}
