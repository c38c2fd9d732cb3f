# shellcheck shell=bash
# A node: containerd, kubelet and kube-proxy in the node's network namespace, with folders, sockets and cgroups of their own.

node_up() { # node_up NODE: needs the network; the API server may still be on its way
    node_files "$1"
    plant_seed "$(folder_of "$1")/containerd"
    node_cgroups "$1"
    running "$1-containerd" || launch "$1-containerd" nsenter --net="/run/netns/$(namespace_of "$1")" \
        containerd --config "$(folder_of "$1")/containerd.toml"
    # A kubelet that finds no socket gives up on the runtime for ten seconds.
    await "$1-containerd" 30 ctr --address "$(socket_of "$1")" version
    "$IMAGES/load" --node "$1" "$(image_archive pause)" "$(image_archive coredns)"
}

node_agents_up() { # node_agents_up NODE: needs the API server
    running "$1-kubelet" || launch "$1-kubelet" nsenter --net="/run/netns/$(namespace_of "$1")" "$STATE/bin/kubelet" \
        --config "$(folder_of "$1")/kubelet.yaml" --kubeconfig "$STATE/$1.kubeconfig" --root-dir "$(folder_of "$1")/kubelet" \
        --cert-dir "$(folder_of "$1")/kubelet/pki" --node-ip "$(address_of "$1")" --hostname-override "$1"
    running "$1-proxy" || launch "$1-proxy" nsenter --net="/run/netns/$(namespace_of "$1")" "$STATE/bin/kube-proxy" \
        --config "$(folder_of "$1")/proxy.yaml"
}

node_files() {
    local folder
    folder=$(folder_of "$1")
    mkdir -p "$folder"/{cni,kubelet,pods} "$RUN/$1"
    # Two runs of containerd never share this folder, even if the file is rewritten while one runs.
    cat >"$folder/containerd.toml" <<-END
		version = 2
		root = "$folder/containerd"
		state = "$RUN/$1/containerd"
		disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.tracing"]
		[grpc]
		address = "$(socket_of "$1")"
		[plugins."io.containerd.internal.v1.opt"]
		path = "$folder/opt"
		[plugins."io.containerd.grpc.v1.cri"]
		sandbox_image = "${TAG[pause]}"
		# Without CAP_SYS_RESOURCE a container's score cannot go below its parent's; refusing to start would be worse.
		restrict_oom_score_adj = true
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		runtime_type = "io.containerd.runc.v2"
		[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		SystemdCgroup = false
		[plugins."io.containerd.grpc.v1.cri".cni]
		bin_dir = "/usr/lib/cni"
		conf_dir = "$folder/cni"
		END
    cat >"$folder/cni/10-bridge.conflist" <<-END
		{
		  "cniVersion": "0.4.0",
		  "name": "pods",
		  "plugins": [
		    {
		      "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
		      "ipam": {
		        "type": "host-local", "dataDir": "$folder/addresses",
		        "ranges": [[{"subnet": "$(pods_of "$1")"}]], "routes": [{"dst": "0.0.0.0/0"}]
		      }
		    },
		    {"type": "portmap", "capabilities": {"portMappings": true}}
		  ]
		}
		END
    : >"$folder/resolv.conf"
    cat >"$folder/kubelet.yaml" <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		address: $(address_of "$1")
		authentication:
		  anonymous: {enabled: false}
		  webhook: {enabled: true}
		  x509: {clientCAFile: $PKI/ca.crt}
		authorization: {mode: Webhook}
		tlsCertFile: $PKI/$1.crt
		tlsPrivateKeyFile: $PKI/$1.key
		containerRuntimeEndpoint: unix://$(socket_of "$1")
		cgroupDriver: cgroupfs
		cgroupRoot: /stockpipeline/$1
		failCgroupV1: false
		failSwapOn: false
		oomScoreAdj: 0
		makeIPTablesUtilChains: false
		clusterDNS: [$DNS_ADDRESS]
		clusterDomain: cluster.local
		# No way out of the cluster, so nothing of the host's resolver for the pods.
		resolvConf: $folder/resolv.conf
		podLogsDir: $folder/pods
		volumePluginDir: $folder/plugins
		serializeImagePulls: false
		# The disk is the whole machine's: a full one elsewhere must not evict pods or remove images that no registry has.
		imageGCHighThresholdPercent: 100
		imageGCLowThresholdPercent: 99
		evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
		END
    cat >"$folder/proxy.yaml" <<-END
		apiVersion: kubeproxy.config.k8s.io/v1alpha1
		kind: KubeProxyConfiguration
		mode: nftables
		clientConnection: {kubeconfig: $STATE/proxy.kubeconfig}
		hostnameOverride: $1
		clusterCIDR: $POD_RANGE
		metricsBindAddress: 127.0.0.1:10249
		# The connection table's sizes are the machine's, not a namespace's to change.
		conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
		END
}

cgroup_folders() { # one per hierarchy: a single one with cgroup v2
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then echo /sys/fs/cgroup
    else find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d; fi
}

node_cgroups() {
    local hierarchy folder file
    for hierarchy in $(cgroup_folders); do
        for folder in "$hierarchy/stockpipeline" "$hierarchy/stockpipeline/$1"; do
            mkdir -p "$folder"
            # A new cpuset is empty, and no process can enter an empty one.
            for file in cpuset.cpus cpuset.mems; do
                [[ ! -e $hierarchy/$file || -e /sys/fs/cgroup/cgroup.controllers ]] || cat "$folder/../$file" >"$folder/$file"
            done
            if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
                sed 's/[a-z_]*/+&/g' "$folder/../cgroup.controllers" >"$folder/../cgroup.subtree_control" 2>/dev/null || true
            fi
        done
    done
}

# Every process of every container is in a cgroup of ours, and nothing else is: so this cannot hit a stranger.
end_containers() {
    local hierarchy process socket
    for process in $(pgrep --exact containerd-shim || true); do
        socket=$(tr '\0' '\n' <"/proc/$process/cmdline" 2>/dev/null | grep -A1 -x -- -address | tail -n 1) || true
        [[ $socket != "$RUN"/* ]] || kill -s KILL "$process" 2>/dev/null || true
    done
    for hierarchy in $(cgroup_folders); do
        [[ -d $hierarchy/stockpipeline ]] || continue
        find "$hierarchy/stockpipeline" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u | xargs -r kill -s KILL 2>/dev/null || true
    done
}

# containerd, runc and the CNI plugins also write to folders that no setting moves. What is ours there is found by container.
forget_containers() {
    local bundle container namespace
    for bundle in "$RUN"/node-*/containerd/io.containerd.runtime.v2.task/k8s.io/*/; do
        [[ -d $bundle ]] || continue
        container=$(basename "$bundle")
        [[ ! -s $bundle/address ]] || rm -f "$(sed 's#^unix://##' "$bundle/address")"
        rm -rf "/run/containerd/runc/k8s.io/$container"
        rm -f /var/lib/cni/results/*-"$container"-*
        for namespace in $(grep -o '/netns/cni-[0-9a-f-]*' "$bundle/config.json" 2>/dev/null | sort -u); do
            ip netns delete "${namespace#/netns/}" 2>/dev/null || true
        done
    done
    rmdir /run/containerd/runc/k8s.io /run/containerd/runc /run/containerd/s /run/containerd /var/lib/cni/results /var/lib/cni 2>/dev/null || true
}

remove_cgroups() {
    local hierarchy
    for hierarchy in $(cgroup_folders); do
        [[ -d $hierarchy/stockpipeline ]] || continue
        # A cgroup is busy until the last of its processes has been buried.
        for _ in {1..50}; do
            find "$hierarchy/stockpipeline" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [[ -d $hierarchy/stockpipeline ]] || break
            sleep 0.1
        done
    done
}

unmount_all() {
    local target
    # Last mounted first; a container's root may be mounted several times.
    awk -v state="$STATE/" -v run="$RUN/" 'index($5, state) == 1 || index($5, run) == 1 {print $5}' /proc/self/mountinfo | tac |
        while read -r target; do umount --lazy "$target" 2>/dev/null || true; done
}
