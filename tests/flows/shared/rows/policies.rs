//! Traffic policies: `policies.yaml`.

use super::super::Client::{FarPod, Node, Outside, Pod};
use super::super::Expect::{Kept, Masqueraded, Shares};
use super::super::Rule::*;
use super::super::settings::USUAL;
use super::super::{Flow, Group, flow};
use super::{BOTH, FAR, NEAR, SELF};
use waypost::model::Protocol::{Tcp, Udp};

/// The endpoints on the node, and all of them.
const HERE: &[&str] = &["near", "beside"];
const ALL: &[&str] = &["near", "beside", "far"];
const HOST: &[&str] = &["host"];

pub const GROUPS: &[Group] = &[Group { settings: &USUAL, flows: FLOWS }];

const FLOWS: &[Flow] = &[
    // Both policies Local: the ClusterIP.
    flow(&[InternalLocal], Pod, Tcp, "10.96.2.1:80", Shares(HERE)),
    flow(&[InternalLocal], FarPod, Tcp, "10.96.2.1:80", Kept(HERE)),
    flow(&[InternalLocal], Node, Tcp, "10.96.2.1:80", Masqueraded(HERE)),
    flow(&[InternalLocal], Outside, Tcp, "10.96.2.1:80", Masqueraded(HERE)),
    flow(&[InternalLocal], Pod, Udp, "10.96.2.1:7", Kept(HERE)),
    flow(&[InternalLocal], Pod, Tcp, "[fd00:96::201]:80", Shares(HERE)),
    flow(&[InternalLocal], Node, Tcp, "[fd00:96::201]:80", Masqueraded(HERE)),
    flow(&[InternalLocal], Pod, Udp, "[fd00:96::201]:7", Kept(HERE)),
    // The NodePort.
    flow(&[ExternalLocal, NodePort], Outside, Tcp, "192.0.2.10:30201", Shares(HERE)),
    flow(&[ShortCircuitPod, NodePort], Pod, Tcp, "192.0.2.10:30201", Kept(ALL)),
    flow(&[ShortCircuitPod, NodePort], FarPod, Tcp, "192.0.2.10:30201", Kept(ALL)),
    flow(&[ShortCircuitNode, NodePort], Node, Tcp, "192.0.2.10:30201", Masqueraded(ALL)),
    flow(&[ExternalLocal, NodePort], Outside, Udp, "192.0.2.10:30251", Kept(HERE)),
    flow(&[ShortCircuitPod, NodePort], Pod, Udp, "192.0.2.10:30251", Kept(ALL)),
    flow(&[ExternalLocal, NodePort], Outside, Tcp, "[2001:db8::10]:30201", Shares(HERE)),
    flow(&[ShortCircuitPod, NodePort], Pod, Tcp, "[2001:db8::10]:30201", Kept(ALL)),
    flow(&[ShortCircuitNode, NodePort], Node, Tcp, "[2001:db8::10]:30201", Masqueraded(ALL)),
    flow(&[ExternalLocal, NodePort], Outside, Udp, "[2001:db8::10]:30251", Kept(HERE)),
    // The load balancer's address.
    flow(&[ExternalLocal, LoadBalancer], Outside, Tcp, "198.51.102.1:80", Kept(HERE)),
    flow(&[ShortCircuitPod, LoadBalancer], Pod, Tcp, "198.51.102.1:80", Kept(ALL)),
    flow(&[ShortCircuitPod, LoadBalancer], FarPod, Tcp, "198.51.102.1:80", Kept(ALL)),
    flow(&[ShortCircuitNode, LoadBalancer], Node, Tcp, "198.51.102.1:80", Masqueraded(ALL)),
    flow(&[ExternalLocal, LoadBalancer], Outside, Udp, "198.51.102.1:7", Kept(HERE)),
    flow(&[ShortCircuitNode, LoadBalancer], Node, Udp, "198.51.102.1:7", Masqueraded(ALL)),
    flow(&[ExternalLocal, LoadBalancer], Outside, Tcp, "[2001:db8:51:2::1]:80", Kept(HERE)),
    flow(&[ShortCircuitPod, LoadBalancer], Pod, Tcp, "[2001:db8:51:2::1]:80", Kept(ALL)),
    flow(&[ShortCircuitNode, LoadBalancer], Node, Tcp, "[2001:db8:51:2::1]:80", Masqueraded(ALL)),
    flow(&[ShortCircuitNode, LoadBalancer], Node, Udp, "[2001:db8:51:2::1]:7", Masqueraded(ALL)),
    flow(&[ExternalLocal, LoadBalancer], Outside, Udp, "[2001:db8:51:2::1]:7", Kept(HERE)),
    // The externalIP.
    flow(&[ExternalLocal, ExternalIp], Outside, Tcp, "198.51.102.101:80", Kept(HERE)),
    flow(&[ShortCircuitPod, ExternalIp], Pod, Tcp, "198.51.102.101:80", Kept(ALL)),
    flow(&[ShortCircuitNode, ExternalIp], Node, Tcp, "198.51.102.101:80", Masqueraded(ALL)),
    flow(&[ExternalLocal, ExternalIp], Outside, Tcp, "[2001:db8:51:2::101]:80", Kept(HERE)),
    flow(&[ShortCircuitPod, ExternalIp], Pod, Udp, "[2001:db8:51:2::101]:7", Kept(ALL)),
    // One policy alone.
    flow(&[InternalLocal, PolicyScope], Pod, Tcp, "10.96.2.3:80", Kept(NEAR)),
    flow(&[InternalLocal, PolicyScope], Pod, Udp, "10.96.2.3:7", Kept(NEAR)),
    flow(&[InternalLocal, PolicyScope], Outside, Tcp, "192.0.2.10:30203", Masqueraded(BOTH)),
    flow(&[InternalLocal, PolicyScope], Pod, Tcp, "198.51.102.103:80", Masqueraded(BOTH)),
    flow(&[InternalLocal, PolicyScope], Pod, Udp, "[fd00:96::203]:7", Kept(NEAR)),
    flow(&[InternalLocal, PolicyScope], Outside, Tcp, "[2001:db8::10]:30203", Masqueraded(BOTH)),
    flow(&[ExternalLocal, PolicyScope], Pod, Tcp, "10.96.2.4:80", Kept(BOTH)),
    flow(&[ExternalLocal, PolicyScope], Outside, Tcp, "10.96.2.4:80", Masqueraded(BOTH)),
    flow(&[ExternalLocal, PolicyScope], Outside, Tcp, "192.0.2.10:30204", Kept(NEAR)),
    flow(&[ExternalLocal, PolicyScope], Pod, Tcp, "[fd00:96::204]:80", Kept(BOTH)),
    flow(&[ExternalLocal, PolicyScope], Outside, Udp, "[2001:db8::10]:30254", Kept(NEAR)),
    // No endpoint here: the short-circuits work all the same.
    flow(&[ShortCircuitPod, NodePort], Pod, Tcp, "192.0.2.10:30202", Kept(FAR)),
    flow(&[ShortCircuitNode, NodePort], Node, Tcp, "192.0.2.10:30202", Masqueraded(FAR)),
    flow(&[ShortCircuitPod, LoadBalancer], Pod, Tcp, "198.51.102.2:80", Kept(FAR)),
    flow(&[ShortCircuitNode, LoadBalancer], Node, Udp, "198.51.102.2:7", Masqueraded(FAR)),
    flow(&[ShortCircuitPod, ExternalIp], Pod, Tcp, "[2001:db8:51:2::102]:80", Kept(FAR)),
    flow(&[ShortCircuitNode, NodePort], Node, Tcp, "[2001:db8::10]:30202", Masqueraded(FAR)),
    // An endpoint that reaches itself.
    flow(&[Hairpin], Pod, Tcp, "10.96.2.11:80", Masqueraded(SELF)),
    flow(&[Hairpin], Pod, Udp, "10.96.2.11:7", Masqueraded(SELF)),
    flow(&[Hairpin], Pod, Tcp, "192.0.2.10:30211", Masqueraded(SELF)),
    flow(&[Hairpin], Pod, Tcp, "198.51.102.111:80", Masqueraded(SELF)),
    flow(&[Hairpin], Pod, Tcp, "[fd00:96::211]:80", Masqueraded(SELF)),
    flow(&[Hairpin], Pod, Udp, "[2001:db8::10]:30261", Masqueraded(SELF)),
    flow(&[Hairpin], Pod, Tcp, "10.96.2.12:80", Kept(&["client", "near"])),
    flow(&[Hairpin], Pod, Tcp, "192.0.2.10:30212", Kept(&["client", "near"])),
    flow(&[Hairpin], Pod, Tcp, "[fd00:96::212]:80", Kept(&["client", "near"])),
    flow(&[Hairpin], Outside, Tcp, "192.0.2.10:30212", Kept(&["client", "near"])),
    // Pods with the node's own network.
    flow(&[HostNetwork], Pod, Tcp, "10.96.2.13:80", Kept(HOST)),
    flow(&[HostNetwork], Pod, Udp, "10.96.2.13:7", Kept(HOST)),
    flow(&[HostNetwork], Outside, Tcp, "10.96.2.13:80", Kept(HOST)),
    flow(&[HostNetwork], Node, Tcp, "10.96.2.13:80", Masqueraded(HOST)),
    flow(&[HostNetwork], Outside, Tcp, "192.0.2.10:30213", Kept(HOST)),
    flow(&[HostNetwork], Pod, Tcp, "192.0.2.10:30213", Kept(HOST)),
    flow(&[HostNetwork], Outside, Udp, "192.0.2.10:30263", Kept(HOST)),
    flow(&[HostNetwork], Outside, Tcp, "198.51.102.113:80", Kept(HOST)),
    flow(&[HostNetwork], Outside, Tcp, "192.0.2.10:30214", Kept(HOST)),
    flow(&[HostNetwork], Pod, Tcp, "[fd00:96::213]:80", Kept(HOST)),
    flow(&[HostNetwork], Outside, Tcp, "[2001:db8::10]:30213", Kept(HOST)),
    flow(&[HostNetwork], Outside, Udp, "[2001:db8::10]:30264", Kept(HOST)),
];
