//! Which endpoints a Service has: `selection.yaml`.

use super::super::Client::{FarPod, Node, Outside, Pod};
use super::super::Expect::{Dropped, Kept, Masqueraded, Refused, Shares, Untouched};
use super::super::Rule::*;
use super::super::settings::USUAL;
use super::super::{Flow, Group, flow};
use super::{BOTH, FAR, NEAR};
use waypost::model::Protocol::{Sctp, Tcp, Udp};

const WEB: &[&str] = &["near", "far", "other"];

pub const GROUPS: &[Group] = &[Group { settings: &USUAL, flows: FLOWS }];

const FLOWS: &[Flow] = &[
    flow(&[ClusterIp, PortNumbers], Pod, Tcp, "10.96.1.1:80", Shares(WEB)),
    flow(&[ClusterIp], FarPod, Tcp, "10.96.1.1:80", Kept(WEB)),
    flow(&[ClusterIp], Node, Tcp, "10.96.1.1:80", Masqueraded(WEB)),
    flow(&[ClusterIp], Outside, Tcp, "10.96.1.1:80", Masqueraded(WEB)),
    flow(&[ClusterIp, PortNumbers], Pod, Tcp, "[fd00:96::101]:80", Shares(WEB)),
    flow(&[ClusterIp], FarPod, Tcp, "[fd00:96::101]:80", Kept(WEB)),
    flow(&[ClusterIp], Node, Tcp, "[fd00:96::101]:80", Masqueraded(WEB)),
    flow(&[ClusterIp], Outside, Tcp, "[fd00:96::101]:80", Masqueraded(WEB)),
    flow(&[ClusterIp], Pod, Udp, "10.96.1.1:7", Kept(BOTH)),
    flow(&[ClusterIp], Node, Udp, "10.96.1.1:7", Masqueraded(BOTH)),
    flow(&[ClusterIp], Outside, Udp, "10.96.1.1:7", Masqueraded(BOTH)),
    flow(&[ClusterIp], Pod, Udp, "[fd00:96::101]:7", Kept(BOTH)),
    flow(&[ClusterIp], Node, Udp, "[fd00:96::101]:7", Masqueraded(BOTH)),
    flow(&[ClusterIp], Outside, Udp, "[fd00:96::101]:7", Masqueraded(BOTH)),
    // Another proxy's: to this one its address is free.
    flow(&[ProxyName], Pod, Tcp, "10.96.1.2:80", Dropped),
    flow(&[ProxyName], Pod, Tcp, "[fd00:96::102]:80", Dropped),
    flow(&[HeadlessSlice], Pod, Tcp, "10.96.1.3:80", Refused),
    flow(&[HeadlessSlice], Pod, Tcp, "[fd00:96::103]:80", Refused),
    flow(&[HeadlessSlice], Pod, Tcp, "10.96.1.4:80", Kept(NEAR)),
    flow(&[HeadlessSlice], Pod, Tcp, "[fd00:96::104]:80", Kept(NEAR)),
    flow(&[FqdnSlice], Pod, Tcp, "10.96.1.5:80", Kept(NEAR)),
    flow(&[FqdnSlice], Pod, Tcp, "[fd00:96::105]:80", Refused),
    flow(&[UnlabelledSlice], Pod, Tcp, "10.96.1.6:80", Refused),
    flow(&[UnlabelledSlice], Pod, Tcp, "[fd00:96::106]:80", Refused),
    flow(&[FirstAddress], Pod, Tcp, "10.96.1.7:80", Kept(NEAR)),
    flow(&[FirstAddress], Pod, Tcp, "[fd00:96::107]:80", Kept(NEAR)),
    flow(&[NilPort], Pod, Tcp, "10.96.1.8:80", Refused),
    flow(&[NilPort], Pod, Tcp, "[fd00:96::108]:80", Kept(FAR)),
    flow(&[PortName], Pod, Tcp, "10.96.1.9:81", Kept(NEAR)),
    flow(&[PortName], Pod, Tcp, "10.96.1.9:82", Kept(NEAR)),
    flow(&[PortName], Pod, Tcp, "10.96.1.9:83", Refused),
    flow(&[PortName], Pod, Udp, "10.96.1.9:84", Refused),
    flow(&[PortName], Pod, Tcp, "[fd00:96::109]:81", Kept(NEAR)),
    flow(&[PortName], Pod, Tcp, "[fd00:96::109]:83", Refused),
    flow(&[PortName], Pod, Udp, "[fd00:96::109]:84", Refused),
    flow(&[SameEndpoint], Pod, Tcp, "10.96.1.10:80", Shares(BOTH)),
    flow(&[SameEndpoint], Pod, Tcp, "[fd00:96::110]:80", Shares(BOTH)),
    flow(&[ReusedAddress], Pod, Tcp, "10.96.1.11:80", Kept(NEAR)),
    flow(&[ReusedAddress], Pod, Tcp, "[fd00:96::111]:80", Kept(NEAR)),
    flow(&[NilConditions], Pod, Tcp, "10.96.1.12:80", Kept(BOTH)),
    flow(&[NilConditions], Pod, Tcp, "[fd00:96::112]:80", Kept(BOTH)),
    flow(&[NotReady, Reject], Pod, Tcp, "10.96.1.13:80", Refused),
    flow(&[NotReady, Reject], Pod, Tcp, "[fd00:96::113]:80", Refused),
    flow(&[ReadyVerbatim], Pod, Tcp, "10.96.1.14:80", Kept(BOTH)),
    flow(&[ReadyVerbatim], Pod, Tcp, "[fd00:96::114]:80", Kept(BOTH)),
    flow(&[LocalByName], Pod, Tcp, "10.96.1.15:80", Kept(&["far", "other"])),
    flow(&[LocalByName], Pod, Tcp, "[fd00:96::115]:80", Kept(&["far", "other"])),
    flow(&[Families], Pod, Tcp, "10.96.1.16:80", Kept(BOTH)),
    flow(&[Families], Outside, Tcp, "192.0.2.10:30116", Masqueraded(BOTH)),
    flow(&[Families], Outside, Tcp, "[2001:db8::10]:30116", Untouched),
    flow(&[Families], Pod, Tcp, "[fd00:96::116]:80", Dropped),
    flow(&[Families], Pod, Tcp, "[fd00:96::117]:80", Kept(BOTH)),
    flow(&[Families], Outside, Tcp, "[2001:db8::10]:30117", Masqueraded(BOTH)),
    flow(&[Families], Outside, Tcp, "192.0.2.10:30117", Untouched),
    flow(&[Protocols], Pod, Tcp, "10.96.1.18:53", Kept(NEAR)),
    flow(&[Protocols], Pod, Udp, "10.96.1.18:53", Kept(FAR)),
    flow(&[Protocols], Pod, Tcp, "[fd00:96::118]:53", Kept(NEAR)),
    flow(&[Protocols], Pod, Udp, "[fd00:96::118]:53", Kept(FAR)),
    flow(&[Protocols], Outside, Tcp, "192.0.2.10:30118", Masqueraded(NEAR)),
    flow(&[Protocols], Outside, Udp, "192.0.2.10:30118", Masqueraded(FAR)),
    flow(&[NotProxied], Pod, Tcp, "198.51.101.19:80", Untouched),
    flow(&[NotProxied], Pod, Tcp, "[2001:db8:51:1::19]:80", Untouched),
    flow(&[NotProxied], Pod, Tcp, "198.51.101.20:80", Untouched),
    flow(&[NotProxied], Outside, Tcp, "[2001:db8:51:1::20]:80", Untouched),
    flow(&[PortNumbers], Pod, Tcp, "10.96.1.21:80", Shares(&["near", "near", "far"])),
    flow(&[PortNumbers], Pod, Tcp, "[fd00:96::121]:80", Shares(&["near", "near", "far"])),
    flow(&[ClusterIp], Pod, Sctp, "10.96.1.22:80", Kept(BOTH)),
    flow(&[NodePort], Outside, Sctp, "[2001:db8::10]:30122", Masqueraded(BOTH)),
];
