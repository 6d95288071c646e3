//! The part of the tour where connections are made.

use super::cluster::{Cluster, of_family};
use super::screen::Screen;
use crate::lab::{Namespace, Outcome, connect_here};
use crate::model::{AddressKind, Family, Policy, Protocol, Service, ServiceKind, ServicePort};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How many connections for each pod: the chance that random choice leaves one pod out is then below one in a hundred million.
const TRIES_PER_POD: usize = 20;
const MOST_TRIES: usize = 200;

const PATIENCE: Duration = Duration::from_secs(2);

/// Connections to one address and port.
struct Flow<'a> {
    /// What the user would type.
    label: String,
    way: String,
    from: &'a Namespace,
    protocol: Protocol,
    to: SocketAddr,
    /// The pods among which the connections must spread.
    pods: BTreeSet<String>,
    /// With session affinity all of them go to one pod.
    sticky: bool,
    /// Whom the pods must see, and how to say that.
    source: (Option<IpAddr>, &'static str),
}

/// Connects to every service on every kind of address that it has.
pub fn show(cluster: &Cluster, screen: &mut Screen) -> anyhow::Result<()> {
    screen.heading("Connections", "from the client pod to ClusterIPs, from the host outside to the rest");
    let flows = flows(cluster);
    let width = |text: fn(&Flow<'_>) -> usize| flows.iter().map(|flow| text(flow)).max().unwrap_or(0);
    let (label, way) = (width(|flow| flow.label.len()), width(|flow| flow.way.len()));
    screen.limit(16);
    for flow in &flows {
        let outcomes = flow.try_all()?;
        let line = format!("{:label$}  {:way$}  {}", flow.label, flow.way, flow.told(&outcomes, screen));
        screen.check(flow.complaint(&outcomes).is_none(), &line, || flow.complaint(&outcomes).unwrap_or_default());
    }
    screen.no_limit();
    Ok(())
}

/// The ready endpoints of a service port.
pub fn endpoints(cluster: &Cluster, service: &Service, port: &ServicePort, family: Family) -> Vec<SocketAddr> {
    let mut endpoints = Vec::new();
    for slice in cluster.store.slices(&service.key).into_iter().filter(|slice| slice.family == family) {
        for number in slice.ports.iter().filter(|of| of.name == port.name && of.protocol == port.protocol).map(|of| of.port) {
            endpoints.extend(
                slice
                    .endpoints
                    .iter()
                    .filter(|endpoint| endpoint.ready && !endpoint.secondary)
                    .map(|endpoint| SocketAddr::new(endpoint.address, number)),
            );
        }
    }
    endpoints
}

fn flows(cluster: &Cluster) -> Vec<Flow<'_>> {
    let names = cluster.names();
    let mut flows = Vec::new();
    for service in cluster.services().filter(|service| service.proxied) {
        for port in service.ports.iter().filter(|port| port.protocol != Protocol::Sctp) {
            for family in Family::BOTH {
                let endpoints = endpoints(cluster, service, port, family);
                let pods: Option<BTreeSet<_>> = endpoints.iter().map(|endpoint| names.get(&endpoint.ip()).cloned()).collect();
                // Endpoints that are no pods of the demo cannot be tried.
                let Some(pods) = pods else { continue };
                match service.kind {
                    ServiceKind::ClusterIp => flows.extend(to_service(cluster, service, port, family, &pods)),
                    ServiceKind::Headless => {
                        flows.extend(endpoints.iter().map(|endpoint| to_pod(cluster, service, *endpoint, &names, port)))
                    }
                    ServiceKind::ExternalName(_) => {}
                }
            }
        }
    }
    // What is refused comes last.
    flows.sort_by_key(|flow| flow.pods.is_empty());
    flows
}

fn to_service<'a>(
    cluster: &'a Cluster,
    service: &Service,
    port: &ServicePort,
    family: Family,
    pods: &BTreeSet<String>,
) -> Vec<Flow<'a>> {
    let flow = |from: &'a Namespace, way: &str, address: IpAddr, number: u16, source| Flow {
        label: format!("{}.{}", service.key.name, service.key.namespace),
        way: format!("{way}  {} {}", port.protocol, SocketAddr::new(address, number)),
        from,
        protocol: port.protocol,
        to: SocketAddr::new(address, number),
        pods: pods.clone(),
        sticky: service.affinity_seconds.is_some(),
        source,
    };
    let client = of_family(cluster.client.addresses(), family);
    let own = (client, "");
    let mut flows = Vec::new();
    flows.extend(
        service.cluster_ip(family).map(|address| flow(cluster.client.namespace(), "ClusterIP    ", address, port.port, own)),
    );
    let outside = cluster.outside.namespace();
    let source = match service.external_policy {
        Policy::Cluster => (of_family(cluster.node.addresses(), family), "seen as the node"),
        Policy::Local => (of_family(cluster.outside.addresses(), family), "seen as it is"),
    };
    let node =
        of_family(cluster.node.addresses(), family).filter(|_| port.node_port != 0 && service.cluster_ip(family).is_some());
    flows.extend(node.map(|address| flow(outside, "NodePort     ", address, port.node_port, source)));
    for (kind, way) in [(AddressKind::LoadBalancer, "load balancer"), (AddressKind::ExternalIp, "external IP  ")] {
        // Who is let in by source ranges is a matter of its own.
        let open = kind != AddressKind::LoadBalancer || service.source_ranges.is_empty();
        let addresses = service.addresses(kind).iter().filter(|address| open && Family::of(**address) == family);
        flows.extend(addresses.map(|address| flow(outside, way, *address, port.port, source)));
    }
    flows
}

fn to_pod<'a>(
    cluster: &'a Cluster,
    service: &Service,
    endpoint: SocketAddr,
    names: &BTreeMap<IpAddr, String>,
    port: &ServicePort,
) -> Flow<'a> {
    Flow {
        label: format!("{}.{}", service.key.name, service.key.namespace),
        way: format!("headless       {} {endpoint}", port.protocol),
        from: cluster.client.namespace(),
        protocol: port.protocol,
        to: endpoint,
        pods: names.get(&endpoint.ip()).cloned().into_iter().collect(),
        sticky: false,
        source: (cluster.client.address_like(endpoint.ip()), ""),
    }
}

impl Flow<'_> {
    fn try_all(&self) -> anyhow::Result<Vec<Outcome>> {
        let tries = (self.pods.len() * TRIES_PER_POD).clamp(1, MOST_TRIES);
        Ok(self.from.run(|| {
            let mut outcomes = Vec::new();
            for _ in 0..tries {
                outcomes.push(connect_here(self.protocol, self.to, PATIENCE));
                // Waiting for the same time-out again and again teaches nothing.
                if outcomes.last() == Some(&Outcome::TimedOut) {
                    break;
                }
            }
            outcomes
        })?)
    }

    fn told(&self, outcomes: &[Outcome], screen: &Screen) -> String {
        let shares = shares(outcomes);
        match shares.values().max() {
            Some(most) => {
                let mut told: Vec<_> = shares.iter().map(|(pod, count)| screen.share(pod, *count, *most)).collect();
                told.push(screen.faint(self.source.1));
                told.join("  ").trim_end().to_string()
            }
            None if self.pods.is_empty() && outcomes == [Outcome::Refused] => "refused at once: no pods behind it".to_string(),
            None => outcomes.first().map(ToString::to_string).unwrap_or_default(),
        }
    }

    /// What is wrong with these outcomes, and where to look.
    fn complaint(&self, outcomes: &[Outcome]) -> Option<String> {
        let look = format!("see --shell, then: nft list ruleset | grep {}", self.to.ip());
        if self.pods.is_empty() {
            let good = outcomes.iter().all(|outcome| *outcome == Outcome::Refused);
            return (!good).then(|| format!("a service without pods must refuse; {look}"));
        }
        if let Some(bad) = outcomes.iter().find(|outcome| outcome.by().is_none()) {
            return Some(format!("a connection failed: {bad}; {look}"));
        }
        let shares = shares(outcomes);
        if let Some(stranger) = shares.keys().find(|pod| !self.pods.contains(**pod)) {
            return Some(format!("{stranger} answered and is no endpoint; {look}"));
        }
        let enough = match (self.sticky, self.pods.len() * TRIES_PER_POD <= MOST_TRIES) {
            (true, _) => shares.len() == 1,
            (false, true) => shares.len() == self.pods.len(),
            (false, false) => shares.len() * 2 > self.pods.len(),
        };
        if !enough {
            return Some(format!("{} pods answered out of {}; {look}", shares.len(), self.pods.len()));
        }
        let seen = |outcome: &Outcome| match outcome {
            Outcome::Reached { seen_source, .. } => Some(seen_source.ip()),
            _ => None,
        };
        let strange = outcomes.iter().filter_map(seen).find(|seen| Some(*seen) != self.source.0)?;
        let expected = self.source.0.map(|address| address.to_string()).unwrap_or_default();
        Some(format!("the pods saw {strange} where {expected} was expected; {look}"))
    }
}

fn shares(outcomes: &[Outcome]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for pod in outcomes.iter().filter_map(Outcome::by) {
        *shares.entry(pod).or_default() += 1;
    }
    shares
}
