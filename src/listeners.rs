//! TCP listeners that come and go with what is wanted, each for somebody.

use crate::handover::Sockets;
use crate::holder;
use crate::model::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The open listeners. Dropping it closes them.
#[derive(Debug)]
pub struct Listeners<K> {
    /// For whom each is open, and the work.
    open: BTreeMap<SocketAddr, (K, JoinSet<()>)>,
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

    /// Closes those that are no longer wanted and opens those that are not open. One that is wanted for somebody else now stays open and gets other
    /// work, so that nobody is refused in between; of two that want an address the first gets it. `serve` gives an open one its work, which ends
    /// with it; `failed` is told why one cannot be opened, once for each reason, with the holder of the port. False when one could not be
    /// opened: call again after a while.
    pub async fn follow(
        &mut self,
        wanted: Vec<(K, SocketAddr)>,
        serve: impl Fn(TcpListener, &K, SocketAddr) -> JoinSet<()>,
        mut failed: impl FnMut(&K, SocketAddr, &str),
    ) -> bool {
        let addresses: BTreeSet<SocketAddr> = wanted.iter().map(|(_, address)| *address).collect();
        let gone: Vec<SocketAddr> = self.open.keys().filter(|address| !addresses.contains(address)).copied().collect();
        for address in gone {
            self.end_work(address).await;
            self.sockets.close("tcp", address);
        }
        self.said.retain(|listener, _| wanted.contains(listener));
        let mut complete = true;
        let mut served = BTreeSet::new();
        for (key, address) in wanted {
            if !served.insert(address) {
                self.complain(&key, address, "another Service of this node has the port".into(), &mut failed);
                continue;
            }
            let is_open = match self.open.get(&address) {
                Some((owner, _)) if *owner == key => continue,
                other => other.is_some(),
            };
            let socket = if is_open { self.sockets.another(address) } else { self.sockets.tcp(address) };
            let listener = socket.and_then(|socket| {
                let listener = TcpListener::from_std(socket);
                if listener.is_err() && !is_open {
                    // The copy that was kept would be in the way of the next try.
                    self.sockets.close("tcp", address);
                }
                listener
            });
            match listener {
                Ok(socket) => {
                    // Not before there is a handle for the work to come: what is open would be lost.
                    self.end_work(address).await;
                    let task = serve(socket, &key, address);
                    self.said.remove(&(key.clone(), address));
                    self.open.insert(address, (key, task));
                }
                Err(_) if self.sockets.is_patient() => complete = false,
                Err(error) => {
                    complete = false;
                    let holder =
                        holder::of(Protocol::Tcp, address).map(|holder| format!(", held by {holder}")).unwrap_or_default();
                    self.complain(&key, address, format!("{error}{holder}"), &mut failed);
                }
            }
        }
        complete
    }

    /// Once this is over, the work has let go of the socket.
    async fn end_work(&mut self, address: SocketAddr) {
        if let Some((_, mut task)) = self.open.remove(&address) {
            task.shutdown().await;
        }
    }

    fn complain(&mut self, key: &K, address: SocketAddr, why: String, failed: &mut impl FnMut(&K, SocketAddr, &str)) {
        let listener = (key.clone(), address);
        if self.said.get(&listener) != Some(&why) {
            failed(key, address, &why);
            self.said.insert(listener, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    fn greet(socket: TcpListener, _: &&str, _: SocketAddr) -> JoinSet<()> {
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok((client, _)) = socket.accept().await {
                drop(client);
            }
        });
        task
    }

    #[tokio::test]
    async fn a_listener_that_cannot_get_other_work_yet_keeps_its_own() {
        let sockets = Sockets::new(true);
        let mut open = Listeners::among(sockets.clone());
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(open.follow(vec![("one", address)], greet, |_, _, why| panic!("{why}")).await);
        sockets.close_all();
        let mut said = 0;
        assert!(!open.follow(vec![("two", address)], greet, |_, _, _| said += 1).await);
        assert_eq!(said, 1);
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "somebody has accepted and closed it");
    }
}
