//! NodePorts on the loopback addresses, for processes of the node.
//!
//! The kernel does not route what comes from a loopback address to another host, so that no rule can lead there (and the sysctl that lifts this
//! opens the node's own services to its neighbours). So these are listeners of the agent, which hand each connection on to the Service's
//! ClusterIP as any process of the node would connect there. TCP only, as kube-proxy's (KEP-3178 and `pkg/proxy/nftables`, alpha in 1.37).

use crate::handover::Sockets;
use crate::listeners::Listeners;
use crate::model::{Family, ObjectKey, Protocol, Service, ServiceKind};
use crate::notices::{LOCALHOST_NODE_PORT_TAKEN, Notices, Subject};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How often a listener that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a Service may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The NodePorts on loopback addresses. Clones are one.
#[derive(Clone, Default)]
pub struct LocalhostPorts(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// By Service: where to listen, and where to hand on to.
    wanted: Mutex<BTreeMap<ObjectKey, Vec<(SocketAddr, SocketAddr)>>>,
    changed: Notify,
}

impl LocalhostPorts {
    /// What is to be served of a Service from now on.
    pub fn set(&self, key: &ObjectKey, service: Option<&Service>) {
        let ports = service.map(ports).unwrap_or_default();
        let mut wanted = self.wanted();
        if wanted.get(key).map(Vec::as_slice).unwrap_or_default() == ports {
            return;
        }
        match ports.is_empty() {
            true => wanted.remove(key),
            false => wanted.insert(key.clone(), ports),
        };
        self.0.changed.notify_one();
    }

    /// Listens and hands on, as soon as another agent does not. Dropping the future closes everything.
    pub async fn serve(self, notices: Notices, sockets: Sockets) {
        sockets.granted().await;
        let mut open = Listeners::among(sockets);
        loop {
            let serve = |socket, (_, target): &(ObjectKey, SocketAddr), _| hand_on(socket, *target);
            let failed = |(service, _): &(ObjectKey, SocketAddr), address: SocketAddr, why: &str| {
                let note = format!("its NodePort on {address} cannot be served: {why}");
                notices.tell(&LOCALHOST_NODE_PORT_TAKEN, Subject::Service(service.clone()), note);
            };
            let complete = open.follow(self.listeners(), serve, failed);
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = sleep(open.pause(RETRY)), if !complete => {}
            }
        }
    }

    fn listeners(&self) -> Vec<((ObjectKey, SocketAddr), SocketAddr)> {
        let wanted = self.wanted();
        let of = |(key, ports): (&ObjectKey, &Vec<(SocketAddr, SocketAddr)>)| {
            let listener = |(address, target): &(SocketAddr, SocketAddr)| ((key.clone(), *target), *address);
            ports.iter().map(listener).collect::<Vec<_>>()
        };
        wanted.iter().flat_map(of).collect()
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Vec<(SocketAddr, SocketAddr)>>> {
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ports(service: &Service) -> Vec<(SocketAddr, SocketAddr)> {
    let is_served = service.proxied && service.kind == ServiceKind::ClusterIp;
    let ports = service.ports.iter().filter(|port| is_served && port.node_port != 0 && port.protocol == Protocol::Tcp);
    let of = |address: &IpAddr, listen: u16, port: u16| {
        let loopback: IpAddr = match Family::of(*address) {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        (SocketAddr::new(loopback, listen), SocketAddr::new(*address, port))
    };
    ports.flat_map(|port| service.cluster_ips.iter().map(move |address| of(address, port.node_port, port.port))).collect()
}

/// Accepts connections for as long as the task lives. Those that are accepted live on without it, as they would in the kernel.
fn hand_on(socket: TcpListener, target: SocketAddr) -> JoinSet<()> {
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            match socket.accept().await {
                Ok((client, _)) => {
                    tokio::spawn(join(client, target));
                }
                // Out of descriptors, mostly: without a pause this would spin.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    });
    task
}

/// Which side goes away first is their own affair.
async fn join(mut client: TcpStream, target: SocketAddr) -> io::Result<()> {
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await;
    let Ok(Ok(mut server)) = connected else {
        // A reset, as the kernel would answer, and not an orderly end.
        return client.set_zero_linger();
    };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
