//! Who is masqueraded, under other settings than the usual ones.

use super::super::Client::{Node, Outside, Pod};
use super::super::Expect::{Kept, Masqueraded};
use super::super::Rule::*;
use super::super::settings::{MASQUERADE_ALL, NO_CLUSTER_CIDR};
use super::super::{Flow, Group, flow};
use super::{BOTH, NEAR};
use waypost::model::Protocol::{Tcp, Udp};

const WEB: &[&str] = &["near", "far", "other"];

pub const GROUPS: &[Group] =
    &[Group { settings: &MASQUERADE_ALL, flows: ALL }, Group { settings: &NO_CLUSTER_CIDR, flows: NOBODY_IS_KNOWN }];

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
];
