//! What the tables' rules depend on: the configuration, and what the Node object says of its pods.

use crate::config::{DetectLocalMode, ProxyConfig};
use crate::model::{Family, Node};
use crate::nft::Layout;
use crate::proxy::DetectLocal;
use ipnet::IpNet;

/// The layout of a family's table.
pub fn layout(proxy: &ProxyConfig, node: Option<&Node>, family: Family) -> Layout {
    let detect_local = match &proxy.detect_local {
        // A family without a network of pods has none to tell from others (as in kube-proxy).
        DetectLocalMode::ClusterCidr | DetectLocalMode::NodeCidr => {
            let known = pod_networks(proxy, node).iter().any(|network| Family::of(network.addr()) == family);
            if known { DetectLocal::Networks } else { DetectLocal::Nothing }
        }
        DetectLocalMode::BridgeInterface(name) => DetectLocal::Interface(name.clone()),
        DetectLocalMode::InterfaceNamePrefix(prefix) => DetectLocal::InterfacePrefix(prefix.clone()),
    };
    Layout {
        family,
        masquerade_mark: 1 << proxy.masquerade_bit,
        masquerade_all: proxy.masquerade_all,
        tracked_dns: proxy.tracked_dns,
        detect_local,
    }
}

/// The networks that pods are known by.
pub fn pod_networks<'a>(proxy: &'a ProxyConfig, node: Option<&'a Node>) -> &'a [IpNet] {
    match proxy.detect_local {
        DetectLocalMode::ClusterCidr => &proxy.cluster_cidrs,
        DetectLocalMode::NodeCidr => node.map(|node| &*node.pod_cidrs).unwrap_or_default(),
        DetectLocalMode::BridgeInterface(_) | DetectLocalMode::InterfaceNamePrefix(_) => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunArgs, Surroundings, load};

    fn proxy(flags: &[(&str, &str)]) -> ProxyConfig {
        let surroundings = Surroundings { host_name: Some("node-1".into()), ..Surroundings::default() };
        load(&RunArgs::of(flags), &surroundings).unwrap().0.proxy
    }

    fn detected(flags: &[(&str, &str)], pod_cidrs: &[&str]) -> [DetectLocal; 2] {
        let networks = pod_cidrs.iter().map(|text| text.parse().unwrap()).collect();
        let node = Node { pod_cidrs: networks, ..Node::default() };
        Family::BOTH.map(|family| layout(&proxy(flags), Some(&node), family).detect_local)
    }

    #[test]
    fn a_family_without_a_network_of_pods_has_none_to_tell_from_others() {
        use DetectLocal::{Networks, Nothing};
        let of_node = ("detect-local-mode", "NodeCIDR");
        assert_eq!(detected(&[], &["10.244.1.0/24"]), [Nothing, Nothing]);
        assert_eq!(detected(&[("cluster-cidr", "fd00::/48")], &["10.244.1.0/24"]), [Nothing, Networks]);
        assert_eq!(detected(&[of_node, ("cluster-cidr", "fd00::/48")], &["10.244.1.0/24"]), [Networks, Nothing]);
        assert_eq!(detected(&[of_node], &[]), [Nothing, Nothing]);
    }

    #[test]
    fn interfaces_are_known_in_both_families() {
        let bridge = detected(&[("detect-local-mode", "BridgeInterface"), ("pod-bridge-interface", "cni0")], &[]);
        assert_eq!(bridge, ["cni0", "cni0"].map(|name| DetectLocal::Interface(name.into())));
    }
}
