//! What becomes of connections that find no endpoint, in every hook: `policies.yaml`, and what no Service has.

use super::super::Client::{FarPod, Node, Outside, Pod};
use super::super::Expect::{Dropped, Masqueraded, Refused, Untouched};
use super::super::Rule::*;
use super::super::settings::USUAL;
use super::super::{Flow, Group, flow};
use super::FAR;
use waypost::model::Protocol::{Tcp, Udp};

pub const GROUPS: &[Group] = &[Group { settings: &USUAL, flows: FLOWS }];

const FLOWS: &[Flow] = &[
    // No endpoints anywhere.
    flow(&[Reject, HookForward], Pod, Tcp, "10.96.2.6:80", Refused),
    flow(&[Reject, HookForward], FarPod, Tcp, "10.96.2.6:80", Refused),
    flow(&[Reject, HookForward], Outside, Tcp, "10.96.2.6:80", Refused),
    flow(&[Reject, HookOutput], Node, Tcp, "10.96.2.6:80", Refused),
    flow(&[Reject, HookForward], Pod, Udp, "10.96.2.6:7", Refused),
    flow(&[Reject, HookOutput], Node, Udp, "10.96.2.6:7", Refused),
    flow(&[Reject, HookForward], Pod, Tcp, "[fd00:96::206]:80", Refused),
    flow(&[Reject, HookForward], Outside, Tcp, "[fd00:96::206]:80", Refused),
    flow(&[Reject, HookOutput], Node, Tcp, "[fd00:96::206]:80", Refused),
    flow(&[Reject, HookForward], Pod, Udp, "[fd00:96::206]:7", Refused),
    flow(&[Reject, HookInput], Outside, Tcp, "192.0.2.10:30206", Refused),
    flow(&[Reject, HookInput], Pod, Tcp, "192.0.2.10:30206", Refused),
    flow(&[Reject, HookOutput, HookInput], Node, Tcp, "192.0.2.10:30206", Refused),
    flow(&[Reject, HookInput], Outside, Udp, "192.0.2.10:30256", Refused),
    flow(&[Reject, HookInput], Outside, Tcp, "[2001:db8::10]:30206", Refused),
    flow(&[Reject, HookInput], Outside, Udp, "[2001:db8::10]:30256", Refused),
    flow(&[Reject, LoadBalancer, HookForward], Outside, Tcp, "198.51.102.6:80", Refused),
    flow(&[Reject, LoadBalancer, HookForward], Pod, Udp, "198.51.102.6:7", Refused),
    flow(&[Reject, LoadBalancer, HookOutput], Node, Tcp, "198.51.102.6:80", Refused),
    flow(&[Reject, LoadBalancer, HookForward], Outside, Tcp, "[2001:db8:51:2::6]:80", Refused),
    flow(&[Reject, ExternalIp, HookForward], Outside, Tcp, "198.51.102.106:80", Refused),
    flow(&[Reject, ExternalIp, HookForward], Pod, Tcp, "[2001:db8:51:2::106]:80", Refused),
    // The policies do not matter then.
    flow(&[Reject, HookForward], Pod, Tcp, "10.96.2.7:80", Refused),
    flow(&[Reject, HookOutput], Node, Tcp, "10.96.2.7:80", Refused),
    flow(&[Reject, HookInput], Outside, Tcp, "192.0.2.10:30207", Refused),
    flow(&[Reject, HookInput], Outside, Udp, "192.0.2.10:30257", Refused),
    flow(&[Reject, HookForward], Outside, Tcp, "198.51.102.7:80", Refused),
    flow(&[Reject, HookForward], Pod, Tcp, "[fd00:96::207]:80", Refused),
    flow(&[Reject, HookInput], Outside, Tcp, "[2001:db8::10]:30207", Refused),
    // Endpoints elsewhere, and policies Local.
    flow(&[Drop, HookForward], Pod, Tcp, "10.96.2.2:80", Dropped),
    flow(&[Drop, HookForward], FarPod, Tcp, "10.96.2.2:80", Dropped),
    flow(&[Drop, HookForward], Outside, Tcp, "10.96.2.2:80", Dropped),
    flow(&[Drop, HookOutput], Node, Tcp, "10.96.2.2:80", Dropped),
    flow(&[Drop, HookForward], Pod, Udp, "10.96.2.2:7", Dropped),
    flow(&[Drop, HookForward], Pod, Tcp, "[fd00:96::202]:80", Dropped),
    flow(&[Drop, HookOutput], Node, Tcp, "[fd00:96::202]:80", Dropped),
    flow(&[Drop, HookInput], Outside, Tcp, "192.0.2.10:30202", Dropped),
    flow(&[Drop, HookInput], Outside, Udp, "192.0.2.10:30252", Dropped),
    flow(&[Drop, HookInput], Outside, Tcp, "[2001:db8::10]:30202", Dropped),
    flow(&[Drop, HookForward, LoadBalancer], Outside, Tcp, "198.51.102.2:80", Dropped),
    flow(&[Drop, HookForward, LoadBalancer], Outside, Udp, "[2001:db8:51:2::2]:7", Dropped),
    flow(&[Drop, HookForward, ExternalIp], Outside, Tcp, "198.51.102.102:80", Dropped),
    flow(&[Drop, PolicyScope], Pod, Tcp, "10.96.2.5:80", Dropped),
    flow(&[Drop, PolicyScope], Outside, Tcp, "192.0.2.10:30205", Masqueraded(FAR)),
    flow(&[Drop, PolicyScope], Pod, Tcp, "[fd00:96::205]:80", Dropped),
    // What no Service has.
    flow(&[UndefinedPort, HookForward], Pod, Tcp, "10.96.1.1:81", Refused),
    flow(&[UndefinedPort, HookForward], Outside, Tcp, "10.96.1.1:81", Refused),
    flow(&[UndefinedPort, HookOutput], Node, Tcp, "10.96.1.1:81", Refused),
    flow(&[UndefinedPort, HookForward], Pod, Udp, "10.96.1.1:80", Refused),
    flow(&[UndefinedPort, HookForward], Pod, Tcp, "[fd00:96::101]:81", Refused),
    flow(&[UndefinedPort, HookOutput], Node, Tcp, "[fd00:96::101]:81", Refused),
    flow(&[UndefinedPort, HookForward], Pod, Udp, "[fd00:96::101]:80", Refused),
    flow(&[UndefinedPort, Reject], Pod, Tcp, "10.96.2.6:81", Refused),
    flow(&[UnallocatedAddress, HookForward], Pod, Tcp, "10.96.0.99:80", Dropped),
    flow(&[UnallocatedAddress, HookForward], Outside, Tcp, "10.96.0.99:80", Dropped),
    flow(&[UnallocatedAddress, HookOutput], Node, Tcp, "10.96.0.99:80", Dropped),
    flow(&[UnallocatedAddress, HookForward], Pod, Udp, "10.96.0.99:80", Dropped),
    flow(&[UnallocatedAddress, HookForward], Pod, Tcp, "[fd00:96::999]:80", Dropped),
    flow(&[UnallocatedAddress, HookOutput], Node, Udp, "[fd00:96::999]:80", Dropped),
    // Ports that are not the Services'.
    flow(&[VipPort, HookInput], Outside, Tcp, "192.0.2.10:9", Untouched),
    flow(&[VipPort, HookInput], Outside, Tcp, "[2001:db8::10]:80", Untouched),
    flow(&[VipPort, NodePort], Pod, Tcp, "10.96.1.1:30101", Refused),
    flow(&[VipPort, NodePort], Outside, Udp, "192.0.2.10:30101", Untouched),
];
