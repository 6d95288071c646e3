//! A way from another namespace to the API server, which can be cut.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Copies connections between a listening socket, of whatever namespace, and the API server. Dropping it ends them.
pub struct Relay {
    open: watch::Sender<bool>,
    carried: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    /// Serves the socket, which must not block.
    pub fn start(runtime: &Handle, listener: std::net::TcpListener, port: u16) -> Relay {
        let (open, watch) = watch::channel(true);
        let _context = runtime.enter();
        let listener = TcpListener::from_std(listener).expect("a listening socket");
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let carried = Arc::new(AtomicU64::new(0));
        Relay { open, carried: carried.clone(), task: runtime.spawn(relay(Arc::new(listener), target, watch, carried)) }
    }

    /// The bytes that it has carried so far, in both directions.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
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

async fn relay(listener: Arc<TcpListener>, target: SocketAddr, mut open: watch::Receiver<bool>, carried: Arc<AtomicU64>) {
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
                if let (Ok((client, _)), true) = (accepted, *open.borrow()) {
                    let carried = carried.clone();
                    connections.spawn(async move {
                        if let Ok(server) = TcpStream::connect(target).await {
                            // A connection that breaks is for its two ends to notice.
                            let _ = join(client, server, &carried).await;
                        }
                    });
                }
            }
        }
    }
}

async fn join(client: TcpStream, server: TcpStream, carried: &AtomicU64) -> io::Result<()> {
    // The two ends send without delay as well.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::try_join!(copy(from_client, to_server, carried), copy(from_server, to_client, carried)).map(|_| ())
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, carried: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            length => {
                carried.fetch_add(length as u64, Ordering::Relaxed);
                to.write_all(&buffer[..length]).await?;
            }
        }
    }
}
