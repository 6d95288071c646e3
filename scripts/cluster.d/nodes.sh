# shellcheck shell=bash disable=SC2154
# Nodes: each has namespaces of its own for processes, mounts, host name and network, and its disk below the cluster's folder.

node_address() { echo "$node_network.$((10 + $1))"; }
node_address6() { echo "$node_network6:$((10 + $1))"; }

# start_node N: as after power on. The disk is what it was; processes, network and /run are new.
start_node() {
    local number=$1 folder=$state/nodes/node$1
    if runs "node$number"; then die "node$number is running already"; fi
    mkdir -p "$folder"/{var-lib,pod-logs,config}
    node_config "$number" >"$folder/config/kubelet.yaml"
    containerd_config >"$folder/config/containerd.toml"
    cni_config "$number" >"$folder/config/10-pods.conflist"
    kubeconfig "node$number" >"$folder/config/kubeconfig"
    printf 'nameserver %s\nnameserver %s\n' "$host_address" "$host_address6" >"$folder/config/resolv.conf"
    printf '127.0.0.1 localhost\n::1 localhost\n%s node%s\n' "$(node_address "$number")" "$number" >"$folder/config/hosts"
    make_cgroups "$number"
    kube apply --server-side -f - >/dev/null <<END
apiVersion: v1
kind: Node
metadata:
  name: node$number
  labels: {kubernetes.io/os: linux, kubernetes.io/hostname: node$number, topology.kubernetes.io/zone: zone-$((1 + (number - 1) % 2))}
spec: {podCIDR: 10.244.$number.0/24, podCIDRs: [10.244.$number.0/24, "fd00:244:0:$number::/64"]}
END

    rm -f "$folder/go"
    mkfifo "$folder/go"
    # Worked out here: in the background they would be children of their own, to be taken for the node's first process.
    local addresses
    addresses=$(node_address "$number"),$(node_address6 "$number")
    setsid unshare --fork --kill-child --pid --mount --uts --net \
        scripts/cluster.d/node "$number" "$folder" "/waypost-cluster/$name-node$number" "$addresses" \
        </dev/null >>"$state/logs/node$number.log" 2>&1 &
    local unshare=$! init="" tries=0
    until init=$(pgrep --parent "$unshare"); do
        tries=$((tries + 1))
        if [ $tries -gt 1000 ] || ! kill -0 "$unshare" 2>/dev/null; then
            die "node$number does not start: $(tail -1 "$state/logs/node$number.log")"
        fi
        sleep 0.01
    done
    remember "node$number" "$init"
    join_lan "$number" "$init"
    echo go >"$folder/go"
}

join_lan() {
    local number=$1 init=$2 other
    in_lan ip link add "node$number" type veth peer name eth0 netns "$init"
    in_lan ip link set "node$number" master lan up
    nsenter --target "$init" --net bash -e <<END
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip address add $(node_address "$number")/24 dev eth0
ip address add $(node_address6 "$number")/64 dev eth0 nodad
ip link set eth0 up
ip route add default via $host_address
ip -6 route add default via $host_address6
END
    for other in 1 2 3 4 5 6; do
        [ "$other" = "$number" ] && continue
        nsenter --target "$init" --net ip route replace "10.244.$other.0/24" via "$(node_address "$other")"
        nsenter --target "$init" --net ip -6 route replace "fd00:244:0:$other::/64" via "$(node_address6 "$other")"
    done
    in_lan ip route replace "10.244.$number.0/24" via "$(node_address "$number")"
    in_lan ip -6 route replace "fd00:244:0:$number::/64" via "$(node_address6 "$number")"
}

# Ends every process of the node at once: the kernel does that when the first process of their namespace ends.
stop_node() {
    local number=$1
    end_process "node$number" || die "node$number is not running"
    remove_cgroups "$number"
    # A dead namespace's links may stay for half a minute, while the kernel still tries to end connections properly.
    in_lan ip link delete "node$number" 2>/dev/null || true
}

add_node() {
    local number
    for number in 1 2 3 4 5 6; do
        if ! runs "node$number"; then
            start_node "$number"
            await_nodes
            return
        fi
    done
    die "there are 6 nodes already"
}

on_node() {
    local number=$1 init
    shift
    init=$(process_of "node$number") || die "node$number is not running; start it with: ${again}scripts/cluster start-node $number"
    PATH=$PWD/target/static:$PATH nsenter --target "$init" --net --mount --uts --pid --wd="$PWD" "$@"
}

await_nodes() {
    local tries=0
    until kube get nodes --no-headers >"$state/run/nodes" 2>/dev/null && ! grep -qv ' Ready' "$state/run/nodes"; do
        tries=$((tries + 1))
        if [ $tries -gt 300 ]; then
            cat "$state/run/nodes" >&2
            die "the nodes are not Ready after a minute; see ${state#"$PWD/"}/logs"
        fi
        sleep 0.2
    done
}

node_config() {
    cat <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true, cacheTTL: 1s}
  x509: {clientCAFile: $state/pki/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /waypost-cluster/$name-node$1
clusterDNS: [$dns_address]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
resolvConf: /etc/resolv.conf
nodeStatusUpdateFrequency: 5s
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
serializeImagePulls: false
volumePluginDir: /var/lib/kubelet/volume-plugins
END
}

containerd_config() {
    cat <<'END'
version = 3
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing"]
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd-opt"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "/var/lib/cni-config"
END
}

cni_config() {
    cat <<END
{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true, "ipam": {
      "type": "host-local",
      "ranges": [[{"subnet": "10.244.$1.0/24"}], [{"subnet": "fd00:244:0:$1::/64"}]],
      "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
END
}
