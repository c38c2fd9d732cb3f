# shellcheck shell=bash
# Debian packages, installed only when one is missing.

# install_packages NAME...
install_packages() {
    local name missing=()
    for name; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    step "packages ${missing[*]} installed" logged "$CACHE/log/packages.log" apt_install "${missing[@]}"
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    # A package that comes with a service (etcd, containerd) must not start it: its ports and sockets would be in the way.
    # RUNLEVEL=1 says so to invoke-rc.d; the policy file says so where that is not asked; one that is there is left alone.
    local policy=/usr/sbin/policy-rc.d ours=
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        ours=yes
    fi
    apt-get update && RUNLEVEL=1 apt-get install -y --no-install-recommends "$@"
    local result=$?
    [[ -z $ours ]] || rm -f $policy
    return $result
}
