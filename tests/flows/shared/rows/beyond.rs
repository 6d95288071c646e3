//! What kube-proxy does not have: `beyond.yaml` of both folders.

use super::super::Client::{FarPod, Node, Outside, Pod, Stranger};
use super::super::Expect::{Dropped, Hashed, InTurn, Kept, Masqueraded, Refused, Shares, Untouched};
use super::super::Rule::*;
use super::super::settings::{IPV4_NODE, LATER, USUAL};
use super::super::{Flow, Group, flow};
use super::{BOTH, NEAR};
use waypost::model::Protocol::{Tcp, Udp};

const ALL: &[&str] = &["near", "beside", "far"];
const HERE: &[&str] = &["near", "beside"];
const WEIGHTED: &[&str] = &["near", "near", "near", "far"];
/// Two have their whole share, the third begins with a tenth of it.
const SLOW: &[&str] = &[
    "near", "near", "near", "near", "near", "near", "near", "near", "near", "near", "beside", "beside", "beside", "beside",
    "beside", "beside", "beside", "beside", "beside", "beside", "far",
];

pub const GROUPS: &[Group] = &[
    Group { settings: &USUAL, flows: FLOWS },
    Group { settings: &IPV4_NODE, flows: NOT_EXPOSED },
    Group { settings: &LATER, flows: WHILE_IT_RUNS },
];

const FLOWS: &[Flow] = &[
    // Turns. Each row has them to itself: the families, protocols and lists of endpoints count apart.
    flow(&[RoundRobin], Pod, Tcp, "10.96.7.1:80", InTurn(ALL, &["192.0.2.10:30701", "198.51.107.1:80", "198.51.107.101:80"]))
        .stock("proxy-balance", Kept(ALL)),
    flow(&[RoundRobin], Pod, Udp, "10.96.7.1:7", InTurn(ALL, &["192.0.2.10:30751"])).stock("proxy-balance", Kept(ALL)),
    flow(&[RoundRobin, ExternalLocal], Outside, Tcp, "192.0.2.10:30701", InTurn(HERE, &["198.51.107.1:80"]))
        .stock("proxy-balance", Kept(HERE)),
    flow(&[RoundRobin, ExternalLocal], Outside, Udp, "198.51.107.101:7", InTurn(HERE, &["192.0.2.10:30751"]))
        .stock("proxy-balance", Kept(HERE)),
    flow(&[RoundRobin], Pod, Tcp, "[fd00:96::701]:80", InTurn(ALL, &["[2001:db8::10]:30701", "[2001:db8:51:7::1]:80"]))
        .stock("proxy-balance", Kept(ALL)),
    flow(&[RoundRobin], Pod, Udp, "[fd00:96::701]:7", InTurn(ALL, &["[2001:db8:51:7::1]:7"])).stock("proxy-balance", Kept(ALL)),
    flow(&[RoundRobin, ExternalLocal], Outside, Tcp, "[2001:db8::10]:30701", InTurn(HERE, &["[2001:db8:51:7::101]:80"]))
        .stock("proxy-balance", Kept(HERE)),
    // Weights.
    flow(&[Weights], Pod, Tcp, "10.96.7.2:80", Shares(WEIGHTED)).stock("proxy-weight", Shares(BOTH)),
    flow(&[Weights], Pod, Udp, "10.96.7.2:7", Shares(WEIGHTED)).stock("proxy-weight", Shares(BOTH)),
    flow(&[Weights], Pod, Tcp, "[fd00:96::702]:80", Shares(WEIGHTED)).stock("proxy-weight", Shares(BOTH)),
    flow(&[Weights], Pod, Udp, "[fd00:96::702]:7", Shares(WEIGHTED)).stock("proxy-weight", Shares(BOTH)),
    flow(&[Weights, RoundRobin], Pod, Tcp, "10.96.7.3:80", InTurn(WEIGHTED, &[])).stock("proxy-weight", Shares(BOTH)),
    flow(&[Weights, RoundRobin], Pod, Udp, "[fd00:96::703]:7", InTurn(WEIGHTED, &[])).stock("proxy-weight", Shares(BOTH)),
    // An allowed list, under every kind of address.
    flow(&[AllowedSources], Outside, Tcp, "10.96.7.5:80", Masqueraded(BOTH)),
    flow(&[AllowedSources], Pod, Tcp, "10.96.7.5:80", Kept(BOTH)),
    flow(&[AllowedSources], Pod, Udp, "10.96.7.5:7", Kept(BOTH)),
    flow(&[AllowedSources], Stranger, Tcp, "10.96.7.5:80", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources], FarPod, Tcp, "10.96.7.5:80", Dropped).stock("proxy-sources", Kept(BOTH)),
    flow(&[AllowedSources, HookOutput], Node, Tcp, "10.96.7.5:80", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources], Outside, Tcp, "192.0.2.10:30705", Masqueraded(BOTH)),
    flow(&[AllowedSources], Stranger, Tcp, "192.0.2.10:30705", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources], Stranger, Udp, "192.0.2.10:30755", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources, HookOutput], Node, Tcp, "192.0.2.10:30705", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources], Outside, Tcp, "198.51.107.5:80", Masqueraded(BOTH)),
    flow(&[AllowedSources], Stranger, Tcp, "198.51.107.5:80", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources], Outside, Udp, "198.51.107.105:7", Masqueraded(BOTH)),
    flow(&[AllowedSources], Stranger, Udp, "198.51.107.105:7", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources], Outside, Tcp, "[fd00:96::705]:80", Masqueraded(BOTH)),
    flow(&[AllowedSources], Pod, Udp, "[fd00:96::705]:7", Kept(BOTH)),
    flow(&[AllowedSources], FarPod, Udp, "[fd00:96::705]:7", Dropped).stock("proxy-sources", Kept(BOTH)),
    flow(&[AllowedSources], Stranger, Tcp, "[2001:db8::10]:30705", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources], Stranger, Tcp, "[2001:db8:51:7::5]:80", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources], Stranger, Udp, "[2001:db8:51:7::105]:7", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    // A denied list.
    flow(&[DeniedSources], Outside, Tcp, "10.96.7.6:80", Masqueraded(BOTH)),
    flow(&[DeniedSources], FarPod, Udp, "10.96.7.6:7", Kept(BOTH)),
    flow(&[DeniedSources], Node, Tcp, "192.0.2.10:30706", Masqueraded(BOTH)),
    flow(&[DeniedSources], Pod, Tcp, "10.96.7.6:80", Dropped).stock("proxy-sources", Kept(BOTH)),
    flow(&[DeniedSources], Pod, Udp, "10.96.7.6:7", Dropped).stock("proxy-sources", Kept(BOTH)),
    flow(&[DeniedSources], Stranger, Tcp, "192.0.2.10:30706", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[DeniedSources], Stranger, Tcp, "198.51.107.6:80", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[DeniedSources], Stranger, Udp, "198.51.107.106:7", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[DeniedSources], Outside, Udp, "[2001:db8::10]:30756", Masqueraded(BOTH)),
    flow(&[DeniedSources], Pod, Tcp, "[fd00:96::706]:80", Dropped).stock("proxy-sources", Kept(BOTH)),
    flow(&[DeniedSources], Stranger, Udp, "[2001:db8::10]:30756", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[DeniedSources], Stranger, Tcp, "[2001:db8:51:7::6]:80", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    // Both lists; IPv6 has no entry in the allowed one.
    flow(&[AllowedSources, DeniedSources], Outside, Tcp, "198.51.107.7:80", Masqueraded(BOTH)),
    flow(&[AllowedSources, DeniedSources], Stranger, Tcp, "198.51.107.7:80", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources, DeniedSources], Pod, Udp, "10.96.7.7:7", Dropped).stock("proxy-sources", Kept(BOTH)),
    flow(&[AllowedSources, ClosedFamily], Outside, Tcp, "[fd00:96::707]:80", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources, ClosedFamily], Pod, Udp, "[fd00:96::707]:7", Dropped).stock("proxy-sources", Kept(BOTH)),
    // With the ranges of the load balancer's address: there both must let one in.
    flow(&[AllowedSources, SourceRanges], Outside, Tcp, "198.51.107.8:80", Masqueraded(BOTH)),
    flow(&[AllowedSources, SourceRanges], Stranger, Tcp, "198.51.107.8:80", Dropped).stock("proxy-sources", Masqueraded(BOTH)),
    flow(&[AllowedSources, SourceRanges], Pod, Tcp, "198.51.107.8:80", Dropped),
    flow(&[AllowedSources, RangesOnVips], Pod, Tcp, "192.0.2.10:30708", Masqueraded(BOTH)),
    flow(&[AllowedSources, RangesOnVips], Pod, Tcp, "10.96.7.8:80", Kept(BOTH)),
    flow(&[AllowedSources, SourceRanges], Outside, Udp, "[2001:db8:51:7::8]:7", Masqueraded(BOTH)),
    flow(&[AllowedSources, SourceRanges], Stranger, Udp, "[2001:db8:51:7::8]:7", Dropped)
        .stock("proxy-sources", Masqueraded(BOTH)),
    // Before the refusals.
    flow(&[AllowedSources, Reject], Outside, Tcp, "10.96.7.9:80", Refused),
    flow(&[AllowedSources, Reject], Stranger, Tcp, "10.96.7.9:80", Dropped).stock("proxy-sources", Refused),
    flow(&[AllowedSources, Reject], Stranger, Udp, "[2001:db8::10]:30759", Dropped).stock("proxy-sources", Refused),
    // Exposed here, and elsewhere only.
    flow(&[Exposure], Outside, Tcp, "192.0.2.10:30710", Kept(NEAR)),
    flow(&[Exposure], Outside, Udp, "198.51.107.10:7", Kept(NEAR)),
    flow(&[Exposure], Outside, Tcp, "[2001:db8:51:7::110]:80", Kept(NEAR)),
    flow(&[Exposure], Outside, Tcp, "192.0.2.10:30711", Untouched).stock("proxy-exposure", Masqueraded(BOTH)),
    flow(&[Exposure], Node, Tcp, "192.0.2.10:30711", Untouched).stock("proxy-exposure", Masqueraded(BOTH)),
    flow(&[Exposure], Outside, Udp, "192.0.2.10:30761", Untouched).stock("proxy-exposure", Masqueraded(BOTH)),
    flow(&[Exposure], Outside, Tcp, "198.51.107.11:80", Untouched).stock("proxy-exposure", Masqueraded(BOTH)),
    flow(&[Exposure], Pod, Tcp, "198.51.107.111:80", Untouched).stock("proxy-exposure", Masqueraded(BOTH)),
    flow(&[Exposure, ClusterIp], Pod, Tcp, "10.96.7.11:80", Kept(BOTH)),
    flow(&[Exposure, ClusterIp], Outside, Udp, "[fd00:96::711]:7", Masqueraded(BOTH)),
    flow(&[Exposure], Outside, Tcp, "[2001:db8::10]:30711", Untouched).stock("proxy-exposure", Masqueraded(BOTH)),
    flow(&[Exposure], Pod, Udp, "[2001:db8:51:7::11]:7", Untouched).stock("proxy-exposure", Masqueraded(BOTH)),
];

/// The same selector on a node in no zone.
const NOT_EXPOSED: &[Flow] = &[
    flow(&[Exposure], Outside, Tcp, "192.0.2.10:30710", Untouched).stock("proxy-exposure", Dropped),
    flow(&[Exposure], Pod, Tcp, "198.51.107.10:80", Untouched).stock("proxy-exposure", Kept(BOTH)),
    flow(&[Exposure], Pod, Udp, "[2001:db8:51:7::110]:7", Untouched).stock("proxy-exposure", Kept(BOTH)),
    flow(&[Exposure, ClusterIp], Pod, Tcp, "10.96.7.10:80", Kept(BOTH)),
];

/// The folder `later`.
const WHILE_IT_RUNS: &[Flow] = &[
    flow(&[SlowStart], Pod, Tcp, "10.96.7.4:80", Shares(SLOW)).stock("proxy-slow-start", Shares(ALL)),
    flow(&[SlowStart], Pod, Udp, "10.96.7.4:7", Shares(SLOW)).stock("proxy-slow-start", Shares(ALL)),
    flow(&[SlowStart], Pod, Tcp, "[fd00:96::704]:80", Shares(SLOW)).stock("proxy-slow-start", Shares(ALL)),
    flow(&[SlowStart], Pod, Udp, "[fd00:96::704]:7", Shares(SLOW)).stock("proxy-slow-start", Shares(ALL)),
    // Every node and every agent must send these clients to these pods: what changes a row here moves everybody's clients at an upgrade.
    flow(&[SourceHash], Pod, Tcp, "10.96.7.20:80", Hashed("far", &["192.0.2.10:30720", "198.51.107.120:80"]))
        .stock("proxy-balance", Kept(ALL)),
    flow(&[SourceHash], FarPod, Tcp, "10.96.7.20:80", Hashed("far", &["192.0.2.10:30720"])).stock("proxy-balance", Kept(ALL)),
    flow(&[SourceHash], Node, Tcp, "10.96.7.20:80", Hashed("far", &[])).stock("proxy-balance", Masqueraded(ALL)),
    flow(&[SourceHash], Outside, Tcp, "10.96.7.20:80", Hashed("far", &[])).stock("proxy-balance", Masqueraded(ALL)),
    flow(&[SourceHash, ExternalLocal], Outside, Tcp, "192.0.2.10:30720", Hashed("near", &["198.51.107.120:80"]))
        .stock("proxy-balance", Kept(HERE)),
    flow(&[SourceHash], Pod, Udp, "10.96.7.20:7", Hashed("far", &["192.0.2.10:30770"])).stock("proxy-balance", Kept(ALL)),
    flow(&[SourceHash], Pod, Tcp, "[fd00:96::720]:80", Hashed("near", &["[2001:db8::10]:30720"]))
        .stock("proxy-balance", Kept(ALL)),
    flow(&[SourceHash], Stranger, Tcp, "[fd00:96::720]:80", Hashed("beside", &[])).stock("proxy-balance", Masqueraded(ALL)),
    flow(&[SourceHash, ExternalLocal], Outside, Udp, "[2001:db8::10]:30770", Hashed("near", &["[2001:db8:51:7::120]:7"]))
        .stock("proxy-balance", Kept(HERE)),
];
