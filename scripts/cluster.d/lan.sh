# shellcheck shell=bash disable=SC2154
# The network that joins the nodes, and the control plane, which lives on its first address.

in_lan() { ip netns exec "$lan" "$@"; }

start_lan() {
    ip netns add "$lan"
    touch "$state/lan"
    in_lan ip link set lo up
    in_lan ip link add lan type bridge
    in_lan ip address add "$host_address/24" dev lan
    in_lan ip address add "$host_address6/64" dev lan nodad
    in_lan ip link set lan up
    in_lan sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    # The site's own name server, to which names outside the cluster are forwarded.
    cat >"$state/outside.Corefile" <<END
. {
    bind $host_address $host_address6
    template IN A example.org { 
        answer "{{ .Name }} 60 IN A 203.0.113.80"
    }
    template IN AAAA example.org {
        answer "{{ .Name }} 60 IN AAAA 2001:db8:113::80"
    }
    template ANY ANY {
        rcode NXDOMAIN
    }
}
END
    start_process outside-dns coredns -conf "$state/outside.Corefile"
}

stop_lan() {
    ip netns pids "$lan" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    ip netns del "$lan" 2>/dev/null || true
    # The relay of the API server is the only process outside of all namespaces.
    end_process relay || true
}

# start_process NAME COMMAND…: in the network of the control plane, logged, its process id kept.
start_process() {
    local process=$1
    shift
    setsid ip netns exec "$lan" "$@" </dev/null >>"$state/logs/$process.log" 2>&1 &
    remember "$process" $!
}

start_control_plane() {
    control-plane pki "$state/pki"
    {
        echo "admin,admin,admin,system:masters"
        echo "controllers,system:kube-controller-manager,controllers"
        echo "scheduler,system:kube-scheduler,scheduler"
        for number in 1 2 3 4 5 6; do echo "node$number,system:node:node$number,node$number,system:nodes"; done
    } >"$state/pki/tokens.csv"
    start_process etcd control-plane etcd --data-dir "$state/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
    start_api_server
    for user in admin controllers scheduler; do
        kubeconfig "$user" >"$state/pki/$user.kubeconfig"
    done
    await_api_server
    start_controllers
    start_relay
}

start_controllers() {
    # Rights of the controllers come with their own service accounts, as in kubeadm's clusters.
    start_process controller-manager kube-controller-manager --kubeconfig "$state/pki/controllers.kubeconfig" --leader-elect=false \
        --use-service-account-credentials --service-account-private-key-file "$state/pki/service-accounts.key" \
        --root-ca-file "$state/pki/apiserver.crt" --node-monitor-grace-period=20s --authentication-skip-lookup
    start_process scheduler kube-scheduler --kubeconfig "$state/pki/scheduler.kubeconfig" --leader-elect=false --authentication-skip-lookup
}

start_api_server() {
    start_process apiserver control-plane apiserver --etcd-servers=http://127.0.0.1:2379 \
        --secure-port="$api_port" --advertise-address="$host_address" --service-cluster-ip-range="$service_cidrs" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged \
        --token-auth-file="$state/pki/tokens.csv" --cert-dir="$state/pki" \
        --client-ca-file="$state/pki/ca.crt" \
        --kubelet-client-certificate="$state/pki/kubelet-client.crt" --kubelet-client-key="$state/pki/kubelet-client.key" \
        --kubelet-preferred-address-types=InternalIP \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-signing-key-file="$state/pki/service-accounts.key" --service-account-key-file="$state/pki/service-accounts.key"
}

await_api_server() {
    local tries=0
    until in_lan kubectl --kubeconfig "$state/pki/admin.kubeconfig" get --raw /readyz >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 600 ]; then
            tail -20 "$state/logs/apiserver.log" >&2
            die "the API server is not ready after a minute"
        fi
        sleep 0.1
    done
}

# The machine's own network has no way into the cluster's, so a small process listens here and connects there.
start_relay() {
    rm -f "$state/run/relay.port"
    setsid control-plane relay -port-file "$state/run/relay.port" -netns "/run/netns/$lan" -target "$host_address:$api_port" \
        </dev/null >>"$state/logs/relay.log" 2>&1 &
    remember relay $!
    until [ -s "$state/run/relay.port" ]; do
        runs relay || die "the relay has ended: $(tail -1 "$state/logs/relay.log")"
        sleep 0.02
    done
    kubeconfig admin "https://127.0.0.1:$(cat "$state/run/relay.port")" >"$state/kubeconfig"
}

kubeconfig() {
    cat <<END
apiVersion: v1
kind: Config
current-context: $name
clusters:
- name: $name
  cluster: {server: "${2:-$api_server}", tls-server-name: kubernetes.default.svc, certificate-authority: $state/pki/apiserver.crt}
users:
- name: $1
  user: {token: $1}
contexts:
- name: $name
  context: {cluster: $name, user: $1}
END
}

kube() { in_lan kubectl --kubeconfig "$state/pki/admin.kubeconfig" "$@"; }
