//! The addresses on which this node answers DNS for its pods, made local on `lo`.
//!
//! They stay when the agent ends: while it is away the table's ordinary entries rewrite questions before they are routed, so that a local
//! address does no harm. `waypost cleanup` takes them away.

use crate::config::{Config, Role};
use crate::notices::{DNS_ADDRESS_REPAIRED, Notices, Subject};
use futures::TryStreamExt;
use nix::errno::Errno;
use prometheus::IntCounter;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use rtnetlink::{Handle, new_connection};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// Marks our addresses (`IFA_PROTO`, Linux 5.18): the letter W.
const OURS: AddressProtocol = AddressProtocol::Other(87);
/// The same for older kernels, which do not know that mark: a metric that nobody else gives ("wayp").
const OUR_METRIC: u32 = 0x7761_7970;

/// Where pods ask.
pub(super) const DNS_PORT: u16 = 53;

/// A new address is usable after a few milliseconds; it is given a second.
const ATTEMPTS: usize = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// How often to look for the addresses without any notice.
const LOOK: Duration = Duration::from_secs(30);

/// Why the addresses cannot be made local or removed.
#[derive(Debug, thiserror::Error)]
pub enum LocalDnsError {
    /// No netlink socket.
    #[error("cannot open a netlink socket for addresses: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("cannot {action} the address {address} on lo: {error}; it needs CAP_NET_ADMIN")]
    Address {
        /// What was tried.
        action: &'static str,
        /// The address.
        address: IpAddr,
        /// What the kernel said.
        #[source]
        error: rtnetlink::Error,
    },
    /// The addresses cannot be listed.
    #[error("cannot list the addresses of this host: {0}")]
    List(#[source] rtnetlink::Error),
}

/// The addresses that this node is to answer DNS on: none in the roles that do only one half, and none of loopback, which pods cannot reach.
/// Nor those on another port than DNS's: pods ask port 53, and to keep their questions here when nobody listens there would lose them.
pub fn addresses(config: &Config) -> Vec<IpAddr> {
    if config.role != Role::All {
        return Vec::new();
    }
    let addresses = config.dns.addresses.iter().filter(|address| address.port() == DNS_PORT).map(|address| address.ip());
    addresses.filter(|address| !address.is_loopback() && !address.is_unspecified()).collect()
}

/// Makes the addresses local, those that are not yet, and says which.
///
/// # Errors
/// When the kernel refuses one.
pub async fn make_local(wanted: &[IpAddr]) -> Result<Vec<IpAddr>, LocalDnsError> {
    let handle = connect()?;
    let mut made = Vec::new();
    let present: Vec<IpAddr> = list(&handle).await?.iter().filter_map(address_of).collect();
    for address in wanted.iter().copied().filter(|address| !present.contains(address)) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let loopback = nix::net::if_::if_nametoindex("lo").map_err(|errno| LocalDnsError::Open(errno.into()))?;
        let mut request = handle.address().add(loopback, address, length);
        let message = request.message_mut();
        message.attributes.push(AddressAttribute::Protocol(OURS));
        message.attributes.push(AddressAttribute::RoutePriority(OUR_METRIC));
        never_a_source(message, address);
        match request.execute().await {
            // Another agent was faster: two may start at once.
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -(Errno::EEXIST as i32) => continue,
            outcome => outcome.map_err(|error| LocalDnsError::Address { action: "add", address, error })?,
        }
        until_usable(address).await;
        tracing::info!(%address, "made a DNS address local on lo");
        made.push(address);
    }
    Ok(made)
}

/// Makes the addresses local again when somebody removes one, as `changed` tells and by a look of its own every 30 seconds. Never ends by itself.
pub async fn keep_local(wanted: Vec<IpAddr>, mut changed: watch::Receiver<()>, notices: Notices, repairs: IntCounter) {
    let mut said = String::new();
    loop {
        match make_local(&wanted).await {
            Ok(made) => {
                said.clear();
                for address in made {
                    repairs.inc();
                    let note = format!("the DNS address {address} was removed from lo by another program, and is there again");
                    notices.tell(&DNS_ADDRESS_REPAIRED, Subject::Node, note);
                }
            }
            Err(error) if error.to_string() != said => {
                tracing::error!(%error, "a DNS address that was removed is tried again");
                said = error.to_string();
            }
            Err(_) => {}
        }
        tokio::select! {
            Ok(()) = changed.changed() => {}
            () = sleep(LOOK) => {}
        }
    }
}

/// Keeps the kernel from choosing the address as the source of connections to elsewhere, masqueraded ones included: IPv4 by its scope, IPv6
/// by being deprecated from the start.
fn never_a_source(message: &mut AddressMessage, address: IpAddr) {
    if address.is_ipv4() {
        message.header.scope = AddressScope::Host;
    } else {
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_preferred = 0;
        lifetime.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
}

/// The kernel makes an IPv6 address usable a moment after it has accepted it. One that never becomes usable shows when DNS is bound to it.
async fn until_usable(address: IpAddr) {
    for _ in 0..ATTEMPTS {
        if UdpSocket::bind((address, 0)).is_ok() {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Removes the addresses that [`make_local`] added, and says which.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove() -> Result<Vec<IpAddr>, LocalDnsError> {
    let handle = connect()?;
    let mut removed = Vec::new();
    for message in list(&handle).await? {
        if let Some(address) = address_of(&message).filter(|_| is_ours(&message)) {
            let request = handle.address().del(message);
            request.execute().await.map_err(|error| LocalDnsError::Address { action: "remove", address, error })?;
            removed.push(address);
        }
    }
    Ok(removed)
}

fn is_ours(message: &AddressMessage) -> bool {
    let marks = [AddressAttribute::Protocol(OURS), AddressAttribute::RoutePriority(OUR_METRIC)];
    marks.iter().any(|mark| message.attributes.contains(mark))
}

fn connect() -> Result<Handle, LocalDnsError> {
    let (connection, handle, _) = new_connection().map_err(LocalDnsError::Open)?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn list(handle: &Handle) -> Result<Vec<AddressMessage>, LocalDnsError> {
    handle.address().get().execute().try_collect().await.map_err(LocalDnsError::List)
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    let local = of(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    // IPv6 knows no difference between the local address and the far end's.
    let plain = of(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    local.or(plain.filter(|_| message.header.family == AddressFamily::Inet6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunArgs, Surroundings, load};

    #[test]
    fn only_addresses_that_pods_ask_are_made_local() {
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        let flags = [("dns-address", "10.96.0.10,127.0.0.1,10.96.0.10:5353,169.254.20.10:5353,fd00::a")];
        let (config, _) = load(&RunArgs::of(&flags), &surroundings).unwrap();
        let expected: [IpAddr; 2] = ["10.96.0.10".parse().unwrap(), "fd00::a".parse().unwrap()];
        assert_eq!(addresses(&config), expected);
    }
}
