//! Nodes, and the pods and hosts that are joined to them.

use super::links::{self, Source, Wire};
use super::servers::{Serve, Server};
use super::{LabError, Namespace};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A node: a namespace that forwards between its pods. Clones are the same node.
#[derive(Clone, Debug)]
pub struct Node {
    namespace: Namespace,
    addresses: Arc<[IpAddr]>,
    wires: Arc<AtomicU32>,
    servers: Arc<Mutex<Vec<Server>>>,
}

impl Node {
    /// Makes the namespace that the calling thread is in a node with these addresses (kept on `lo`).
    pub fn here(addresses: &[IpAddr]) -> Result<Node, LabError> {
        Node::of(Namespace::current()?, addresses)
    }

    /// A node in a namespace of its own: tests that run side by side take one each.
    pub fn new(addresses: &[IpAddr]) -> Result<Node, LabError> {
        Node::of(Namespace::new()?, addresses)
    }

    fn of(namespace: Namespace, addresses: &[IpAddr]) -> Result<Node, LabError> {
        for (name, value) in [
            // Redirects would make a pod that reaches itself through a service try to go there directly.
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            // Inherited from the host, where it may be strict.
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
        ] {
            namespace.set_sysctl(name, value)?;
        }
        links::loopback_up(&namespace)?;
        let node = Node { namespace, addresses: addresses.into(), wires: Arc::default(), servers: Arc::default() };
        addresses.iter().try_for_each(|address| links::add_address(&node.namespace, "lo", *address, Source::Usual))?;
        Ok(node)
    }

    /// The node's network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The addresses it was made with.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Gives the node one more local address (on `lo`), for something that it serves. The node's own packets keep the addresses that
    /// it was made with.
    pub fn add_address(&self, address: IpAddr) -> Result<(), LabError> {
        links::add_address(&self.namespace, "lo", address, Source::Avoided)
    }

    /// Serves a port on the addresses that the node was made with, as a pod with the node's own network does. `name` is what its server
    /// answers with. The sockets listen when this returns, until the last clone of the node is dropped.
    pub fn serve(&self, name: &str, what: Serve, port: u16) -> Result<(), LabError> {
        serve(&self.servers, &self.namespace, &self.addresses, what, port, &name.into())
    }

    /// Makes a host outside the node's default gateway, once for each of its families. Without a gateway the node answers "no route"
    /// to packets for ClusterIPs that are to be refused, and its own processes reach no ClusterIP: routing comes before both.
    pub fn set_gateway(&self, outside: &Pod) -> Result<(), LabError> {
        let one_each = [true, false].map(|v4| outside.addresses.iter().copied().find(|address| address.is_ipv4() == v4));
        outside.wire.become_default(&self.namespace, &one_each.into_iter().flatten().collect::<Vec<_>>())
    }

    /// Answers packets to pods that are not (any more) there with "unreachable", as network plugins do; else the gateway gets them.
    pub fn own_pod_network(&self, network: IpNet) -> Result<(), LabError> {
        links::make_unreachable(&self.namespace, network)
    }

    /// A pod with these addresses, joined to this node. The node's end of the link is called `veth` and a number.
    pub fn pod(&self, name: &str, addresses: &[IpAddr]) -> Result<Pod, LabError> {
        self.join("veth", name, addresses)
    }

    /// A host outside the cluster with these addresses: all it knows is that its way leads through the node. The node's end of the link is
    /// called `eth` and a number.
    pub fn host(&self, name: &str, addresses: &[IpAddr]) -> Result<Pod, LabError> {
        self.join("eth", name, addresses)
    }

    fn join(&self, prefix: &'static str, name: &str, addresses: &[IpAddr]) -> Result<Pod, LabError> {
        let namespace = Namespace::new()?;
        for (name, value) in [
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ] {
            namespace.set_sysctl(name, value)?;
        }
        let wire = Wire { number: self.wires.fetch_add(1, Ordering::Relaxed) + 1, prefix };
        wire.connect(&self.namespace, &namespace)?;
        for address in addresses {
            let source = self.addresses.iter().copied().find(|own| own.is_ipv4() == address.is_ipv4());
            wire.add_address(&self.namespace, &namespace, *address, source)?;
        }
        Ok(Pod { name: name.into(), namespace, addresses: addresses.into(), node: self.clone(), wire, servers: Mutex::default() })
    }
}

impl AsRef<Namespace> for Node {
    fn as_ref(&self) -> &Namespace {
        &self.namespace
    }
}

/// A pod, or any other host that is joined to a [`Node`]. Dropping it stops its servers and cuts it off.
#[derive(Debug)]
pub struct Pod {
    name: Arc<str>,
    namespace: Namespace,
    addresses: Box<[IpAddr]>,
    node: Node,
    wire: Wire,
    servers: Mutex<Vec<Server>>,
}

impl Pod {
    /// Its name, with which its servers answer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its first address of the same family as `other`.
    pub fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == other.is_ipv4())
    }

    /// Serves a port on all of the pod's addresses, until the pod is dropped or [killed](Pod::kill). The sockets listen when this
    /// returns.
    pub fn serve(&self, what: Serve, port: u16) -> Result<(), LabError> {
        serve(&self.servers, &self.namespace, &self.addresses, what, port, &self.name)
    }

    /// Closes the pod's servers, their connections too; its addresses stay and refuse.
    pub fn stop_serving(&self) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The pod is gone: its servers, its addresses and the node's routes to them.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.stop_serving();
        // Fails only when the link is gone already, as when a test removed it by hand.
        let _ = self.wire.cut(&self.node.namespace);
    }
}

impl AsRef<Namespace> for Pod {
    fn as_ref(&self) -> &Namespace {
        &self.namespace
    }
}

/// Serves a port on each of the addresses and keeps the servers.
fn serve(
    servers: &Mutex<Vec<Server>>,
    namespace: &Namespace,
    addresses: &[IpAddr],
    what: Serve,
    port: u16,
    name: &Arc<str>,
) -> Result<(), LabError> {
    for address in addresses {
        let server = Server::start(namespace, what, SocketAddr::new(*address, port), name.clone())?;
        servers.lock().unwrap_or_else(PoisonError::into_inner).push(server);
    }
    Ok(())
}
