//! Every socket by which the agent serves, so that it can be handed on; and those that an earlier agent has left.

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The kernel closes the sockets of a process that was killed one after the other, a moment after it is seen to be gone.
const AFTER_A_DEATH: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_millis(50);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The sockets of this agent, by name: `udp 10.96.0.10:53`, `tcp 0.0.0.0:10256`. Clones are one.
///
/// Nobody may ask for one before they are [granted](Sockets::granted): until then another agent serves.
#[derive(Clone, Debug)]
pub struct Sockets(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    granted: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// Copies of those in use.
    open: BTreeMap<String, Vec<OwnedFd>>,
    /// Those of the agent before that nobody has asked for.
    inherited: BTreeMap<String, Vec<OwnedFd>>,
    /// The names of all that came from it, until it has ended.
    from_before: BTreeSet<String>,
    /// Until then an address in use may be that of an agent that has just died.
    patience: Option<Instant>,
}

impl Sockets {
    /// Sockets that must be granted first, or need not be.
    pub fn new(granted: bool) -> Sockets {
        Sockets(Arc::new(Shared { state: Mutex::default(), granted: watch::Sender::new(granted) }))
    }

    /// Waits until sockets may be opened.
    pub async fn granted(&self) {
        // The sender is part of this value.
        let _ = self.0.granted.subscribe().wait_for(|granted| *granted).await;
    }

    /// Whether sockets may be opened.
    pub fn is_granted(&self) -> bool {
        *self.0.granted.borrow()
    }

    /// From now on sockets may be opened, these instead of new ones.
    pub(crate) fn grant(&self, inherited: BTreeMap<String, Vec<OwnedFd>>) {
        let mut state = self.state();
        state.from_before = inherited.keys().cloned().collect();
        state.inherited = inherited;
        drop(state);
        self.0.granted.send_replace(true);
    }

    /// From now on sockets may be opened, whose addresses a dead process may hold for another moment.
    pub(crate) fn grant_after_a_death(&self) {
        self.state().patience = Some(Instant::now() + AFTER_A_DEATH);
        self.0.granted.send_replace(true);
    }

    /// How long to wait before an address that is in use is tried again: not long where it is about to become free.
    pub fn pause(&self, usual: Duration) -> Duration {
        if self.is_patient() { SOON.min(usual) } else { usual }
    }

    /// Whether an address in use is nothing to complain about yet.
    pub fn is_patient(&self) -> bool {
        self.state().patience.is_some_and(|until| Instant::now() < until)
    }

    /// A listening socket on this address: the earlier agent's, or a new one. It does not block.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn tcp(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let (name, mut state) = (name("tcp", address), self.state());
        let listener = match state.inherited.remove(&name).and_then(|mut sockets| sockets.pop()) {
            Some(socket) => socket.into(),
            None => state.listen(address)?,
        };
        listener.set_nonblocking(true)?;
        state.keep(name, &listener)?;
        Ok(listener)
    }

    /// One more handle of the listening socket on this address, which this agent has open: what waits in it to be accepted goes on waiting.
    ///
    /// # Errors
    /// When there is none, or no descriptor is left.
    pub fn another(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let state = self.state();
        let socket = state.open.get(&name("tcp", address)).and_then(|sockets| sockets.first());
        Ok(socket.ok_or(io::ErrorKind::NotConnected)?.try_clone()?.into())
    }

    /// UDP sockets on this address: all that the earlier agent had, or a new one. They do not block.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn udp(&self, address: SocketAddr) -> io::Result<Vec<UdpSocket>> {
        let (name, mut state) = (name("udp", address), self.state());
        let sockets: Vec<UdpSocket> = match state.inherited.remove(&name) {
            Some(sockets) => sockets.into_iter().map(UdpSocket::from).collect(),
            None => vec![UdpSocket::bind(address)?],
        };
        for socket in &sockets {
            socket.set_nonblocking(true)?;
            state.keep(name.clone(), socket)?;
        }
        Ok(sockets)
    }

    /// This address is not served any more: without this the copies kept here would go on listening. While the agent before still serves it, its
    /// sockets are kept for another try.
    pub fn close(&self, transport: &str, address: SocketAddr) {
        let (name, mut state) = (name(transport, address), self.state());
        let closed = state.open.remove(&name);
        if let Some(sockets) = closed.filter(|_| state.from_before.contains(&name)) {
            state.inherited.insert(name, sockets);
        }
    }

    /// Closes all copies: another agent has its own.
    pub(crate) fn close_all(&self) {
        self.state().open.clear();
    }

    /// Closes what the agent before had and this one has not asked for: addresses that are no longer configured.
    pub(crate) fn close_inherited(&self) {
        let mut state = self.state();
        (state.inherited, state.from_before) = Default::default();
    }

    /// Copies of all sockets, with their names.
    pub(crate) fn copies(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let state = self.state();
        let all = state.open.iter().flat_map(|(name, sockets)| sockets.iter().map(move |socket| (name, socket)));
        all.map(|(name, socket)| socket.try_clone().map(|copy| (name.clone(), copy))).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A new listener, beside those of the agent before: it may have the same port at other addresses that contain this one, or that this one contains.
    fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let port = format!(":{}", address.port());
        let before = self.inherited.iter().filter(|(name, _)| name.starts_with("tcp ") && name.ends_with(&port));
        let before: Vec<&OwnedFd> = before.flat_map(|(_, sockets)| sockets).collect();
        if before.is_empty() {
            return TcpListener::bind(address);
        }
        let share = |yes| before.iter().try_for_each(|socket| sockopt::set_socket_reuseport(socket, yes));
        share(true)?;
        let listener = listen_sharing(address);
        // Whoever comes later, and does not ask for sharing himself, finds the port taken as ever.
        share(false)?;
        listener
    }

    fn keep(&mut self, name: String, socket: &impl AsFd) -> io::Result<()> {
        let copy = socket.as_fd().try_clone_to_owned()?;
        self.open.entry(name).or_default().push(copy);
        Ok(())
    }
}

/// On a port that others share by their leave, for the moment in which it is bound.
fn listen_sharing(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    sockopt::set_socket_reuseport(&socket, false)?;
    Ok(socket.into())
}

fn name(transport: impl Display, address: SocketAddr) -> String {
    format!("{transport} {address}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[tokio::test]
    async fn what_one_agent_has_open_the_next_one_gets_instead_of_an_error() {
        let old = Sockets::new(true);
        let listener = old.tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let datagrams = old.udp(address).unwrap().remove(0);
        old.close("tcp", "127.0.0.1:0".parse().unwrap());
        old.state().keep(name("tcp", address), &listener).unwrap();
        let new = Sockets::new(false);
        assert!(!new.is_granted() && new.tcp(address).is_err(), "it is the old one's");
        let mut inherited: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        for (name, socket) in old.copies().unwrap() {
            inherited.entry(name).or_default().push(socket);
        }
        new.grant(inherited);
        new.granted().await;
        let (taken, taken_datagrams) = (new.tcp(address).unwrap(), new.udp(address).unwrap().remove(0));
        // What arrived before the old one closed is not lost.
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"question", address).unwrap();
        let connected = TcpStream::connect(address).unwrap();
        drop((listener, datagrams));
        old.close_all();
        taken.set_nonblocking(false).unwrap();
        assert_eq!(taken.accept().unwrap().1, connected.local_addr().unwrap());
        taken_datagrams.set_nonblocking(false).unwrap();
        assert_eq!(taken_datagrams.recv_from(&mut [0; 16]).unwrap().0, 8);
        new.close_all();
        drop((taken, taken_datagrams));
        assert!(Sockets::new(true).tcp(address).is_ok(), "everybody has closed it");
    }

    #[test]
    fn a_port_of_the_agent_before_can_be_had_at_other_addresses_and_nobody_elses() {
        for [before, after] in [["127.0.0.1", "0.0.0.0"], ["0.0.0.0", "127.0.0.1"]] {
            let old = TcpListener::bind((before, 0)).unwrap();
            let port = old.local_addr().unwrap().port();
            let wanted: SocketAddr = format!("{after}:{port}").parse().unwrap();
            let new = Sockets::new(false);
            assert!(new.tcp(wanted).is_err(), "a stranger's");
            let inherited = vec![old.as_fd().try_clone_to_owned().unwrap()];
            new.grant([(name("tcp", old.local_addr().unwrap()), inherited)].into());
            let listener = new.tcp(wanted).unwrap();
            assert!(TcpListener::bind(wanted).is_err(), "the port is this agent's alone");
            new.close_inherited();
            drop(old);
            let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            listener.set_nonblocking(false).unwrap();
            assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
        }
    }

    #[test]
    fn a_death_makes_patient_for_a_while() {
        let sockets = Sockets::new(false);
        assert_eq!(sockets.pause(Duration::from_secs(5)), Duration::from_secs(5));
        sockets.grant_after_a_death();
        assert!(sockets.is_granted() && sockets.is_patient());
        assert_eq!(sockets.pause(Duration::from_secs(5)), SOON);
    }
}
