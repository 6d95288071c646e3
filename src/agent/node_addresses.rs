//! On which addresses NodePorts answer, and the notice of their changes.

use crate::config::{NodePortAddresses, in_networks};
use crate::model::Node;
use futures::StreamExt;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// When the kernel's notices stop, they are asked for again after this long.
const PAUSE: Duration = Duration::from_secs(5);

/// The addresses on which NodePorts answer: those of the Node object, and the local ones in the configured networks. Loopback never does in
/// the kernel's tables, as in kube-proxy's nftables mode, nor do the DNS addresses that the agent itself has put on `lo`.
pub fn nodeport_addresses(wanted: &NodePortAddresses, node: Option<&Node>, dns: &[IpAddr]) -> Vec<IpAddr> {
    let primary = node.filter(|_| wanted.primary).map(|node| node.addresses.clone()).unwrap_or_default();
    if wanted.networks.is_empty() {
        return primary;
    }
    let local = local_addresses(dns).into_iter().filter(|address| in_networks(*address, &wanted.networks));
    let both: BTreeSet<IpAddr> = local.chain(primary).collect();
    both.into_iter().collect()
}

/// The addresses of this host's interfaces.
pub fn own_addresses() -> Vec<IpAddr> {
    local_addresses(&[])
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

/// Marks `changed` whenever an address of this host comes or goes. What has changed is for the receivers to look at: a notice may be lost, a
/// look is always right. Never ends by itself.
pub async fn watch_addresses(changed: watch::Sender<()>) {
    loop {
        match new_multicast_connection(&[MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr]) {
            Ok((connection, _, mut messages)) => {
                let listen = async {
                    // Something may have changed before we listened.
                    changed.send_replace(());
                    while messages.next().await.is_some() {
                        changed.send_replace(());
                    }
                };
                tokio::select! {
                    () = connection => {}
                    () = listen => {}
                }
                tracing::warn!("the kernel's notices of changed addresses stopped; listening again");
            }
            Err(error) => tracing::warn!(%error, "cannot listen for changed addresses; they are looked at every 30 seconds"),
        }
        sleep(PAUSE).await;
    }
}
