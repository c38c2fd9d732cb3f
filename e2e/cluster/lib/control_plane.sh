# shellcheck shell=bash
# Certificates, etcd, API server, controller manager and scheduler. They run on the host, as on a managed cluster.

certificates() {
    [[ ! -e $PKI/complete ]] || return 0
    local node
    rm -rf "$PKI"
    mkdir -p "$PKI"
    (
        umask 077
        make_authority "$PKI" ca
        make_authority "$PKI" front-proxy-ca
        issue "$PKI" ca apiserver /CN=kube-apiserver \
            "IP:$HOST_ADDRESS,IP:10.96.0.1,IP:127.0.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
        issue "$PKI" ca apiserver-to-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
        issue "$PKI" front-proxy-ca front-proxy /CN=front-proxy-client
        issue "$PKI" ca admin /O=system:masters/CN=admin
        issue "$PKI" ca controller-manager /CN=system:kube-controller-manager
        issue "$PKI" ca scheduler /CN=system:kube-scheduler
        issue "$PKI" ca proxy /CN=system:kube-proxy
        for node in "${NODES[@]}"; do
            issue "$PKI" ca "$node" "/O=system:nodes/CN=system:node:$node" "IP:$(address_of "$node"),DNS:$node"
            write_kubeconfig "$(folder_of "$node").kubeconfig" $API_SERVER "$PKI" ca "$node"
        done
        openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/service-account.key"
        write_kubeconfig "$ADMIN" $API_SERVER "$PKI" ca admin
        for name in controller-manager scheduler proxy; do write_kubeconfig "$STATE/$name.kubeconfig" $API_SERVER "$PKI" ca $name; done
    )
    touch "$PKI/complete"
}

start_etcd() {
    running etcd || launch etcd etcd --name stockpipeline --data-dir "$STATE/etcd" --log-level warn --unsafe-no-fsync \
        --listen-client-urls $ETCD --advertise-client-urls $ETCD --listen-peer-urls $ETCD_PEER \
        --initial-advertise-peer-urls $ETCD_PEER --initial-cluster "stockpipeline=$ETCD_PEER" \
        --auto-compaction-retention 10m --quota-backend-bytes 4294967296
}

start_apiserver() {
    # Aggregator routing: the host has no kube-proxy, so webhooks are called at their endpoints, not at a service's address.
    running apiserver || launch apiserver "$STATE/bin/kube-apiserver" \
        --etcd-servers $ETCD --bind-address $HOST_ADDRESS --advertise-address $HOST_ADDRESS --secure-port 6443 \
        --service-cluster-ip-range $SERVICE_RANGE --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
        --allow-privileged --enable-aggregator-routing --profiling=false \
        --client-ca-file "$PKI/ca.crt" --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" \
        --kubelet-certificate-authority "$PKI/ca.crt" --kubelet-preferred-address-types InternalIP \
        --kubelet-client-certificate "$PKI/apiserver-to-kubelet.crt" --kubelet-client-key "$PKI/apiserver-to-kubelet.key" \
        --service-account-issuer https://kubernetes.default.svc.cluster.local \
        --service-account-key-file "$PKI/service-account.key" --service-account-signing-key-file "$PKI/service-account.key" \
        --requestheader-client-ca-file "$PKI/front-proxy-ca.crt" --requestheader-allowed-names front-proxy-client \
        --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
        --requestheader-extra-headers-prefix X-Remote-Extra- \
        --proxy-client-cert-file "$PKI/front-proxy.crt" --proxy-client-key-file "$PKI/front-proxy.key"
}

# One of each, so no election: it would only add its seconds to every start.
start_controllers() {
    running controller-manager || launch controller-manager "$STATE/bin/kube-controller-manager" \
        --kubeconfig "$STATE/controller-manager.kubeconfig" --authentication-kubeconfig "$STATE/controller-manager.kubeconfig" \
        --authorization-kubeconfig "$STATE/controller-manager.kubeconfig" --bind-address 127.0.0.1 --leader-elect=false \
        --use-service-account-credentials --service-account-private-key-file "$PKI/service-account.key" --root-ca-file "$PKI/ca.crt" \
        --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key" \
        --flex-volume-plugin-dir "$STATE/plugins" --profiling=false
    running scheduler || launch scheduler "$STATE/bin/kube-scheduler" --kubeconfig "$STATE/scheduler.kubeconfig" \
        --authentication-kubeconfig "$STATE/scheduler.kubeconfig" --authorization-kubeconfig "$STATE/scheduler.kubeconfig" \
        --bind-address 127.0.0.1 --leader-elect=false --profiling=false
}

apiserver_ready() { curl --silent --fail --max-time 2 --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" $API_SERVER/readyz; }

control_plane_up() {
    start_etcd
    start_apiserver
    await apiserver 60 apiserver_ready
    start_controllers
}
