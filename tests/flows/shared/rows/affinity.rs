//! Session affinity: `affinity.yaml`.

use super::super::Client::{FarPod, Node, Outside, Pod};
use super::super::Expect::{Dropped, Refused, Sticky};
use super::super::Rule::*;
use super::super::settings::{MASQUERADE_ALL, USUAL};
use super::super::{Flow, Group, flow};
use waypost::model::Protocol::{Tcp, Udp};

const ALL: &[&str] = &["near", "beside", "far"];
const HERE: &[&str] = &["near", "beside"];

const WEB: &[&str] = &["192.0.2.10:30601", "198.51.106.1:80", "198.51.106.101:80"];
const WEB_V6: &[&str] = &["[2001:db8::10]:30601", "[2001:db8:51:6::1]:80", "[2001:db8:51:6::101]:80"];

pub const GROUPS: &[Group] =
    &[Group { settings: &USUAL, flows: FLOWS }, Group { settings: &MASQUERADE_ALL, flows: ALL_MASQUERADED }];

const FLOWS: &[Flow] = &[
    flow(&[Affinity], Pod, Tcp, "10.96.6.1:80", Sticky(ALL, WEB)),
    flow(&[Affinity], FarPod, Tcp, "10.96.6.1:80", Sticky(ALL, WEB)),
    flow(&[Affinity], Node, Tcp, "10.96.6.1:80", Sticky(ALL, WEB)),
    flow(&[Affinity], Outside, Tcp, "10.96.6.1:80", Sticky(ALL, WEB)),
    flow(&[Affinity], Pod, Udp, "10.96.6.1:7", Sticky(ALL, &["192.0.2.10:30651", "198.51.106.1:7"])),
    flow(&[Affinity], Outside, Udp, "192.0.2.10:30651", Sticky(ALL, &["198.51.106.1:7"])),
    flow(&[Affinity], Pod, Tcp, "[fd00:96::601]:80", Sticky(ALL, WEB_V6)),
    flow(&[Affinity], Node, Tcp, "[fd00:96::601]:80", Sticky(ALL, WEB_V6)),
    flow(&[Affinity], Outside, Tcp, "[fd00:96::601]:80", Sticky(ALL, WEB_V6)),
    flow(&[Affinity], Pod, Udp, "[fd00:96::601]:7", Sticky(ALL, &["[2001:db8::10]:30651"])),
    // Policies Local.
    flow(&[AffinityLocal], Pod, Tcp, "10.96.6.2:80", Sticky(HERE, &[])),
    flow(&[AffinityLocal], Outside, Tcp, "192.0.2.10:30602", Sticky(HERE, &["198.51.106.2:80"])),
    flow(&[AffinityLocal], Outside, Udp, "192.0.2.10:30652", Sticky(HERE, &["198.51.106.2:7"])),
    flow(&[AffinityLocal], Pod, Tcp, "[fd00:96::602]:80", Sticky(HERE, &[])),
    flow(&[AffinityLocal], Outside, Tcp, "[2001:db8::10]:30602", Sticky(HERE, &["[2001:db8:51:6::2]:80"])),
    flow(&[AffinityLocal], Outside, Udp, "[2001:db8::10]:30652", Sticky(HERE, &["[2001:db8:51:6::2]:7"])),
    // Nobody here, or nobody at all.
    flow(&[AffinityLocal, Drop], Outside, Tcp, "192.0.2.10:30603", Dropped),
    flow(&[AffinityLocal, Drop], Pod, Tcp, "[fd00:96::603]:80", Dropped),
    flow(&[AffinityLocal, ShortCircuitPod], Pod, Tcp, "192.0.2.10:30603", Sticky(&["far", "other"], &[])),
    flow(&[AffinityLocal, ShortCircuitNode], Node, Tcp, "[2001:db8::10]:30603", Sticky(&["far", "other"], &[])),
    flow(&[Affinity, Reject], Pod, Tcp, "10.96.6.4:80", Refused),
    flow(&[Affinity, Reject], Pod, Udp, "[fd00:96::604]:7", Refused),
];

/// The client is remembered by the address that it really has.
const ALL_MASQUERADED: &[Flow] = &[
    flow(&[Affinity, MasqueradeAll], Pod, Tcp, "10.96.6.1:80", Sticky(ALL, WEB)),
    flow(&[Affinity, MasqueradeAll], Pod, Tcp, "[fd00:96::601]:80", Sticky(ALL, WEB_V6)),
];
