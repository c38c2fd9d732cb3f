# shellcheck shell=bash
# The programs that are built here from their Go modules: each once per version and source, then taken from the cache.

KUBERNETES_SOURCE=$REPOSITORY/e2e/cluster/kubernetes
KUBERNETES_COMMANDS=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl volume-provisioner port-forwarder)

kubernetes_binary() { echo "$CACHE/bin/kubernetes-$KUBERNETES_VERSION-$(hash_of "$KUBERNETES_SOURCE")"; }

ensure_kubernetes() {
    local binary
    binary=$(kubernetes_binary)
    [[ -x $binary ]] || exclusively kubernetes build_kubernetes "$binary"
}

build_kubernetes() {
    [[ ! -x $1 ]] || return 0
    local version=k8s.io/component-base/version.git
    step "kubernetes $KUBERNETES_VERSION built" logged "$CACHE/log/kubernetes.log" go_build "$KUBERNETES_SOURCE" "$1" \
        "-X ${version}Version=v$KUBERNETES_VERSION -X ${version}Major=1 -X ${version}Minor=$(cut -d. -f2 <<<"$KUBERNETES_VERSION")"
    remove_older "$CACHE/bin/kubernetes" "$1"
}

ensure_coredns() {
    local binary
    binary=$CACHE/bin/coredns-$(coredns_key)
    [[ -x $binary ]] || exclusively coredns build_coredns "$binary"
}

build_coredns() {
    [[ ! -x $1 ]] || return 0
    step "coredns built" logged "$CACHE/log/coredns.log" go_build "$REPOSITORY/e2e/cluster/coredns" "$1" ""
    remove_older "$CACHE/bin/coredns" "$1"
}

# go_build FOLDER TARGET LINKER-FLAGS. Static: the same file runs on the host and in an image with nothing else in it.
go_build() {
    cd "$1" &&
        CGO_ENABLED=0 GOFLAGS='' go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w $3" -o "$2.new" . &&
        mv "$2.new" "$2"
}

ensure_helm() { [[ -x $CACHE/bin/helm-$HELM_VERSION ]] || exclusively helm build_helm; }

build_helm() {
    [[ ! -x $CACHE/bin/helm-$HELM_VERSION ]] || return 0
    step "helm $HELM_VERSION built" logged "$CACHE/log/helm.log" install_helm
}

install_helm() { go_install helm "helm.sh/helm/v3/cmd/helm@v$HELM_VERSION" "$CACHE/bin/helm-$HELM_VERSION"; }

# go_install NAME MODULE BINARY: an interrupted build leaves no such file.
go_install() {
    local folder=$CACHE/build/$1
    mkdir -p "$folder" || return
    CGO_ENABLED=0 GOFLAGS='' GOBIN=$folder go install -trimpath -ldflags "-s -w" "$2" && mv "$folder/$1" "$3"
}

kwok_binary() { echo "$CACHE/bin/kwok-$KWOK_VERSION"; }

ensure_kwok() { [[ -x $(kwok_binary) ]] || exclusively kwok build_kwok; }

build_kwok() {
    [[ ! -x $(kwok_binary) ]] || return 0
    step "kwok $KWOK_VERSION built" logged "$CACHE/log/kwok.log" install_kwok
}

install_kwok() { go_install kwok "sigs.k8s.io/kwok/cmd/kwok@v$KWOK_VERSION" "$(kwok_binary)"; }

CERT_MANAGER_SOURCE=$REPOSITORY/e2e/cert-manager

cert_manager_binary() { echo "$CACHE/bin/cert-manager-$(hash_of "$CERT_MANAGER_SOURCE/main.go" "$CERT_MANAGER_SOURCE/go.mod")"; }

ensure_cert_manager() { [[ -x $(cert_manager_binary) ]] || exclusively cert-manager build_cert_manager "$(cert_manager_binary)"; }

build_cert_manager() {
    [[ ! -x $1 ]] || return 0
    step "cert-manager built" logged "$CACHE/log/cert-manager.log" go_build "$CERT_MANAGER_SOURCE" "$1" ""
    remove_older "$CACHE/bin/cert-manager" "$1"
}

# The folder with one link per command; a program with its own name is what `ps` then shows.
kubernetes_links() {
    local command
    mkdir -p "$STATE/bin"
    for command in "${KUBERNETES_COMMANDS[@]}"; do ln -sfn "$(kubernetes_binary)" "$STATE/bin/$command"; done
}

# link_clients: kubectl and helm for this clone, where they were built here.
link_clients() {
    [[ ! -x $CACHE/bin/helm-$HELM_VERSION ]] || ln -sfn "$CACHE/bin/helm-$HELM_VERSION" "$LOCAL/bin/helm"
    [[ ! -x $(kubernetes_binary) ]] || ln -sfn "$(kubernetes_binary)" "$LOCAL/bin/kubectl"
}
