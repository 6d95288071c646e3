//! TCP listeners that come and go with what is wanted, each for somebody.

use crate::handover::Sockets;
use crate::holder;
use crate::model::Protocol;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The open listeners. Dropping it closes them.
#[derive(Debug)]
pub struct Listeners<K> {
    open: BTreeMap<(K, SocketAddr), JoinSet<()>>,
    /// Why a listener could not be opened, as last reported.
    said: BTreeMap<(K, SocketAddr), String>,
    sockets: Sockets,
}

impl<K: Ord + Clone> Listeners<K> {
    /// None yet. They will be among these sockets.
    pub fn among(sockets: Sockets) -> Listeners<K> {
        Listeners { open: BTreeMap::new(), said: BTreeMap::new(), sockets }
    }

    /// How long to wait before one that could not be opened is tried again.
    pub fn pause(&self, usual: Duration) -> Duration {
        self.sockets.pause(usual)
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
        self.open.retain(|listener, _| {
            let stays = wanted.contains(listener);
            if !stays {
                self.sockets.close("tcp", listener.1);
            }
            stays
        });
        self.said.retain(|listener, _| wanted.contains(listener));
        let mut complete = true;
        for listener in wanted {
            if self.open.contains_key(&listener) {
                continue;
            }
            let (key, address) = &listener;
            match self.sockets.tcp(*address).and_then(TcpListener::from_std) {
                Ok(socket) => {
                    let task = serve(socket, key, *address);
                    self.said.remove(&listener);
                    self.open.insert(listener, task);
                }
                Err(_) if self.sockets.is_patient() => complete = false,
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
