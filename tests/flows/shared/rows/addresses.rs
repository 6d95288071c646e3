//! Under which addresses a Service is reached: `addresses.yaml`.

use super::super::Client::{FarPod, Node, Outside, Pod, Stranger};
use super::super::Expect::{Either, HandedOn, Kept, Masqueraded, Refused, Untouched};
use super::super::Rule::*;
use super::super::settings::{EVERYWHERE, IPV4_NODE, LOCALHOST, NO_EXTERNAL_IPS, ONE_NETWORK, USUAL};
use super::super::{Flow, Group, flow};
use super::{BOTH, FAR, NEAR};
use waypost::model::Protocol::{Tcp, Udp};

const WEB: &[&str] = &["near", "far", "other"];

pub const GROUPS: &[Group] = &[
    Group { settings: &USUAL, flows: FLOWS },
    Group { settings: &EVERYWHERE, flows: ON_EVERY_ADDRESS },
    Group { settings: &ONE_NETWORK, flows: IN_ONE_NETWORK },
    Group { settings: &LOCALHOST, flows: ON_LOCALHOST },
    Group { settings: &IPV4_NODE, flows: ON_AN_IPV4_NODE },
    Group { settings: &NO_EXTERNAL_IPS, flows: WITHOUT_EXTERNAL_IPS },
];

const FLOWS: &[Flow] = &[
    // NodePorts with the policy Cluster.
    flow(&[NodePort, NodePortPrimary], Pod, Tcp, "192.0.2.10:30101", Masqueraded(WEB)),
    flow(&[NodePort, NodePortPrimary], FarPod, Tcp, "192.0.2.10:30101", Masqueraded(WEB)),
    flow(&[NodePort, NodePortPrimary], Node, Tcp, "192.0.2.10:30101", Masqueraded(WEB)),
    flow(&[NodePort, NodePortPrimary], Outside, Tcp, "192.0.2.10:30101", Masqueraded(WEB)),
    flow(&[NodePort, NodePortPrimary], Outside, Udp, "192.0.2.10:30102", Masqueraded(BOTH)),
    flow(&[NodePort, NodePortPrimary], Pod, Tcp, "[2001:db8::10]:30101", Masqueraded(WEB)),
    flow(&[NodePort, NodePortPrimary], Node, Tcp, "[2001:db8::10]:30101", Masqueraded(WEB)),
    flow(&[NodePort, NodePortPrimary], Outside, Tcp, "[2001:db8::10]:30101", Masqueraded(WEB)),
    flow(&[NodePort, NodePortPrimary], Outside, Udp, "[2001:db8::10]:30102", Masqueraded(BOTH)),
    flow(&[NodePortPrimary], Outside, Tcp, "198.18.0.10:30101", Untouched),
    flow(&[NodePortPrimary], Outside, Udp, "198.18.0.10:30102", Untouched),
    flow(&[NodePortPrimary], Outside, Tcp, "[2001:db8:18::10]:30101", Untouched),
    flow(&[NodePortPrimary], Node, Tcp, "127.0.0.1:30101", Untouched),
    // externalIPs.
    flow(&[ExternalIp], Pod, Tcp, "198.51.101.1:80", Masqueraded(WEB)),
    flow(&[ExternalIp], Node, Tcp, "198.51.101.1:80", Masqueraded(WEB)),
    flow(&[ExternalIp], Outside, Tcp, "198.51.101.1:80", Masqueraded(WEB)),
    flow(&[ExternalIp], Outside, Udp, "198.51.101.1:7", Masqueraded(BOTH)),
    flow(&[ExternalIp], Pod, Tcp, "[2001:db8:51:1::1]:80", Masqueraded(WEB)),
    flow(&[ExternalIp], Outside, Tcp, "[2001:db8:51:1::1]:80", Masqueraded(WEB)),
    flow(&[ExternalIp], Outside, Udp, "[2001:db8:51:1::1]:7", Masqueraded(BOTH)),
    flow(&[ExternalIp], Outside, Tcp, "192.0.2.10:4080", Masqueraded(BOTH)),
    flow(&[ExternalIp], Node, Tcp, "192.0.2.10:4080", Masqueraded(BOTH)),
    flow(&[ExternalIp], Pod, Tcp, "[2001:db8::10]:4080", Masqueraded(BOTH)),
    flow(&[VipPort], Outside, Tcp, "198.51.101.1:81", Untouched),
    flow(&[VipPort], Pod, Udp, "[2001:db8:51:1::1]:81", Untouched),
    // Load balancers.
    flow(&[LoadBalancer], Pod, Tcp, "198.51.104.1:80", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Node, Tcp, "198.51.104.1:80", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Outside, Tcp, "198.51.104.1:80", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Stranger, Tcp, "198.51.104.1:80", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Outside, Udp, "198.51.104.1:7", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Pod, Tcp, "[2001:db8:51:4::1]:80", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Outside, Tcp, "[2001:db8:51:4::1]:80", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Outside, Udp, "[2001:db8:51:4::1]:7", Masqueraded(BOTH)),
    flow(&[IpMode], Outside, Tcp, "198.51.104.2:80", Masqueraded(BOTH)),
    flow(&[IpMode], Outside, Tcp, "198.51.104.3:80", Untouched),
    flow(&[IpMode], Pod, Udp, "198.51.104.3:7", Untouched),
    flow(&[IpMode], Outside, Tcp, "[2001:db8:51:4::3]:80", Untouched),
    flow(&[IpMode], Outside, Udp, "[2001:db8:51:4::3]:7", Untouched),
    flow(&[LoadBalancer, NodePort], Outside, Tcp, "192.0.2.10:30401", Masqueraded(BOTH)),
    flow(&[NoNodePort], Outside, Tcp, "198.51.104.20:80", Masqueraded(BOTH)),
    flow(&[NoNodePort], Outside, Udp, "198.51.104.20:7", Masqueraded(BOTH)),
    flow(&[NoNodePort], Outside, Tcp, "[2001:db8:51:4::20]:80", Masqueraded(BOTH)),
    flow(&[NoNodePort], Outside, Udp, "[2001:db8:51:4::20]:7", Masqueraded(BOTH)),
    flow(&[NoNodePort], Pod, Tcp, "10.96.4.2:80", Kept(BOTH)),
    flow(&[VipPort], Outside, Tcp, "198.51.104.1:81", Untouched),
    flow(&[VipPort], Pod, Tcp, "[2001:db8:51:4::1]:81", Untouched),
    // A load balancer's address on the node itself.
    flow(&[LoadBalancer], Outside, Tcp, "198.51.104.50:80", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Pod, Tcp, "198.51.104.50:80", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Node, Tcp, "198.51.104.50:80", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Outside, Udp, "198.51.104.50:7", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Outside, Tcp, "[2001:db8:51:4::50]:80", Masqueraded(BOTH)),
    flow(&[LoadBalancer], Node, Tcp, "[2001:db8:51:4::50]:80", Masqueraded(BOTH)),
    flow(&[VipPort], Outside, Tcp, "198.51.104.50:81", Untouched),
    flow(&[NodePortPrimary], Outside, Tcp, "198.51.104.50:30101", Untouched),
    // Two Services with one address and port.
    flow(&[Conflict], Outside, Tcp, "198.51.104.70:80", Masqueraded(NEAR)).stock("proxy-conflict", Either(BOTH)),
    flow(&[Conflict], Outside, Udp, "198.51.104.70:7", Masqueraded(NEAR)).stock("proxy-conflict", Either(BOTH)),
    flow(&[Conflict], Pod, Tcp, "[2001:db8:51:4::70]:80", Masqueraded(NEAR)).stock("proxy-conflict", Either(BOTH)),
    flow(&[Conflict], Pod, Udp, "[2001:db8:51:4::70]:7", Masqueraded(NEAR)).stock("proxy-conflict", Either(BOTH)),
    flow(&[Conflict], Outside, Tcp, "198.51.104.71:80", Masqueraded(FAR)).stock("proxy-conflict", Either(BOTH)),
    flow(&[Conflict], Pod, Tcp, "10.96.4.5:80", Kept(NEAR)).stock("proxy-conflict", Either(BOTH)),
    flow(&[Conflict, NodePort], Outside, Tcp, "192.0.2.10:30405", Masqueraded(FAR)),
    flow(&[Conflict, NodePort], Outside, Tcp, "[2001:db8::10]:30405", Masqueraded(FAR)),
    // The loser's other addresses are not touched by that.
    flow(&[Conflict], Pod, Tcp, "10.96.4.6:80", Kept(FAR)),
    flow(&[Conflict], Pod, Tcp, "[fd00:96::406]:80", Kept(FAR)),
];

const WITHOUT_EXTERNAL_IPS: &[Flow] = &[
    flow(&[NoExternalIps], Outside, Tcp, "198.51.101.1:80", Untouched),
    flow(&[NoExternalIps], Pod, Udp, "198.51.101.1:7", Untouched),
    flow(&[NoExternalIps], Outside, Tcp, "[2001:db8:51:1::1]:80", Untouched),
    flow(&[NoExternalIps], Outside, Udp, "[2001:db8:51:1::1]:7", Untouched),
    flow(&[NoExternalIps, Reject], Outside, Tcp, "198.51.102.106:80", Untouched),
    flow(&[NoExternalIps, ClusterIp], Pod, Tcp, "10.96.1.1:80", Kept(WEB)),
    flow(&[NoExternalIps, NodePort], Outside, Tcp, "[2001:db8::10]:30101", Masqueraded(WEB)),
];

const ON_EVERY_ADDRESS: &[Flow] = &[
    flow(&[NodePortEverywhere], Outside, Tcp, "192.0.2.10:30101", Masqueraded(WEB)),
    flow(&[NodePortEverywhere], Outside, Tcp, "198.18.0.10:30101", Masqueraded(WEB)),
    flow(&[NodePortEverywhere], Pod, Tcp, "198.18.0.10:30101", Masqueraded(WEB)),
    flow(&[NodePortEverywhere], Node, Tcp, "198.18.0.10:30101", Masqueraded(WEB)),
    flow(&[NodePortEverywhere], Outside, Udp, "198.18.0.10:30102", Masqueraded(BOTH)),
    flow(&[NodePortEverywhere], Outside, Tcp, "[2001:db8:18::10]:30101", Masqueraded(WEB)),
    flow(&[NodePortEverywhere], Outside, Udp, "[2001:db8:18::10]:30102", Masqueraded(BOTH)),
    flow(&[NodePortEverywhere], Outside, Tcp, "198.51.104.50:30101", Masqueraded(WEB)),
    flow(&[NodePortEverywhere], Outside, Tcp, "10.96.1.1:30101", Refused),
    flow(&[NodePortEverywhere], Node, Tcp, "127.0.0.1:30101", Untouched),
    flow(&[NodePortEverywhere], Node, Tcp, "[::1]:30101", Untouched),
    flow(&[NodePortEverywhere, Reject], Outside, Tcp, "198.18.0.10:30206", Refused),
    flow(&[NodePortEverywhere, Reject], Outside, Udp, "[2001:db8:18::10]:30256", Refused),
    flow(&[NodePortEverywhere, ExternalLocal], Outside, Tcp, "198.18.0.10:30204", Kept(NEAR)),
];

const IN_ONE_NETWORK: &[Flow] = &[
    flow(&[NodePortNetworks], Outside, Tcp, "198.18.0.10:30101", Masqueraded(WEB)),
    flow(&[NodePortNetworks], Outside, Udp, "198.18.0.10:30102", Masqueraded(BOTH)),
    flow(&[NodePortNetworks], Node, Tcp, "198.18.0.10:30101", Masqueraded(WEB)),
    flow(&[NodePortNetworks], Outside, Tcp, "192.0.2.10:30101", Untouched),
    flow(&[NodePortNetworks], Pod, Tcp, "192.0.2.10:30101", Untouched),
    flow(&[NodePortNetworks], Outside, Tcp, "[2001:db8::10]:30101", Untouched).stock("proxy-nodeport-family", Masqueraded(WEB)),
    flow(&[NodePortNetworks], Outside, Udp, "[2001:db8:18::10]:30102", Untouched)
        .stock("proxy-nodeport-family", Masqueraded(BOTH)),
];

const ON_LOCALHOST: &[Flow] = &[
    flow(&[NodePortLocalhost], Node, Tcp, "127.0.0.1:30101", HandedOn(WEB)).stock("proxy-nodeport-localhost", Untouched),
    flow(&[NodePortLocalhost], Node, Tcp, "[::1]:30101", HandedOn(WEB)).stock("proxy-nodeport-localhost", Untouched),
    flow(&[NodePortLocalhost], Node, Udp, "127.0.0.1:30102", Untouched),
    flow(&[NodePortLocalhost], Node, Udp, "[::1]:30102", Untouched),
    flow(&[NodePortLocalhost, InternalLocal, PolicyScope], Node, Tcp, "127.0.0.1:30203", HandedOn(BOTH))
        .stock("proxy-nodeport-localhost", Untouched),
    flow(&[NodePortLocalhost, NodePortPrimary], Outside, Tcp, "192.0.2.10:30101", Masqueraded(WEB)),
];

const ON_AN_IPV4_NODE: &[Flow] = &[
    flow(&[NodePortPrimary], Outside, Tcp, "192.0.2.10:30101", Masqueraded(WEB)),
    flow(&[NodePortPrimary], Outside, Udp, "192.0.2.10:30102", Masqueraded(BOTH)),
    flow(&[NodePortPrimary], Outside, Tcp, "[2001:db8::10]:30101", Untouched).stock("proxy-nodeport-family", Masqueraded(WEB)),
    flow(&[NodePortPrimary], Outside, Udp, "[2001:db8:18::10]:30102", Untouched)
        .stock("proxy-nodeport-family", Masqueraded(BOTH)),
];
