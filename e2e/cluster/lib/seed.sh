# shellcheck shell=bash
# The stand-ins, unpacked once per machine: a new node starts with links to the same files instead of unpacking 200 MB of its own.
# Links are safe because nothing ever writes to a layer or a blob; the two databases are copied.

SEEDED=(pause coredns rabbitmq mongo nginx)

seed_folder() {
    local name keys=()
    for name in "${SEEDED[@]}"; do keys+=("$name-$(image_key "$name")"); done
    echo "$CACHE/seed/images-$(hash_of "${keys[@]}")"
}

ensure_seed() {
    local seed
    seed=$(seed_folder)
    [[ -d $seed ]] || exclusively seed make_seed "$seed"
}

make_seed() {
    local seed=$1 state name containerd
    [[ ! -d $seed ]] || return 0
    state=$(mktemp -d /run/stock-seed.XXXX)
    rm -rf "$seed.new"
    mkdir -p "$seed.new"
    cat >"$state/config.toml" <<-END
		version = 2
		root = "$seed.new"
		state = "$state/state"
		disabled_plugins = ["io.containerd.grpc.v1.cri"]
		[grpc]
		address = "$state/socket"
		END
    containerd --config "$state/config.toml" >"$CACHE/log/seed.log" 2>&1 </dev/null &
    containerd=$!
    wait_for 20 "the seed's containerd" ctr --address "$state/socket" version
    for name in "${SEEDED[@]}"; do
        ctr --address "$state/socket" --namespace k8s.io images import "$(image_archive "$name")" >/dev/null
    done
    kill "$containerd"
    wait "$containerd" || true
    rm -rf "$state"
    # An identity, not a content: each containerd makes its own.
    rm -f "$seed.new"/io.containerd.grpc.v1.introspection/uuid
    mv "$seed.new" "$seed"
    remove_older "$CACHE/seed/images" "$seed"
}

# plant_seed FOLDER: before its containerd starts for the first time. Without a seed, or with the cache on another disk, the node
# starts empty and images are imported.
plant_seed() {
    local seed database
    seed=$(seed_folder)
    [[ -d $seed && ! -e $1 ]] || return 0
    if ! cp --archive --link "$seed" "$1.new" 2>/dev/null; then
        rm -rf "$1.new"
        return 0
    fi
    for database in "$seed"/*/*.db; do cp --remove-destination "$database" "$1.new/${database#"$seed"/}"; done
    mv "$1.new" "$1"
}
