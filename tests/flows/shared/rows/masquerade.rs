//! Who is masqueraded, under other settings than the usual ones.

use super::super::Client::{FarPod, Node, Outside, Pod};
use super::super::Expect::{Dropped, Kept, Masqueraded};
use super::super::Rule::*;
use super::super::settings::{BRIDGE, INTERFACE_PREFIX, MASQUERADE_ALL, NO_CLUSTER_CIDR, NODE_CIDRS};
use super::super::{Flow, Group, flow};
use super::{BOTH, FAR, NEAR, SELF};
use waypost::model::Protocol::{Tcp, Udp};

const WEB: &[&str] = &["near", "far", "other"];

pub const GROUPS: &[Group] = &[
    Group { settings: &MASQUERADE_ALL, flows: ALL },
    Group { settings: &NO_CLUSTER_CIDR, flows: NOBODY_IS_KNOWN },
    Group { settings: &NODE_CIDRS, flows: BY_NODE_CIDRS },
    Group { settings: &BRIDGE, flows: BY_BRIDGE },
    Group { settings: &INTERFACE_PREFIX, flows: BY_PREFIX },
];

const ALL: &[Flow] = &[
    flow(&[MasqueradeAll], Pod, Tcp, "10.96.1.1:80", Masqueraded(WEB)),
    flow(&[MasqueradeAll], Node, Tcp, "10.96.1.1:80", Masqueraded(WEB)),
    flow(&[MasqueradeAll], Outside, Tcp, "10.96.1.1:80", Masqueraded(WEB)),
    flow(&[MasqueradeAll], Pod, Udp, "10.96.1.1:7", Masqueraded(BOTH)),
    flow(&[MasqueradeAll], Pod, Tcp, "[fd00:96::101]:80", Masqueraded(WEB)),
    flow(&[MasqueradeAll], Pod, Udp, "[fd00:96::101]:7", Masqueraded(BOTH)),
    flow(&[MasqueradeAll, InternalLocal], Pod, Tcp, "10.96.2.3:80", Masqueraded(NEAR)),
    // It is about ClusterIPs.
    flow(&[MasqueradeAll, ExternalLocal], Outside, Tcp, "192.0.2.10:30204", Kept(NEAR)),
    flow(&[MasqueradeAll, ShortCircuitPod], Pod, Tcp, "192.0.2.10:30204", Kept(BOTH)),
    flow(&[MasqueradeAll, ExternalLocal], Outside, Tcp, "[2001:db8::10]:30204", Kept(NEAR)),
];

const NOBODY_IS_KNOWN: &[Flow] = &[
    flow(&[NoDetection], Pod, Tcp, "10.96.1.1:80", Kept(WEB)),
    flow(&[NoDetection], Outside, Tcp, "10.96.1.1:80", Kept(WEB)),
    flow(&[NoDetection], Node, Tcp, "10.96.1.1:80", Masqueraded(WEB)),
    flow(&[NoDetection], Outside, Udp, "10.96.1.1:7", Kept(BOTH)),
    flow(&[NoDetection], Outside, Tcp, "[fd00:96::101]:80", Kept(WEB)),
    flow(&[NoDetection], Outside, Tcp, "192.0.2.10:30101", Masqueraded(WEB)),
    flow(&[NoDetection, ExternalLocal], Pod, Tcp, "192.0.2.10:30204", Kept(NEAR)),
    flow(&[NoDetection, ExternalLocal], Outside, Tcp, "192.0.2.10:30204", Kept(NEAR)),
    flow(&[NoDetection, ShortCircuitNode], Node, Tcp, "192.0.2.10:30204", Masqueraded(BOTH)),
    flow(&[NoDetection, ExternalLocal], Pod, Tcp, "[2001:db8::10]:30204", Kept(NEAR)),
    flow(&[NoDetection, ExternalLocal], Pod, Udp, "[2001:db8::10]:30254", Kept(NEAR)),
    flow(&[NoDetection, HintsNotLocal, Hairpin], Pod, Tcp, "192.0.2.10:30310", Masqueraded(SELF)),
];

/// Pods of other nodes are strangers then. By its name the node has no endpoint.
const BY_NODE_CIDRS: &[Flow] = &[
    flow(&[NodeCidrs], Pod, Tcp, "10.96.1.1:80", Kept(WEB)),
    flow(&[NodeCidrs], FarPod, Tcp, "10.96.1.1:80", Masqueraded(WEB)),
    flow(&[NodeCidrs], Node, Tcp, "10.96.1.1:80", Masqueraded(WEB)),
    flow(&[NodeCidrs], Outside, Udp, "10.96.1.1:7", Masqueraded(BOTH)),
    flow(&[NodeCidrs], Pod, Tcp, "[fd00:96::101]:80", Kept(WEB)),
    flow(&[NodeCidrs], FarPod, Tcp, "[fd00:96::101]:80", Masqueraded(WEB)),
    flow(&[NodeCidrs, ShortCircuitPod], Pod, Tcp, "198.51.102.2:80", Kept(FAR)),
    flow(&[NodeCidrs, Drop], FarPod, Tcp, "198.51.102.2:80", Dropped),
    flow(&[NodeCidrs, ShortCircuitPod], Pod, Udp, "[2001:db8:51:2::2]:7", Kept(FAR)),
    flow(&[NodeCidrs, Drop], FarPod, Udp, "[2001:db8:51:2::2]:7", Dropped),
];

const BY_BRIDGE: &[Flow] = &[
    flow(&[BridgeInterface], Pod, Tcp, "10.96.1.1:80", Kept(WEB)),
    flow(&[BridgeInterface], Pod, Udp, "10.96.1.1:7", Kept(BOTH)),
    flow(&[BridgeInterface], FarPod, Tcp, "10.96.1.1:80", Masqueraded(WEB)),
    flow(&[BridgeInterface], Node, Tcp, "10.96.1.1:80", Masqueraded(WEB)),
    flow(&[BridgeInterface], Outside, Udp, "[fd00:96::101]:7", Masqueraded(BOTH)),
    flow(&[BridgeInterface], Pod, Tcp, "[fd00:96::101]:80", Kept(WEB)),
    flow(&[BridgeInterface, ShortCircuitPod], Pod, Tcp, "198.51.102.2:80", Kept(FAR)),
    flow(&[BridgeInterface, Drop], FarPod, Tcp, "198.51.102.2:80", Dropped),
    flow(&[BridgeInterface, ShortCircuitNode], Node, Tcp, "[2001:db8:51:2::2]:80", Masqueraded(FAR)),
];

const BY_PREFIX: &[Flow] = &[
    flow(&[InterfacePrefix], Pod, Tcp, "10.96.1.1:80", Kept(WEB)),
    flow(&[InterfacePrefix], FarPod, Tcp, "10.96.1.1:80", Kept(WEB)),
    flow(&[InterfacePrefix], Outside, Tcp, "10.96.1.1:80", Masqueraded(WEB)),
    flow(&[InterfacePrefix], Node, Udp, "10.96.1.1:7", Masqueraded(BOTH)),
    flow(&[InterfacePrefix], Pod, Tcp, "[fd00:96::101]:80", Kept(WEB)),
    flow(&[InterfacePrefix], Pod, Udp, "[fd00:96::101]:7", Kept(BOTH)),
    flow(&[InterfacePrefix], Outside, Tcp, "[fd00:96::101]:80", Masqueraded(WEB)),
    flow(&[InterfacePrefix, ShortCircuitPod], FarPod, Tcp, "198.51.102.2:80", Kept(FAR)),
    flow(&[InterfacePrefix, Drop], Outside, Tcp, "198.51.102.2:80", Dropped),
];
