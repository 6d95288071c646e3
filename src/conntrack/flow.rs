//! Which flows are stale; pure.

use crate::model::Protocol;
use crate::proxy::{Backend, Dest, Serving};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// UDP destinations whose flows are to be looked at, and the endpoints that they may have.
pub type Touched = BTreeMap<Dest, Serving>;

/// A UDP flow as the kernel tracks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who sent the first packet.
    pub client: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
    /// Who is expected to answer: the endpoint, or, without a translation, `to` itself.
    pub server: SocketAddr,
    /// The kernel's number of the flow. Another flow of the same client and destination has another one.
    pub id: u32,
}

/// Flows that have to go, by destination and server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stale(pub BTreeMap<(SocketAddr, SocketAddr), Vec<Flow>>);

impl Stale {
    /// Adds the flow if it is stale.
    pub fn judge(&mut self, flow: Flow, touched: &Touched) {
        let dest = Dest { address: flow.to.ip(), protocol: Protocol::Udp, port: flow.to.port() };
        if touched.get(&dest).is_some_and(|serving| is_stale(&flow, serving)) {
            self.0.entry((flow.to, flow.server)).or_default().push(flow);
        }
    }
}

/// To one of our destinations, a flow must lead to one of the serving endpoints: not to one that is gone, and not to the destination's own
/// address, as it does when it began before there was a translation. What is no destination of ours any more leads nowhere of ours; a flow
/// to that address itself is somebody else's affair.
fn is_stale(flow: &Flow, serving: &Serving) -> bool {
    let server = Backend { address: flow.server.ip(), port: flow.server.port() };
    match serving {
        Some(serving) => serving.binary_search(&server).is_err(),
        None => flow.server != flow.to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: &str = "10.96.0.10:53";

    fn flow(to: &str, server: &str) -> Flow {
        Flow { client: "10.244.0.9:4000".parse().unwrap(), to: to.parse().unwrap(), server: server.parse().unwrap(), id: 1 }
    }

    fn stale(serving: Option<&[&str]>, flow: Flow) -> bool {
        let to: SocketAddr = VIP.parse().unwrap();
        let backend = |text: &&str| {
            let address: SocketAddr = text.parse().unwrap();
            Backend { address: address.ip(), port: address.port() }
        };
        let serving = serving.map(|list| list.iter().map(backend).collect());
        let dest = Dest { address: to.ip(), protocol: Protocol::Udp, port: to.port() };
        let mut found = Stale::default();
        found.judge(flow, &Touched::from([(dest, serving)]));
        !found.0.is_empty()
    }

    #[test]
    fn a_flow_to_a_serving_endpoint_stays_and_one_to_another_port_or_address_goes() {
        let serving = ["10.244.0.2:5353", "10.244.0.3:5353"];
        assert!(!stale(Some(&serving), flow(VIP, "10.244.0.3:5353")));
        assert!(stale(Some(&serving), flow(VIP, "10.244.0.4:5353")));
        assert!(stale(Some(&serving), flow(VIP, "10.244.0.3:53")));
    }

    #[test]
    fn without_endpoints_every_flow_goes() {
        assert!(stale(Some(&[]), flow(VIP, "10.244.0.3:5353")));
    }

    #[test]
    fn a_flow_that_was_never_translated_goes_when_the_destination_is_ours() {
        assert!(stale(Some(&["10.244.0.2:5353"]), flow(VIP, VIP)));
    }

    #[test]
    fn what_is_no_destination_of_ours_any_more_loses_the_flows_that_we_translated_and_no_others() {
        assert!(stale(None, flow(VIP, "10.244.0.3:5353")));
        assert!(!stale(None, flow(VIP, VIP)));
    }

    #[test]
    fn other_destinations_are_no_affair_of_ours() {
        for to in ["10.96.0.10:5353", "10.96.0.11:53", "198.51.100.1:53"] {
            assert!(!stale(Some(&[]), flow(to, "10.244.0.3:5353")), "{to}");
        }
    }
}
