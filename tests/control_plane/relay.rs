//! A way from another namespace to the API server, which can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Copies connections between a listening socket, of whatever namespace, and the API server. Dropping it ends them.
pub struct Relay {
    open: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    /// Serves the socket, which must not block.
    pub fn start(runtime: &Handle, listener: std::net::TcpListener, port: u16) -> Relay {
        let (open, watch) = watch::channel(true);
        let _context = runtime.enter();
        let listener = TcpListener::from_std(listener).expect("a listening socket");
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Relay { open, task: runtime.spawn(relay(Arc::new(listener), target, watch)) }
    }

    /// Cuts every connection; new ones are closed at once, until [`Relay::restore`].
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections through again.
    pub fn restore(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(listener: Arc<TcpListener>, target: SocketAddr, mut open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            changed = open.changed() => match changed {
                Ok(()) if !*open.borrow() => connections.abort_all(),
                Ok(()) => {}
                Err(_) => return,
            },
            accepted = listener.accept() => {
                while connections.try_join_next().is_some() {}
                if let (Ok((mut client, _)), true) = (accepted, *open.borrow()) {
                    connections.spawn(async move {
                        if let Ok(mut server) = TcpStream::connect(target).await {
                            // A connection that breaks is for its two ends to notice.
                            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                        }
                    });
                }
            }
        }
    }
}
