//! On which addresses NodePorts answer.

use crate::config::NodePortAddresses;
use crate::model::Node;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The addresses on which NodePorts answer: those of the Node object, or the local ones in the configured networks. Loopback never does,
/// as in kube-proxy's nftables mode, nor do the DNS addresses that the agent itself has put on `lo`.
pub fn nodeport_addresses(wanted: &NodePortAddresses, node: Option<&Node>, dns: &[IpAddr]) -> Vec<IpAddr> {
    match wanted {
        NodePortAddresses::Primary => node.map(|node| node.addresses.clone()).unwrap_or_default(),
        NodePortAddresses::Networks(networks) => {
            local_addresses(dns).into_iter().filter(|address| crate::config::in_networks(*address, networks)).collect()
        }
    }
}

/// The addresses of this host's interfaces without loopback and our own, sorted; none when the kernel does not tell.
fn local_addresses(dns: &[IpAddr]) -> Vec<IpAddr> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::error!(%error, "cannot read the addresses of this node; NodePorts in networks do not answer");
            return Vec::new();
        }
    };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let address = v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))?;
        let ours = interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) && dns.contains(&address);
        (!ours).then_some(address)
    });
    addresses.filter(|address| !address.is_loopback()).collect::<BTreeSet<_>>().into_iter().collect()
}
