//! Which of a Service's endpoints are used: terminating ones, and hints (`topology.yaml`, and the end of `policies.yaml`).

use super::super::Client::{Node, Outside, Pod};
use super::super::Expect::{Dropped, Kept, Masqueraded};
use super::super::Rule::*;
use super::super::settings::{IPV4_NODE, USUAL};
use super::super::{Flow, Group, flow};
use super::{BOTH, FAR, NEAR, SELF};
use waypost::model::Protocol::{Tcp, Udp};

const LEAVING: &[&str] = &["leaving"];
const LEAVING_BOTH: &[&str] = &["leaving", "leaving-far"];

pub const GROUPS: &[Group] = &[Group { settings: &USUAL, flows: FLOWS }, Group { settings: &IPV4_NODE, flows: WITHOUT_ZONE }];

const FLOWS: &[Flow] = &[
    flow(&[TerminatingCluster], Pod, Tcp, "10.96.2.8:80", Kept(LEAVING_BOTH)),
    flow(&[TerminatingCluster], Node, Tcp, "10.96.2.8:80", Masqueraded(LEAVING_BOTH)),
    flow(&[TerminatingCluster], Outside, Tcp, "192.0.2.10:30208", Masqueraded(LEAVING_BOTH)),
    flow(&[TerminatingCluster], Pod, Udp, "10.96.2.8:7", Kept(LEAVING_BOTH)),
    flow(&[TerminatingCluster], Pod, Tcp, "[fd00:96::208]:80", Kept(LEAVING_BOTH)),
    flow(&[TerminatingCluster], Pod, Udp, "[fd00:96::208]:7", Kept(LEAVING_BOTH)),
    // A ready one elsewhere is no help to a policy Local, nor does the one here spoil the list of the whole cluster.
    flow(&[TerminatingLocal], Pod, Tcp, "10.96.2.9:80", Kept(LEAVING)),
    flow(&[TerminatingLocal], Outside, Tcp, "192.0.2.10:30209", Kept(LEAVING)),
    flow(&[TerminatingLocal, TerminatingCluster], Pod, Tcp, "192.0.2.10:30209", Kept(FAR)),
    flow(&[TerminatingLocal, TerminatingCluster], Node, Tcp, "192.0.2.10:30209", Masqueraded(FAR)),
    flow(&[TerminatingLocal], Outside, Udp, "192.0.2.10:30259", Kept(LEAVING)),
    flow(&[TerminatingLocal], Pod, Tcp, "[fd00:96::209]:80", Kept(LEAVING)),
    flow(&[TerminatingLocal], Outside, Tcp, "[2001:db8::10]:30209", Kept(LEAVING)),
    flow(&[TerminatingLocal], Outside, Udp, "[2001:db8::10]:30259", Kept(LEAVING)),
    flow(&[TerminatingLocal, NotReady], Pod, Tcp, "10.96.2.10:80", Kept(NEAR)),
    flow(&[TerminatingLocal, NotReady], Outside, Tcp, "192.0.2.10:30210", Kept(NEAR)),
    flow(&[TerminatingCluster, NotReady], Pod, Tcp, "192.0.2.10:30210", Kept(NEAR)),
    flow(&[TerminatingLocal, NotReady], Outside, Tcp, "[2001:db8::10]:30210", Kept(NEAR)),
    // Hints for zones.
    flow(&[ZoneHints], Pod, Tcp, "10.96.3.1:80", Kept(FAR)),
    flow(&[ZoneHints], Node, Tcp, "10.96.3.1:80", Masqueraded(FAR)),
    flow(&[ZoneHints], Outside, Tcp, "192.0.2.10:30301", Masqueraded(FAR)),
    flow(&[ZoneHints], Pod, Udp, "10.96.3.1:7", Kept(&["far"])),
    flow(&[ZoneHints], Pod, Tcp, "[fd00:96::301]:80", Kept(FAR)),
    flow(&[ZoneHints], Outside, Udp, "[2001:db8::10]:30351", Masqueraded(FAR)),
    flow(&[AllOrNothing], Pod, Tcp, "10.96.3.2:80", Kept(BOTH)),
    flow(&[AllOrNothing], Outside, Tcp, "192.0.2.10:30302", Masqueraded(BOTH)),
    flow(&[AllOrNothing], Pod, Udp, "10.96.3.2:7", Kept(BOTH)),
    flow(&[AllOrNothing], Pod, Tcp, "[fd00:96::302]:80", Kept(BOTH)),
    flow(&[AllOrNothing], Pod, Udp, "[fd00:96::302]:7", Kept(BOTH)),
    flow(&[AllOrNothing], Pod, Tcp, "10.96.3.3:80", Kept(BOTH)),
    flow(&[AllOrNothing], Pod, Tcp, "[fd00:96::303]:80", Kept(BOTH)),
    flow(&[ZoneHints, NotReady], Pod, Tcp, "10.96.3.4:80", Kept(NEAR)),
    flow(&[ZoneHints, NotReady], Pod, Tcp, "[fd00:96::304]:80", Kept(NEAR)),
    // Hints for nodes.
    flow(&[NodeHints], Pod, Tcp, "10.96.3.5:80", Kept(FAR)),
    flow(&[NodeHints], Pod, Tcp, "192.0.2.10:30305", Kept(FAR)),
    flow(&[HintsNotLocal], Outside, Tcp, "192.0.2.10:30305", Kept(NEAR)),
    flow(&[HintsNotLocal], Outside, Udp, "192.0.2.10:30355", Kept(NEAR)),
    flow(&[NodeHints], Pod, Udp, "10.96.3.5:7", Kept(FAR)),
    flow(&[NodeHints], Pod, Tcp, "[fd00:96::305]:80", Kept(FAR)),
    flow(&[NodeHints], Pod, Udp, "[fd00:96::305]:7", Kept(FAR)),
    flow(&[HintsNotLocal], Outside, Tcp, "[2001:db8::10]:30305", Kept(NEAR)),
    flow(&[NodeHints, ZoneHints], Pod, Tcp, "10.96.3.6:80", Kept(NEAR)),
    flow(&[NodeHints, ZoneHints], Pod, Tcp, "[fd00:96::306]:80", Kept(NEAR)),
    flow(&[AllOrNothing, ZoneHints], Pod, Tcp, "10.96.3.7:80", Kept(FAR)),
    flow(&[AllOrNothing, ZoneHints], Pod, Tcp, "[fd00:96::307]:80", Kept(FAR)),
    flow(&[HintsNotTerminating], Pod, Tcp, "10.96.3.8:80", Kept(LEAVING_BOTH)),
    flow(&[HintsNotTerminating], Pod, Udp, "10.96.3.8:7", Kept(LEAVING_BOTH)),
    flow(&[HintsNotTerminating], Pod, Tcp, "[fd00:96::308]:80", Kept(LEAVING_BOTH)),
    flow(&[HintsNotTerminating], Pod, Udp, "[fd00:96::308]:7", Kept(LEAVING_BOTH)),
    flow(&[HintsNotLocal], Pod, Tcp, "10.96.3.9:80", Kept(NEAR)),
    flow(&[HintsNotLocal], Outside, Tcp, "192.0.2.10:30309", Kept(NEAR)),
    flow(&[HintsNotLocal, ZoneHints], Pod, Tcp, "192.0.2.10:30309", Kept(FAR)),
    flow(&[HintsNotLocal], Pod, Udp, "[fd00:96::309]:7", Kept(NEAR)),
    // An endpoint that only the list of the node has reaches itself.
    flow(&[HintsNotLocal, Hairpin], Pod, Tcp, "10.96.3.10:80", Masqueraded(SELF)),
    flow(&[HintsNotLocal, Hairpin], Pod, Udp, "10.96.3.10:7", Masqueraded(SELF)),
    flow(&[HintsNotLocal, Hairpin], Pod, Tcp, "[fd00:96::310]:80", Masqueraded(SELF)),
    flow(&[HintsNotLocal, Hairpin], Pod, Udp, "[fd00:96::310]:7", Masqueraded(SELF)),
];

/// A node without a zone follows no hints for zones; by its name no endpoint is local to it.
const WITHOUT_ZONE: &[Flow] = &[
    flow(&[AllOrNothing], Pod, Tcp, "10.96.3.1:80", Kept(&["near", "far", "other"])),
    flow(&[AllOrNothing], Pod, Tcp, "[fd00:96::301]:80", Kept(&["near", "far", "other"])),
    flow(&[AllOrNothing], Pod, Udp, "10.96.3.1:7", Kept(&["near", "far", "other"])),
    flow(&[LocalByName, Drop], Pod, Tcp, "10.96.2.1:80", Dropped),
    flow(&[LocalByName, Drop], Outside, Udp, "192.0.2.10:30251", Dropped),
];
