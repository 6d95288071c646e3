# shellcheck shell=bash disable=SC2154
# What makes services and names work: Waypost by its chart, or the stock kube-proxy and CoreDNS.

install_waypost() {
    echo "Installing Waypost …"
    in_lan helm --kubeconfig "$state/pki/admin.kubeconfig" upgrade --install waypost charts/waypost --namespace kube-system \
        --set k8sServiceHost="$host_address" --set "clusterCIDRs={$pod_cidrs}" --set "serviceCIDRs={$service_cidrs}" "$@" >/dev/null
    kube --namespace kube-system rollout status daemonset/waypost-agent --timeout=120s
    kube --namespace kube-system rollout status deployment/waypost-dns --timeout=120s
}

install_stock() {
    echo "Installing kube-proxy and CoreDNS …"
    stock_objects kube-proxy coredns | kube apply -f - >/dev/null
    kube --namespace kube-system rollout status daemonset/kube-proxy --timeout=120s
    kube --namespace kube-system rollout status deployment/coredns --timeout=120s
}

remove_stock() {
    stock_objects kube-proxy coredns | kube delete --ignore-not-found --wait -f - >/dev/null
}

# kube-proxy alone, beside whatever is there already.
install_kube_proxy() { stock_objects kube-proxy | kube apply -f - >/dev/null; }

remove_kube_proxy() { stock_objects kube-proxy | kube delete --ignore-not-found --wait -f - >/dev/null; }

# What behaves as NodeLocal DNSCache, on top of the stock parts, on all nodes but those named.
install_node_local_dns() {
    stock_objects node-local-dns | sed "s|NOT_ON|$(join_by , "$@")|" | kube apply -f - >/dev/null
    kube --namespace kube-system rollout status daemonset/node-local-dns --timeout=120s
}

remove_node_local_dns() {
    stock_objects node-local-dns | kube delete --ignore-not-found --wait -f - >/dev/null
    kube --namespace kube-system wait --for=delete pod --selector=k8s-app=node-local-dns --timeout=60s >/dev/null
}

join_by() {
    local IFS=$1
    shift
    echo "$*"
}

stock_objects() {
    local part
    for part in "$@"; do
        echo "---"
        sed "s|API_SERVER|$api_server|; s|POD_CIDRS|$pod_cidrs|; s|DNS_ADDRESS|$dns_address|" "scripts/cluster.d/$part.yaml"
    done
}
