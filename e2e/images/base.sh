# shellcheck shell=bash
# debian:trixie as an image, from Debian's packages alone.

# base_archive: the root file system as one tar file, made once.
base_archive() {
    local archive
    archive=$CACHE/base/$SUITE-$(image_key debian).tar
    if [[ ! -e $archive ]]; then
        step "debian $SUITE bootstrapped" logged "$CACHE/log/debootstrap.log" bootstrap "$archive" >&2
        remove_older "$CACHE/base/$SUITE" "$archive"
    fi
    echo "$archive"
}

bootstrap() {
    local root=$CACHE/base/$SUITE.new
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase $SUITE "$root" http://deb.debian.org/debian
    # Every node unpacks this: what no program reads stays out, now and in the images built upon it.
    cat >"$root/etc/dpkg/dpkg.cfg.d/small" <<-END
		path-exclude=/usr/share/doc/*
		path-exclude=/usr/share/man/*
		path-exclude=/usr/share/info/*
		path-exclude=/usr/share/locale/*
		END
    rm -rf "$root"/usr/share/{doc,man,info,locale}/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*
    tar -C "$root" --numeric-owner -cf "$1.new" .
    mv "$1.new" "$1"
    rm -rf "$root"
}

build_debian() {
    local container archive
    archive=$(base_archive)
    container=$(build_tool from scratch)
    build_tool add --quiet "$container" "$archive" / >/dev/null
    build_tool config --cmd /bin/bash --label "key=$(image_key debian)" "$container"
    build_tool commit --quiet --rm "$container" "${TAG[debian]}" >/dev/null
}
