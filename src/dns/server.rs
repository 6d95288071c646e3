//! The sockets: UDP and TCP on each address, from bind to a drained stop.
//!
//! Both have loops of their own (UDP in `receive.rs`, TCP in `tcp.rs`): they can be drained, and a socket can be left to another process in
//! the middle of everything.

use super::chain::Chain;
use super::guard::Guard;
use super::metrics::Metrics;
use super::pulse::Pulses;
use super::receive::{Port, Receivers};
use super::records::Records;
use super::respond::Responder;
use super::tcp;
use crate::config::GuardConfig;
use crate::handover::Sockets as Open;
use crate::holder;
use crate::model::Protocol;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

/// What the loops of the sockets are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Go on.
    Not,
    /// Another process reads these sockets from now on. Connections that are open go on.
    Leaves,
    /// Nobody reads them any more: answer what has arrived.
    Ends,
}

/// Forwarded questions end after five seconds; whatever is not done a little later never will be.
pub(super) const DRAIN: Duration = Duration::from_secs(6);
const PORT_ATTEMPTS: usize = 20;

/// Why DNS cannot be served on an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve DNS on {address} ({transport}): {cause}")]
pub struct DnsError {
    /// The address as it was configured.
    pub address: SocketAddr,
    /// `UDP` or `TCP`.
    pub transport: &'static str,
    /// What is in the way.
    pub cause: Cause,
}

/// What keeps a socket from being bound, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// Another socket has the address; with its process, as far as it can be seen.
    #[error("the address is in use by {0}; stop it, or choose other addresses with --dns-address")]
    InUse(String),
    /// The host does not have the address.
    #[error("this host has no such address; add it to an interface, or choose other addresses with --dns-address")]
    NotLocal,
    /// Ports below 1024 need a capability.
    #[error(
        "permission denied; ports below 1024 need the capability NET_BIND_SERVICE, or choose a higher port with --dns-address"
    )]
    Denied,
    /// Anything else.
    #[error("{0}")]
    Other(io::Error),
}

/// Bound sockets that do not answer yet.
#[derive(Debug)]
pub struct Sockets {
    pairs: Vec<(Vec<UdpSocket>, TcpListener)>,
    addresses: Vec<SocketAddr>,
    guard: GuardConfig,
}

/// Binds UDP and TCP on each address. Port 0 takes a free port, the same for both. All or nothing: the first failure releases
/// what was bound.
pub fn bind(addresses: &[SocketAddr]) -> Result<Sockets, DnsError> {
    bind_among(&Open::new(true), addresses)
}

/// The same, with the sockets that an earlier agent has left, and so that a later one can have them.
pub fn bind_among(open: &Open, addresses: &[SocketAddr]) -> Result<Sockets, DnsError> {
    let mut sockets = Sockets { pairs: Vec::new(), addresses: Vec::new(), guard: GuardConfig::default() };
    for address in addresses {
        match bind_pair(open, *address) {
            Ok((pair, bound)) => {
                sockets.pairs.push(pair);
                sockets.addresses.push(bound);
            }
            Err(error) => {
                for address in addresses {
                    open.close("udp", *address);
                    open.close("tcp", *address);
                }
                return Err(error);
            }
        }
    }
    Ok(sockets)
}

impl Sockets {
    /// The bound addresses, in the order in which they were given.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// With this guard in front of the answers; without a word everybody may ask.
    pub fn guarded(self, guard: &GuardConfig) -> Sockets {
        Sockets { guard: guard.clone(), ..self }
    }

    /// Starts to answer. Must be called inside a tokio runtime. No upstream server at one of these addresses will be asked, and they
    /// become the addresses of the zone's name server.
    pub fn serve(self, records: Arc<Records>, chain: Chain, metrics: Arc<Metrics>) -> Result<Serving, DnsError> {
        chain.served_on(&self.addresses, &metrics);
        records.set_name_server(&self.addresses.iter().map(SocketAddr::ip).collect::<Vec<_>>());
        let (stop, _) = watch::channel(Stop::Not);
        let pulses = Pulses::default();
        let guard = Arc::new(Guard::new(self.guard, metrics.clone()));
        let (mut ports, mut tcp) = (Vec::new(), Vec::new());
        for ((udp, listener), address) in self.pairs.into_iter().zip(&self.addresses) {
            let responder = Arc::new(Responder::new(records.clone(), chain.clone(), metrics.clone(), *address));
            let port = |socket| Port { socket: Arc::new(socket), responder: responder.clone(), guard: guard.clone() };
            ports.extend(udp.into_iter().map(port));
            let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| explain(*address, "TCP", error))?;
            tcp.push(tokio::spawn(tcp::serve(listener, responder, guard.clone(), stop.subscribe(), pulses.join())));
        }
        let first = self.addresses.first().copied().unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        let udp = Receivers::start(&ports, &stop, &pulses).map_err(|error| explain(first, "UDP", error))?;
        Ok(Serving { addresses: self.addresses, stop, pulses, udp, tcp })
    }
}

/// A running server. Dropping it stops answering at once; [`Serving::shutdown`] drains.
pub struct Serving {
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<Stop>,
    pulses: Pulses,
    udp: Receivers,
    tcp: Vec<JoinHandle<()>>,
}

impl Serving {
    /// The addresses on which questions are answered.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether the loops of the sockets come round.
    pub fn pulses(&self) -> Pulses {
        self.pulses.clone()
    }

    /// Leaves the sockets to another process that reads them as well: what has not been received is its affair. Answers under way are finished;
    /// connections that are open go on until [`Serving::shutdown`].
    pub async fn leave(&mut self) {
        self.tell(Stop::Leaves);
        self.udp_ended().await;
    }

    /// Stops listening after answering every question that has arrived; a few seconds at most.
    pub async fn shutdown(mut self) {
        self.tell(Stop::Ends);
        self.udp_ended().await;
        for mut one in self.tcp.drain(..) {
            if timeout(DRAIN, &mut one).await.is_err() {
                warn!("some DNS questions over TCP were still unanswered at the end");
                one.abort();
            }
        }
    }

    fn tell(&self, stop: Stop) {
        self.stop.send_replace(stop);
        self.udp.wake();
    }

    async fn udp_ended(&mut self) {
        if timeout(DRAIN, self.udp.ended()).await.is_err() {
            warn!("some DNS questions were still unanswered at the end");
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.tell(Stop::Leaves);
        self.tcp.iter().for_each(JoinHandle::abort);
    }
}

/// Waits until told to stop.
pub(super) async fn told(stop: &mut watch::Receiver<Stop>) -> Stop {
    stop.wait_for(|stop| *stop != Stop::Not).await.map_or(Stop::Ends, |told| *told)
}

fn bind_pair(open: &Open, address: SocketAddr) -> Result<((Vec<UdpSocket>, TcpListener), SocketAddr), DnsError> {
    let mut attempt = 0;
    loop {
        let tcp = open.tcp(address).map_err(|error| explain(address, "TCP", error))?;
        let bound = tcp.local_addr().map_err(|error| explain(address, "TCP", error))?;
        match open.udp(bound) {
            Ok(udp) => return Ok(((udp, tcp), bound)),
            // The free TCP port may be somebody's UDP port: take another.
            Err(_) if address.port() == 0 && attempt < PORT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(explain(bound, "UDP", error)),
        }
    }
}

fn explain(address: SocketAddr, transport: &'static str, error: io::Error) -> DnsError {
    let cause = match error.kind() {
        io::ErrorKind::AddrInUse => Cause::InUse(holder_of(address, transport)),
        io::ErrorKind::AddrNotAvailable => Cause::NotLocal,
        io::ErrorKind::PermissionDenied => Cause::Denied,
        _ => Cause::Other(error),
    };
    DnsError { address, transport, cause }
}

fn holder_of(address: SocketAddr, transport: &str) -> String {
    let protocol = if transport == "TCP" { Protocol::Tcp } else { Protocol::Udp };
    holder::of(protocol, address).map_or("another process".to_string(), |holder| holder.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_reported_with_its_holder() {
        let refused = || {
            let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = taken.local_addr().unwrap();
            (address, bind(&[address]).unwrap_err().to_string())
        };
        // Another test may have the port over TCP.
        let mut tries = std::iter::repeat_with(refused).take(100);
        let (address, error) = tries.find(|(_, error)| error.contains("(UDP)")).expect("some port is free over TCP");
        let process = format!("(pid {})", std::process::id());
        assert!(error.contains(&address.to_string()) && error.contains("UDP") && error.contains(&process), "{error}");
    }

    #[test]
    fn a_wildcard_socket_that_blocks_an_address_is_found_too() {
        let taken = TcpListener::bind("0.0.0.0:0").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], taken.local_addr().unwrap().port()));
        let error = bind(&[address]).unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())) && error.contains("TCP"), "{error}");
    }

    #[test]
    fn an_address_that_the_host_lacks_is_reported_as_such() {
        let error = bind(&["192.0.2.77:0".parse().unwrap()]).unwrap_err();
        assert!(matches!(error.cause, Cause::NotLocal), "{error}");
    }

    #[test]
    fn both_families_can_be_bound_at_once() {
        let sockets = bind(&["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()]).unwrap();
        assert!(sockets.local_addrs().iter().all(|address| address.port() != 0));
    }
}
