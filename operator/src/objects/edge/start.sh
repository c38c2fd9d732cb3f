# Starts NGINX and stays with it: start.sh LIVEVIEW PAGE METRICS, the headless Service of liveview, the one with an address, the port of figures.
# Rule: a certificate that NGINX cannot use never replaces one that it can; sockets are cut only when the pod ends.
set -eu
given=/etc/edge secret=/etc/edge-tls work=/tmp/edge
# Sockets that are still open this long after the pod's end began come back through another pod.
last_requests=10

mkdir -p "$work"
# What a container that was killed left: files that cannot be written again, and the id of a process that is another one by now.
rm -f "$work"/*.conf /tmp/nginx.pid
# A copy: the mounted files change before this pod is replaced, and a reload must not take them halfway.
cp "$given"/*.conf "$work"
sed "s/METRICS_PORT/$3/" "$given/nginx.conf" >"$work/main.conf"

# NGINX resolves the names of upstream servers by itself and without a search list, so they need the cluster's name server and domain.
server=$(awk '$1 == "nameserver" { print ($2 ~ /:/) ? "[" $2 "]" : $2; exit }' /etc/resolv.conf)
domain=$(awk '$1 == "search" { print $2; exit }' /etc/resolv.conf)
echo "resolver $server valid=2s ipv6=off;" >"$work/resolver.conf"
# The Service with an address is for the time in which a name server is silent, still tells of pods that are gone, or not yet of new
# ones: kube-proxy knows better. By its address too, for NGINX has no answer yet when it starts.
address=$(getent hosts "$2" | awk '{ print ($1 ~ /:/) ? "[" $1 "]" : $1; exit }')
{
    echo "server $1.$domain:LIVEVIEW_PORT resolve max_fails=1 fail_timeout=2s;"
    echo "server $2.$domain:80 resolve backup max_fails=0;"
    if [ -n "$address" ]; then echo "server $address:80 backup max_fails=0;"; fi
} >"$work/servers.conf"

# take_certificate: uses what the Secret holds, if it is new and NGINX can.
known=none
take_certificate() {
    rm -rf "$work/next" "$work/last"
    (umask 077 && mkdir "$work/next" && cp "$secret/tls.crt" "$secret/tls.key" "$work/next") 2>/dev/null || return 1
    now=$(cat "$work/next/tls.crt" "$work/next/tls.key" | cksum)
    [ "$now" != "$known" ] || return 1
    known=$now
    [ ! -d "$work/tls" ] || mv "$work/tls" "$work/last"
    mv "$work/next" "$work/tls"
    choose_server
    if nginx -q -t -e stderr -c "$work/main.conf"; then return 0; fi
    echo "the certificate in the Secret cannot be used" >&2
    rm -rf "$work/tls"
    [ ! -d "$work/last" ] || mv "$work/last" "$work/tls"
    choose_server
    return 1
}

# Without a certificate the page is served in the clear: better than not at all.
choose_server() {
    rm -f "$work/server.conf"
    if [ -d "$work/tls" ]; then cp "$work/tls.conf" "$work/server.conf"; else cp "$work/plain.conf" "$work/server.conf"; fi
}

watch_certificate() {
    while sleep 5; do
        # An NGINX that is gone right now reads it when it starts again; the watch must not end with it.
        if take_certificate; then kill -HUP "$(cat /tmp/nginx.pid)" || true; fi
    done
}

choose_server
if [ -d "$secret" ]; then
    take_certificate || true
    watch_certificate &
fi

start() {
    nginx -e stderr -c "$work/main.conf" -g 'daemon off;' &
    nginx=$!
}

workers() {
    for process in /proc/[0-9]*; do
        if [ "$(cat "$process/comm" 2>/dev/null)" = nginx ]; then echo "${process#/proc/}"; fi
    done
}

stopping=
stop() {
    stopping=yes
    # SIGTERM would cut every request; SIGQUIT lets them end.
    kill -QUIT "$nginx" || true
    { sleep "$last_requests" && kill -TERM "$nginx"; } 2>/dev/null &
}

start
trap stop TERM QUIT
while :; do
    status=0
    wait "$nginx" || status=$?
    # A signal to this script ends the waiting, too.
    if kill -0 "$nginx" 2>/dev/null; then continue; fi
    if [ -n "$stopping" ] || [ "$status" -le 128 ]; then exit "$status"; fi
    echo "NGINX was killed; it starts again" >&2
    # Its workers live on and serve: a new one listens beside them (reuseport) before they let go.
    left=$(workers)
    start
    # NGINX writes this when it listens.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        if [ "$(cat /tmp/nginx.pid)" = "$nginx" ]; then break; fi
        sleep 0.1
    done
    for worker in $left; do kill -QUIT "$worker" 2>/dev/null || true; done
done
