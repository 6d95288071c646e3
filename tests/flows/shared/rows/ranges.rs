//! Source ranges: `ranges.yaml`.

use super::super::Client::{FarPod, Node, Outside, Pod, Stranger};
use super::super::Expect::{Dropped, Kept, Masqueraded, Refused};
use super::super::Rule::*;
use super::super::settings::USUAL;
use super::super::{Flow, Group, flow};
use super::{BOTH, NEAR};
use waypost::model::Protocol::{Tcp, Udp};

pub const GROUPS: &[Group] = &[Group { settings: &USUAL, flows: FLOWS }];

const FLOWS: &[Flow] = &[
    flow(&[SourceRanges], Outside, Tcp, "198.51.105.1:80", Masqueraded(BOTH)),
    flow(&[SourceRanges], Stranger, Tcp, "198.51.105.1:80", Dropped),
    flow(&[SourceRanges], Pod, Tcp, "198.51.105.1:80", Masqueraded(BOTH)),
    flow(&[SourceRanges], FarPod, Tcp, "198.51.105.1:80", Dropped),
    flow(&[SourceRanges, HookOutput], Node, Tcp, "198.51.105.1:80", Dropped),
    flow(&[SourceRanges], Outside, Udp, "198.51.105.1:7", Masqueraded(BOTH)),
    flow(&[SourceRanges], Stranger, Udp, "198.51.105.1:7", Dropped),
    flow(&[SourceRanges], Outside, Tcp, "[2001:db8:51:5::1]:80", Masqueraded(BOTH)),
    flow(&[SourceRanges], Stranger, Tcp, "[2001:db8:51:5::1]:80", Dropped),
    flow(&[SourceRanges], Pod, Tcp, "[2001:db8:51:5::1]:80", Masqueraded(BOTH)),
    flow(&[SourceRanges], FarPod, Tcp, "[2001:db8:51:5::1]:80", Dropped),
    flow(&[SourceRanges], Stranger, Udp, "[2001:db8:51:5::1]:7", Dropped),
    // For load balancer addresses only.
    flow(&[RangesOnVips], Stranger, Tcp, "10.96.5.1:80", Masqueraded(BOTH)),
    flow(&[RangesOnVips], Stranger, Tcp, "192.0.2.10:30501", Masqueraded(BOTH)),
    flow(&[RangesOnVips], Stranger, Udp, "192.0.2.10:30551", Masqueraded(BOTH)),
    flow(&[RangesOnVips], Stranger, Tcp, "198.51.105.101:80", Masqueraded(BOTH)),
    flow(&[RangesOnVips], FarPod, Tcp, "10.96.5.1:80", Kept(BOTH)),
    flow(&[RangesOnVips], Stranger, Udp, "[2001:db8::10]:30551", Masqueraded(BOTH)),
    flow(&[RangesOnVips], Stranger, Tcp, "[2001:db8:51:5::101]:80", Masqueraded(BOTH)),
    // /0, and a family without ranges.
    flow(&[OpenRange], Stranger, Tcp, "198.51.105.2:80", Masqueraded(BOTH)),
    flow(&[OpenRange], Stranger, Udp, "198.51.105.2:7", Masqueraded(BOTH)),
    flow(&[OpenRange], Node, Tcp, "198.51.105.2:80", Masqueraded(BOTH)),
    flow(&[OpenRange, ClosedFamily], Stranger, Tcp, "[2001:db8:51:5::2]:80", Masqueraded(BOTH)),
    flow(&[ClosedFamily], Outside, Tcp, "198.51.105.3:80", Masqueraded(BOTH)),
    flow(&[ClosedFamily], Stranger, Tcp, "198.51.105.3:80", Dropped),
    flow(&[ClosedFamily], Stranger, Udp, "198.51.105.3:7", Dropped),
    flow(&[ClosedFamily], Outside, Tcp, "[2001:db8:51:5::3]:80", Dropped).stock("proxy-closed-family", Masqueraded(BOTH)),
    flow(&[ClosedFamily], Pod, Udp, "[2001:db8:51:5::3]:7", Dropped).stock("proxy-closed-family", Masqueraded(BOTH)),
    flow(&[ClosedFamily, HookOutput], Node, Tcp, "[2001:db8:51:5::3]:80", Dropped)
        .stock("proxy-closed-family", Masqueraded(BOTH)),
    flow(&[ClosedFamily, RangesOnVips], Stranger, Tcp, "[2001:db8::10]:30503", Masqueraded(BOTH)),
    flow(&[OpenRange], Outside, Tcp, "198.51.105.4:80", Masqueraded(BOTH)),
    flow(&[OpenRange], Stranger, Tcp, "198.51.105.4:80", Dropped),
    flow(&[OpenRange], Stranger, Tcp, "[2001:db8:51:5::4]:80", Masqueraded(BOTH)),
    flow(&[OpenRange], Stranger, Udp, "[2001:db8:51:5::4]:7", Masqueraded(BOTH)),
    // The node, with the load balancer's address as its own.
    flow(&[VipAsSource], Node, Tcp, "198.51.105.50:80", Masqueraded(BOTH)),
    flow(&[VipAsSource], Node, Udp, "198.51.105.50:7", Masqueraded(BOTH)),
    flow(&[VipAsSource], Node, Tcp, "[2001:db8:51:5::50]:80", Masqueraded(BOTH)),
    flow(&[VipAsSource], Stranger, Tcp, "198.51.105.50:80", Dropped),
    flow(&[VipAsSource], Node, Tcp, "198.51.105.60:80", Dropped),
    flow(&[VipAsSource], Node, Tcp, "[2001:db8:51:5::60]:80", Dropped),
    flow(&[VipAsSource], Node, Udp, "[2001:db8:51:5::60]:7", Dropped),
    flow(&[SourceRanges], Outside, Tcp, "198.51.105.60:80", Masqueraded(BOTH)),
    // With the policy Local.
    flow(&[SourceRanges, ExternalLocal], Outside, Tcp, "198.51.105.7:80", Kept(NEAR)),
    flow(&[SourceRanges, ExternalLocal], Stranger, Tcp, "198.51.105.7:80", Dropped),
    flow(&[SourceRanges, ShortCircuitPod], Pod, Tcp, "198.51.105.7:80", Kept(BOTH)),
    flow(&[SourceRanges, ShortCircuitPod], FarPod, Tcp, "198.51.105.7:80", Kept(BOTH)),
    flow(&[SourceRanges, ShortCircuitNode], Node, Tcp, "198.51.105.7:80", Masqueraded(BOTH)),
    flow(&[RangesOnVips, ExternalLocal], Stranger, Tcp, "192.0.2.10:30507", Kept(NEAR)),
    flow(&[SourceRanges, ExternalLocal], Outside, Tcp, "[2001:db8:51:5::7]:80", Kept(NEAR)),
    flow(&[SourceRanges, ShortCircuitPod], Pod, Tcp, "[2001:db8:51:5::7]:80", Dropped),
    flow(&[MergedRanges], Outside, Tcp, "198.51.105.9:80", Masqueraded(BOTH)),
    flow(&[MergedRanges], Stranger, Tcp, "198.51.105.9:80", Dropped),
    flow(&[MergedRanges], Stranger, Udp, "198.51.105.9:7", Dropped),
    flow(&[MergedRanges], Outside, Tcp, "[2001:db8:51:5::9]:80", Masqueraded(BOTH)),
    flow(&[MergedRanges], Outside, Udp, "[2001:db8:51:5::9]:7", Masqueraded(BOTH)),
    flow(&[MergedRanges], Stranger, Tcp, "[2001:db8:51:5::9]:80", Dropped),
    // Before the refusals.
    flow(&[RangesFirst, Reject], Outside, Tcp, "198.51.105.8:80", Refused),
    flow(&[RangesFirst, Reject], Outside, Udp, "198.51.105.8:7", Refused),
    flow(&[RangesFirst, Reject], Stranger, Tcp, "198.51.105.8:80", Dropped),
    flow(&[RangesFirst, Reject], Outside, Tcp, "[2001:db8:51:5::8]:80", Refused),
    flow(&[RangesFirst, Reject], Stranger, Tcp, "[2001:db8:51:5::8]:80", Dropped),
    flow(&[RangesFirst, Reject], Stranger, Udp, "[2001:db8:51:5::8]:7", Dropped),
];
