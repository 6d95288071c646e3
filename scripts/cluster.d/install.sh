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
    stock_objects | kube apply -f - >/dev/null
    kube --namespace kube-system rollout status daemonset/kube-proxy --timeout=120s
    kube --namespace kube-system rollout status deployment/coredns --timeout=120s
}

remove_stock() {
    stock_objects | kube delete --ignore-not-found --wait -f - >/dev/null
}

stock_objects() {
    sed "s|API_SERVER|$api_server|; s|POD_CIDRS|$pod_cidrs|; s|DNS_ADDRESS|$dns_address|" scripts/cluster.d/stock.yaml
}
