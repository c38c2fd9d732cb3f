# shellcheck shell=bash
# Names and addresses of the local cluster. Everything it makes on the machine bears the prefix "stock", so it can be taken
# away again without touching anybody else's.

PIDS=$RUN/pid
LOGS=$STATE/log
PKI=$STATE/pki
ADMIN=$STATE/admin.kubeconfig

BRIDGE=stock0
HOST_ADDRESS=10.89.0.1
API_SERVER=https://$HOST_ADDRESS:6443
SERVICE_RANGE=10.96.0.0/16
DNS_ADDRESS=10.96.0.10
POD_RANGE=10.244.0.0/16
ETCD=http://127.0.0.1:23790
ETCD_PEER=http://127.0.0.1:23800
EDGE_NODE_PORT=30080

number_of() { echo "${1#node-}"; }
address_of() { echo "10.89.0.1$(number_of "$1")"; }
pods_of() { echo "10.244.$(number_of "$1").0/24"; }
namespace_of() { echo "stock-$1"; }
folder_of() { echo "$STATE/$1"; }
socket_of() { echo "$RUN/$1/containerd.sock"; }

# Not `ip netns exec`: that mounts a fresh /sys, in which containerd and the kubelet find no cgroups.
enter() { nsenter --net="/run/netns/$(namespace_of "$1")" "${@:2}"; }

admin() { "$STATE/bin/kubectl" --kubeconfig "$ADMIN" "$@"; }

known_node() {
    local node
    for node in "${NODES[@]}"; do [[ $node != "${1-}" ]] || return 0; done
    fail "no such node: ${1-} (there are: ${NODES[*]})"
}
