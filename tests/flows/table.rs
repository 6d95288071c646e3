//! The one table of flows through the cluster of `cluster.yaml`: who connects to what, and what must happen.
//! Every tier reads it: the pure packet walk, and real packets in namespaces.

use waypost::model::Protocol::{self, Tcp, Udp};

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The pod 10.244.0.2, fd00:244::2 on node-1.
    Pod,
    /// The node itself, 192.0.2.10, 2001:db8::10.
    Node,
    /// A host outside, 203.0.113.9, 2001:db8:9::9.
    Outside,
    /// A host outside, 203.0.114.9: in no source range.
    Stranger,
}

/// What must happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// One of these pods answers, all of them in the end, and sees the own address of the client.
    Kept(&'static [&'static str]),
    /// One of these pods answers, all of them in the end, and sees an address of the node.
    Masqueraded(&'static [&'static str]),
    /// Refused at once.
    Refused,
    /// No answer.
    Dropped,
}

use Client::{Node, Outside, Pod, Stranger};
use Expect::{Dropped, Kept, Masqueraded, Refused};

/// The pods that serve, with their addresses; `client` is [`Client::Pod`].
pub const PODS: &[(&str, &[&str])] = &[
    ("client", &["10.244.0.2", "fd00:244::2"]),
    ("near", &["10.244.0.3", "fd00:244::3"]),
    ("leaving", &["10.244.0.4"]),
    ("far", &["10.244.1.3", "fd00:244:0:1::3"]),
    ("other-port", &["10.244.1.4"]),
];

const WEB: &[&str] = &["near", "far", "other-port"];
const BOTH: &[&str] = &["near", "far"];

/// One flow: its client, its destination, and what must happen.
pub type Flow = (Client, Protocol, &'static str, Expect);

/// All flows.
pub const FLOWS: &[Flow] = &[
    // ClusterIP.
    (Pod, Tcp, "10.96.0.1:80", Kept(WEB)),
    (Node, Tcp, "10.96.0.1:80", Masqueraded(WEB)),
    (Outside, Tcp, "10.96.0.1:80", Masqueraded(WEB)),
    (Pod, Tcp, "[fd00:96::1]:80", Kept(BOTH)),
    (Node, Tcp, "[fd00:96::1]:80", Masqueraded(BOTH)),
    (Outside, Tcp, "[fd00:96::1]:80", Masqueraded(BOTH)),
    (Pod, Udp, "10.96.0.1:7", Kept(BOTH)),
    (Node, Udp, "10.96.0.1:7", Masqueraded(BOTH)),
    (Pod, Udp, "[fd00:96::1]:7", Kept(BOTH)),
    // NodePort, policy Cluster.
    (Pod, Tcp, "192.0.2.10:30080", Masqueraded(WEB)),
    (Node, Tcp, "192.0.2.10:30080", Masqueraded(WEB)),
    (Outside, Tcp, "192.0.2.10:30080", Masqueraded(WEB)),
    (Outside, Tcp, "[2001:db8::10]:30080", Masqueraded(BOTH)),
    (Outside, Udp, "192.0.2.10:30007", Masqueraded(BOTH)),
    (Outside, Udp, "[2001:db8::10]:30007", Masqueraded(BOTH)),
    // externalIP; the younger service that claims it too does not disturb.
    (Pod, Tcp, "198.51.100.1:80", Masqueraded(WEB)),
    (Outside, Tcp, "198.51.100.1:80", Masqueraded(WEB)),
    // Load balancer address, policy Local with source ranges.
    (Outside, Tcp, "198.51.100.2:443", Kept(&["near"])),
    (Pod, Tcp, "198.51.100.2:443", Kept(BOTH)),
    (Node, Tcp, "198.51.100.2:443", Dropped),
    (Stranger, Tcp, "198.51.100.2:443", Dropped),
    // Source ranges are for load balancer addresses only.
    (Stranger, Tcp, "192.0.2.10:30443", Kept(&["near"])),
    (Node, Tcp, "192.0.2.10:30443", Masqueraded(BOTH)),
    (Outside, Tcp, "192.0.2.10:30443", Kept(&["near"])),
    // Policies Local with no endpoint here.
    (Pod, Tcp, "10.96.0.3:80", Dropped),
    (Node, Tcp, "10.96.0.3:80", Dropped),
    (Outside, Tcp, "192.0.2.10:30081", Dropped),
    (Pod, Tcp, "192.0.2.10:30081", Kept(&["far"])),
    (Node, Tcp, "192.0.2.10:30081", Masqueraded(&["far"])),
    // No endpoints anywhere.
    (Pod, Tcp, "10.96.0.4:80", Refused),
    (Node, Tcp, "10.96.0.4:80", Refused),
    (Outside, Tcp, "10.96.0.4:80", Refused),
    (Pod, Tcp, "[fd00:96::4]:80", Refused),
    (Outside, Tcp, "[fd00:96::4]:80", Refused),
    (Pod, Udp, "10.96.0.4:53", Refused),
    (Pod, Udp, "[fd00:96::4]:53", Refused),
    (Outside, Tcp, "192.0.2.10:30082", Refused),
    (Outside, Udp, "192.0.2.10:30053", Refused),
    (Node, Tcp, "192.0.2.10:30082", Refused),
    // An undefined port, an address that no service has, a service of another proxy.
    (Pod, Tcp, "10.96.0.1:81", Refused),
    (Node, Tcp, "10.96.0.1:81", Refused),
    (Pod, Tcp, "[fd00:96::1]:81", Refused),
    (Pod, Tcp, "10.96.0.99:80", Dropped),
    (Outside, Tcp, "10.96.0.99:80", Dropped),
    (Pod, Tcp, "[fd00:96::99]:80", Dropped),
    (Pod, Tcp, "10.96.0.7:80", Dropped),
    // Only endpoints that still serve while they terminate.
    (Pod, Tcp, "10.96.0.5:80", Kept(&["leaving"])),
    // A connection of an endpoint to itself.
    (Pod, Tcp, "10.96.0.8:80", Masqueraded(&["client"])),
    (Pod, Tcp, "[fd00:96::8]:80", Masqueraded(&["client"])),
    // Hints for zones: the far endpoint is meant for this zone, the near one is not; in IPv6 one endpoint has no hint.
    (Pod, Tcp, "10.96.0.20:80", Kept(&["far"])),
    (Node, Tcp, "10.96.0.20:80", Masqueraded(&["far"])),
    (Outside, Tcp, "192.0.2.10:30020", Masqueraded(&["far"])),
    (Pod, Tcp, "[fd00:96::20]:80", Kept(BOTH)),
    (Outside, Tcp, "[2001:db8::10]:30020", Masqueraded(BOTH)),
    // Hints for nodes come first; policy Local asks for none; where none is for this node the zone decides.
    (Pod, Tcp, "10.96.0.21:80", Kept(&["far"])),
    (Pod, Tcp, "192.0.2.10:30021", Kept(&["far"])),
    (Outside, Tcp, "192.0.2.10:30021", Kept(&["near"])),
    (Pod, Tcp, "[fd00:96::21]:80", Kept(&["near"])),
    // The node's own port, past every rule.
    (Outside, Tcp, "192.0.2.10:9", Refused),
];

/// The client's addresses.
pub fn addresses(from: Client) -> &'static [&'static str] {
    match from {
        Pod => PODS[0].1,
        Node => &["192.0.2.10", "2001:db8::10"],
        Outside => &["203.0.113.9", "2001:db8:9::9"],
        Stranger => &["203.0.114.9"],
    }
}
