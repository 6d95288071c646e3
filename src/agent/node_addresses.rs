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
use tokio::time::{Instant, sleep};

/// When the kernel's notices stop, they are asked for again after this long.
const PAUSE: Duration = Duration::from_secs(5);
/// After a look at the addresses that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The addresses on which NodePorts answer: those of the Node object, and the local ones in the configured networks. Loopback never does in
/// the kernel's tables, as in kube-proxy's nftables mode, nor do the DNS addresses that the agent itself has put on `lo`.
pub fn nodeport_addresses(wanted: &NodePortAddresses, node: Option<&Node>, local: &LocalAddresses) -> Vec<IpAddr> {
    let primary = node.filter(|_| wanted.primary).map(|node| node.addresses.clone()).unwrap_or_default();
    if wanted.networks.is_empty() {
        return primary;
    }
    let local = local.known.iter().copied().filter(|address| in_networks(*address, &wanted.networks));
    let both: BTreeSet<IpAddr> = local.chain(primary).collect();
    both.into_iter().collect()
}

/// The addresses of this host's interfaces without loopback and our own, as they were seen last.
#[derive(Debug, Default)]
pub struct LocalAddresses {
    known: Vec<IpAddr>,
    /// When to look again, because the last look failed.
    pub again: Option<Instant>,
}

impl LocalAddresses {
    /// Looks at the addresses, but for these of DNS.
    pub fn look(&mut self, dns: &[IpAddr]) {
        self.take(local_addresses(dns));
    }

    /// A look that failed says nothing of the addresses: taken for "none", it would withdraw NodePorts and health checks from all of them.
    fn take(&mut self, seen: nix::Result<Vec<IpAddr>>) {
        match seen {
            Ok(known) => (self.known, self.again) = (known, None),
            Err(error) => {
                if self.again.is_none() {
                    tracing::warn!(%error, "cannot read the addresses of this node; NodePorts stay where they are until that succeeds");
                }
                self.again = Some(Instant::now() + LOOK_AGAIN);
            }
        }
    }
}

/// The addresses of this host's interfaces; none when the kernel does not tell.
pub fn own_addresses() -> Vec<IpAddr> {
    local_addresses(&[]).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the addresses of this node");
        Vec::new()
    })
}

/// The addresses of this host's interfaces without loopback and our own, sorted.
fn local_addresses(dns: &[IpAddr]) -> nix::Result<Vec<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let address = v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))?;
        let ours = interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) && dns.contains(&address);
        (!ours).then_some(address)
    });
    Ok(addresses.filter(|address| !address.is_loopback()).collect::<BTreeSet<_>>().into_iter().collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn a_look_that_fails_changes_nothing_and_is_repeated_soon() {
        let wanted = NodePortAddresses { networks: vec!["198.18.0.0/16".parse().unwrap()], ..NodePortAddresses::primary() };
        let address: IpAddr = [198, 18, 0, 10].into();
        let mut local = LocalAddresses::default();
        local.take(Ok(vec![[192, 0, 2, 10].into(), address]));
        assert!(local.again.is_none());
        local.take(Err(Errno::ENOBUFS));
        assert!(local.again.is_some());
        assert_eq!(nodeport_addresses(&wanted, None, &local), [address]);
        local.take(Ok(vec![]));
        assert!(local.again.is_none() && nodeport_addresses(&wanted, None, &local).is_empty());
    }
}
