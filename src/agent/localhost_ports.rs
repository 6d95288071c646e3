//! NodePorts on the loopback addresses, for processes of the node.
//!
//! The kernel does not route what comes from a loopback address to another host, so that no rule can lead there (and the sysctl that lifts this
//! opens the node's own services to its neighbours). So these are listeners of the agent, which hand each connection on to the NodePort at
//! the node's own address, as any process of the node would connect there; where NodePorts do not answer at that address, to the Service's ClusterIP.
//! TCP only, as kube-proxy's (KEP-6032, alpha in 1.37).

use crate::handover::Sockets;
use crate::listeners::Listeners;
use crate::model::{Family, ObjectKey, Protocol, Service, ServiceKind, ServicePort};
use crate::notices::{ADDRESS_CONFLICT, LOCALHOST_NODE_PORT_TAKEN, Notices, Subject};
use crate::proxy::Context;
use std::collections::{BTreeMap, BTreeSet};
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
    wanted: Mutex<BTreeMap<ObjectKey, Wanted>>,
    changed: Notify,
}

/// What is to be served of a Service.
#[derive(PartialEq)]
struct Wanted {
    /// When the Service was made: of two that want a port the older one has it, as in the tables.
    created: i64,
    /// Where to listen, and where to hand on to.
    ports: Vec<(SocketAddr, SocketAddr)>,
}

/// Whose a listener is, and where it hands on to.
type Owner = (ObjectKey, SocketAddr);
/// Who wants a port that is another's: loser, address and winner.
type Conflict = (ObjectKey, SocketAddr, ObjectKey);

impl LocalhostPorts {
    /// What is to be served of a Service from now on, on the node that is described.
    pub fn set(&self, key: &ObjectKey, service: Option<&Service>, node: &Context) {
        let of = |service: &Service| Wanted { created: service.created, ports: ports(service, node) };
        let next = service.map(of).filter(|wanted| !wanted.ports.is_empty());
        let mut wanted = self.wanted();
        if wanted.get(key) == next.as_ref() {
            return;
        }
        match next {
            Some(next) => wanted.insert(key.clone(), next),
            None => wanted.remove(key),
        };
        self.0.changed.notify_one();
    }

    /// Listens and hands on, as soon as another agent does not. Dropping the future closes everything.
    pub async fn serve(self, notices: Notices, sockets: Sockets) {
        sockets.granted().await;
        let mut open = Listeners::among(sockets);
        let mut conflicts = BTreeSet::new();
        loop {
            let (owners, losers) = self.owners();
            for (loser, address, winner) in losers.difference(&conflicts) {
                let note = format!(
                    "the NodePort {address}/tcp belongs to service {winner}: give one of the two another address or port"
                );
                notices.tell(&ADDRESS_CONFLICT, Subject::Service(loser.clone()), note);
            }
            conflicts = losers;
            let serve = |socket, (_, target): &Owner, _| hand_on(socket, *target);
            let failed = |(service, _): &Owner, address: SocketAddr, why: &str| {
                let note = format!("its NodePort on {address} cannot be served: {why}");
                notices.tell(&LOCALHOST_NODE_PORT_TAKEN, Subject::Service(service.clone()), note);
            };
            let complete = open.follow(owners, serve, failed).await;
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = sleep(open.pause(RETRY)), if !complete => {}
            }
        }
    }

    /// Whose each port is, and who wants one that is another's.
    fn owners(&self) -> (Vec<(Owner, SocketAddr)>, BTreeSet<Conflict>) {
        let wanted = self.wanted();
        let mut claims: BTreeMap<SocketAddr, BTreeSet<(i64, &ObjectKey, SocketAddr)>> = BTreeMap::new();
        for (key, Wanted { created, ports }) in wanted.iter() {
            for (address, target) in ports {
                claims.entry(*address).or_default().insert((*created, key, *target));
            }
        }
        let (mut owners, mut losers) = (Vec::new(), BTreeSet::new());
        for (address, claims) in claims {
            let mut claims = claims.into_iter();
            let Some((_, winner, target)) = claims.next() else { continue };
            owners.push(((winner.clone(), target), address));
            let others = claims.filter(|(_, key, _)| *key != winner);
            losers.extend(others.map(|(_, loser, _)| (loser.clone(), address, winner.clone())));
        }
        (owners, losers)
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Wanted>> {
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ports(service: &Service, node: &Context) -> Vec<(SocketAddr, SocketAddr)> {
    let is_served = service.proxied && service.kind == ServiceKind::ClusterIp;
    let ports = service.ports.iter().filter(|port| is_served && port.node_port != 0 && port.protocol == Protocol::Tcp);
    let of = |cluster_ip: &IpAddr, port: &ServicePort| {
        let family = Family::of(*cluster_ip);
        let loopback: IpAddr = match family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        // There `externalTrafficPolicy` decides, as for every NodePort; of a ClusterIP `internalTrafficPolicy` would.
        let served = |address: &&IpAddr| Family::of(**address) == family && node.nodeport_addresses.contains(address);
        let target = match node.node_addresses.iter().find(served) {
            Some(address) => SocketAddr::new(*address, port.node_port),
            None => SocketAddr::new(*cluster_ip, port.port),
        };
        (SocketAddr::new(loopback, port.node_port), target)
    };
    ports.flat_map(|port| service.cluster_ips.iter().map(move |address| of(address, port))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Policy, ServiceOptions};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn service(name: &str, created: i64, node_port: u16, port: u16) -> Service {
        Service {
            key: ObjectKey::new("shop", name),
            kind: ServiceKind::ClusterIp,
            cluster_ips: vec![Ipv4Addr::LOCALHOST.into()],
            external_ips: vec![],
            load_balancer_ips: vec![],
            source_ranges: vec![],
            ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port, node_port }],
            internal_policy: Policy::Cluster,
            external_policy: Policy::Cluster,
            affinity_seconds: None,
            health_check_node_port: 0,
            proxied: true,
            created,
            options: ServiceOptions::default(),
            labels: None,
        }
    }

    /// A server that says this word to whoever connects; its port.
    async fn server(word: &'static str) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                client.write_all(word.as_bytes()).await.unwrap();
            }
        });
        port
    }

    /// What is said on a port; `None` where nobody listens.
    async fn heard(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let mut text = String::new();
        // A reset, where the server was gone.
        stream.read_to_string(&mut text).await.is_ok().then_some(text)
    }

    async fn until_heard(port: u16, word: &str) {
        for _ in 0..2000 {
            if heard(port).await.as_deref() == Some(word) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("{word} is never heard");
    }

    /// Waits for a word on a port that is open all the time.
    async fn until_heard_without_a_refusal(port: u16, word: &str) {
        for _ in 0..2000 {
            if heard(port).await.expect("somebody listens all the time") == word {
                return;
            }
        }
        panic!("{word} is never heard");
    }

    /// None that the kernel gives to whoever asks for any: nobody else takes it meanwhile.
    async fn free_port() -> u16 {
        loop {
            let port = 10_000 + rand::random_range(0..20_000);
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
                return port;
            }
        }
    }

    #[test]
    fn connections_go_to_the_nodes_own_address_where_node_ports_answer_there() {
        let mut web = service("web", 1, 30080, 80);
        web.cluster_ips = vec![[10, 96, 0, 1].into(), "fd00:96::1".parse().unwrap()];
        let [primary, other]: [IpAddr; 2] = [[192, 0, 2, 10].into(), [198, 18, 0, 10].into()];
        let targets = |served: &[IpAddr]| {
            let node = Context { node_addresses: vec![primary], nodeport_addresses: served.to_vec(), ..Context::default() };
            ports(&web, &node).into_iter().map(|(_, target)| target.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(targets(&[other, primary]), ["192.0.2.10:30080", "[fd00:96::1]:80"]);
        assert_eq!(targets(&[other]), ["10.96.0.1:80", "[fd00:96::1]:80"]);
    }

    #[tokio::test]
    async fn another_port_of_the_service_is_handed_on_to_without_a_refusal() {
        let (ports, node_port) = (LocalhostPorts::default(), free_port().await);
        let (one, two) = (server("one").await, server("two").await);
        let (notices, mut told) = Notices::sent();
        let _task = tokio::spawn(ports.clone().serve(notices, Sockets::new(true)));
        let web = |port| service("web", 1, node_port, port);
        ports.set(&web(one).key, Some(&web(one)), &Context::default());
        until_heard(node_port, "one").await;
        for (port, word) in [(two, "two"), (one, "one"), (two, "two")] {
            ports.set(&web(port).key, Some(&web(port)), &Context::default());
            until_heard_without_a_refusal(node_port, word).await;
        }
        assert!(told.try_recv().is_err(), "nothing is in the way");
    }

    #[tokio::test]
    async fn of_two_services_the_older_one_has_the_port_and_the_other_is_told_and_gets_it_when_that_is_gone() {
        let (ports, node_port) = (LocalhostPorts::default(), free_port().await);
        let (old, young) =
            (service("z-old", 1, node_port, server("old").await), service("a-young", 2, node_port, server("young").await));
        let (notices, mut told) = Notices::sent();
        let _task = tokio::spawn(ports.clone().serve(notices, Sockets::new(true)));
        ports.set(&young.key, Some(&young), &Context::default());
        until_heard(node_port, "young").await;
        ports.set(&old.key, Some(&old), &Context::default());
        until_heard_without_a_refusal(node_port, "old").await;
        let notice = told.recv().await.unwrap();
        assert_eq!((notice.reason, &notice.about), (&ADDRESS_CONFLICT, &Subject::Service(young.key.clone())));
        assert!(
            notice.note.contains(&format!("127.0.0.1:{node_port}/tcp")) && notice.note.contains("shop/z-old"),
            "{}",
            notice.note
        );
        ports.set(&old.key, None, &Context::default());
        until_heard_without_a_refusal(node_port, "young").await;
    }
}
