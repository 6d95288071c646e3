//! TCP listeners that come and go with what is wanted, each for somebody.

use crate::holder;
use crate::model::Protocol;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

/// So many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// The open listeners. Dropping it closes them.
#[derive(Debug)]
pub struct Listeners<K> {
    open: BTreeMap<(K, SocketAddr), JoinSet<()>>,
    /// Why a listener could not be opened, as last reported.
    said: BTreeMap<(K, SocketAddr), String>,
}

impl<K: Ord + Clone> Listeners<K> {
    /// None.
    pub fn new() -> Listeners<K> {
        Listeners { open: BTreeMap::new(), said: BTreeMap::new() }
    }

    /// Closes those that are no longer wanted and opens those that are not open. `serve` gives an open one its work, which ends with it;
    /// `failed` is told why one cannot be opened, once for each reason, with the holder of the port. False when one could not be opened: call
    /// again after a while.
    pub fn follow(
        &mut self,
        wanted: Vec<(K, SocketAddr)>,
        serve: impl Fn(TcpListener, &K, SocketAddr) -> JoinSet<()>,
        mut failed: impl FnMut(&K, SocketAddr, &str),
    ) -> bool {
        self.open.retain(|listener, _| wanted.contains(listener));
        self.said.retain(|listener, _| wanted.contains(listener));
        let mut complete = true;
        for listener in wanted {
            if self.open.contains_key(&listener) {
                continue;
            }
            let (key, address) = &listener;
            match bind(*address) {
                Ok(socket) => {
                    let task = serve(socket, key, *address);
                    self.said.remove(&listener);
                    self.open.insert(listener, task);
                }
                Err(error) => {
                    complete = false;
                    let holder =
                        holder::of(Protocol::Tcp, *address).map(|holder| format!(", held by {holder}")).unwrap_or_default();
                    let why = format!("{error}{holder}");
                    if self.said.get(&listener) != Some(&why) {
                        failed(key, *address, &why);
                        self.said.insert(listener, why);
                    }
                }
            }
        }
        complete
    }
}

/// Two agents on one node share an address, as while one takes over from the other. Nobody else can: both sockets must allow it.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl<K: Ord + Clone> Default for Listeners<K> {
    fn default() -> Listeners<K> {
        Listeners::new()
    }
}
