//! The running cluster: node, pods and hosts, and what the agent is told of them.

use super::allocate::{Allocator, POD_NETWORKS, SERVICE_NETWORKS, networks, numbered};
use super::dns;
use super::plan::{self, NODE_NAME, Plan, PlannedPod};
use super::screen::counted;
use crate::config::{
    AdminConfig, CacheConfig, ClusterSource, Config, ConntrackConfig, DetectLocalMode, DnsConfig, ForwardConfig, GuardConfig,
    LogConfig, LogFormat, NodePortAddresses, ProxyConfig, Role, ZonesSource,
};
use crate::lab::{Node, Pod, Serve};
use crate::model::{Family, ObjectKey, Protocol, Service, Update};
use crate::source::manifests::Manifests;
use crate::source::translate::Translator;
use crate::store::Store;
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;
use tokio::sync::mpsc::Sender;

/// The node (documentation networks, RFC 5737 and RFC 3849).
const NODE_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10))];

/// The host outside the cluster.
const OUTSIDE_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 7))];

/// The cluster domain.
pub const DOMAIN: &str = "cluster.local";

/// The client's number in the pod networks, and cluster DNS's in the service networks.
const CLIENT: u16 = 2;
const DNS: u16 = 10;

/// The running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The node, in which the agent runs.
    pub node: Node,
    /// The pod from which things are tried.
    pub client: Pod,
    /// A host outside the cluster.
    pub outside: Pod,
    /// What the agent has been told.
    pub store: Store,
    /// What is running.
    pub plan: Plan,
    pods: BTreeMap<ObjectKey, RunningPod>,
    manifests: Manifests,
    dead: BTreeSet<ObjectKey>,
    allocator: Allocator,
    translator: Translator,
    updates: Sender<Update>,
    told: Instant,
}

/// A pod and the plan after which it was made.
#[derive(Debug)]
struct RunningPod {
    planned: PlannedPod,
    /// Held, because it serves as long as it is not dropped.
    _pod: Pod,
}

/// What an application of manifests did.
#[derive(Debug, Default)]
pub struct Changes {
    /// What differs from before, one line each.
    pub lines: Vec<String>,
    /// What the manifests ask for and the demo does not do.
    pub remarks: Vec<String>,
}

impl Cluster {
    /// An empty cluster: the node, the client and the host outside. The agent reads what it is told from the other end of `updates`.
    pub fn new(updates: Sender<Update>) -> anyhow::Result<Cluster> {
        let node = Node::here(&NODE_ADDRESSES).context("making the node")?;
        for network in networks(POD_NETWORKS) {
            node.own_pod_network(network)?;
        }
        for server in dns_addresses() {
            node.add_address(server.ip()).context("giving the node the cluster DNS address")?;
        }
        let client_addresses: Vec<_> = POD_NETWORKS.iter().map(|(network, _)| numbered(*network, CLIENT)).collect();
        let client = node.pod("client", &client_addresses).context("making the client pod")?;
        let outside = node.pod("outside", &OUTSIDE_ADDRESSES).context("making the host outside")?;
        node.set_gateway(&outside).context("making the host outside the node's gateway")?;
        dns::serve_outside(outside.namespace(), upstream())?;
        Ok(Cluster {
            node,
            client,
            outside,
            store: Store::default(),
            plan: Plan::default(),
            pods: BTreeMap::new(),
            manifests: Manifests::default(),
            dead: BTreeSet::new(),
            allocator: Allocator::default(),
            translator: Translator::default(),
            updates,
            told: Instant::now(),
        })
    }

    /// Makes the cluster what these manifests say: new pods first, then the agent is told, then pods that are no longer wanted go.
    pub fn apply(&mut self, manifests: Manifests) -> anyhow::Result<Changes> {
        let plan = plan::plan(manifests.clone(), &NODE_ADDRESSES, &self.dead, &mut self.allocator)?;
        let changes = Changes { lines: differences(&self.plan, &plan), remarks: remarks(&plan) };
        for pod in plan.pods.values() {
            if self.pods.get(&pod.key).is_some_and(|running| running.planned == *pod) {
                continue;
            }
            // A pod that is to run differently is another pod: the old one goes first, because its addresses are needed.
            self.pods.remove(&pod.key);
            self.start(pod)?;
        }
        (self.manifests, self.plan) = (manifests, plan);
        self.tell_agent()?;
        self.pods.retain(|key, _| self.plan.pods.contains_key(key));
        Ok(changes)
    }

    /// A pod dies, and the agent is told as the kubelet and the controllers would tell it. Returns when that was.
    pub fn kill(&mut self, key: &ObjectKey) -> anyhow::Result<Instant> {
        self.pods.remove(key);
        self.dead.insert(key.clone());
        self.apply(self.manifests.clone())?;
        Ok(self.told)
    }

    /// A dead pod is back. Returns when the agent was told.
    pub fn revive(&mut self, key: &ObjectKey) -> anyhow::Result<Instant> {
        self.dead.remove(key);
        self.apply(self.manifests.clone())?;
        Ok(self.told)
    }

    /// The Services as the agent knows them, ordered by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        let keys: BTreeSet<_> = self.store.service_keys().collect();
        keys.into_iter().filter_map(|key| self.store.service(key))
    }

    /// When the agent was last told anything.
    pub fn told(&self) -> Instant {
        self.told
    }

    /// The namespace with the most Services: the one in which a client would live.
    pub fn busiest_namespace(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        self.services().for_each(|service| *counts.entry(&service.key.namespace).or_default() += 1);
        counts.into_iter().max_by_key(|(_, count)| *count).map_or("default", |(namespace, _)| namespace).to_string()
    }

    /// Every pod's name by its addresses.
    pub fn names(&self) -> BTreeMap<IpAddr, String> {
        let all =
            self.plan.pods.values().flat_map(|pod| pod.addresses.iter().map(|address| (*address, pod.key.name.to_string())));
        all.collect()
    }

    fn tell_agent(&mut self) -> anyhow::Result<()> {
        self.told = Instant::now();
        for update in self.plan.manifests.updates(Some(NODE_NAME), &mut self.translator) {
            self.store.apply(update.clone());
            self.updates.blocking_send(update).context("the agent has stopped; look for its last words above")?;
        }
        Ok(())
    }

    fn start(&mut self, planned: &PlannedPod) -> anyhow::Result<()> {
        let pod = self.node.pod(&planned.key.name, &planned.addresses).with_context(|| format!("making pod {}", planned.key))?;
        for (protocol, port) in &planned.served {
            let what = match protocol {
                Protocol::Tcp => Serve::Http,
                Protocol::Udp => Serve::Udp,
                Protocol::Sctp => continue,
            };
            pod.serve(what, *port).with_context(|| format!("serving port {port} of pod {}", planned.key))?;
        }
        self.pods.insert(planned.key.clone(), RunningPod { planned: planned.clone(), _pod: pod });
        Ok(())
    }
}

/// What the manifests ask for and the demo does not do.
fn remarks(plan: &Plan) -> Vec<String> {
    let sctp = plan.pods.values().filter(|pod| pod.served.iter().any(|(protocol, _)| *protocol == Protocol::Sctp)).count();
    let mut remarks = Vec::new();
    if sctp > 0 {
        remarks.push(format!(
            "{} with SCTP ports: programmed, but nobody answers, the demo has no SCTP server",
            counted(sctp, "pod")
        ));
    }
    let ignored: Vec<_> = plan.manifests.ignored.iter().map(|ignored| format!("{} {}", ignored.kind, ignored.name)).collect();
    if !ignored.is_empty() {
        remarks.push(format!("ignored, because it means nothing here: {}", ignored.join(", ")));
    }
    remarks
}

/// Where cluster DNS answers.
pub fn dns_addresses() -> [SocketAddr; 2] {
    SERVICE_NETWORKS.map(|(network, _)| SocketAddr::new(numbered(network, DNS), 53))
}

/// The DNS server outside.
pub fn upstream() -> SocketAddr {
    SocketAddr::new(OUTSIDE_ADDRESSES[0], 53)
}

/// What the agent runs with.
pub fn agent_config() -> Config {
    let local = |port| Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    Config {
        role: Role::All,
        node_name: NODE_NAME.to_string(),
        // Unused: the demo feeds the agent itself.
        state_dir: None,
        cluster: ClusterSource::InCluster,
        proxy: ProxyConfig {
            detect_local: DetectLocalMode::ClusterCidr,
            cluster_cidrs: networks(POD_NETWORKS),
            service_cidrs: networks(SERVICE_NETWORKS),
            nodeport_addresses: NodePortAddresses::primary(),
            connection_metrics: 0,
            external_ips: true,
            tracked_dns: false,
            masquerade_all: false,
            masquerade_bit: 14,
            conntrack: ConntrackConfig::UNTOUCHED,
        },
        dns: DnsConfig {
            domain: DOMAIN.to_string(),
            addresses: dns_addresses().to_vec(),
            ttl: 5,
            upstreams: [upstream()].into_iter().collect(),
            zones: ZonesSource::Flags,
            stub_zones: Vec::new(),
            forward: ForwardConfig::default(),
            cache: CacheConfig::default(),
            guard: GuardConfig::default(),
        },
        admin: AdminConfig {
            healthz: local(10256),
            metrics: local(10249),
            dns_health: local(8080),
            dns_ready: local(8181),
            dns_metrics: local(9153),
            probe: None,
            socket: None,
        },
        handover: None,
        log: LogConfig { format: LogFormat::Human, filter: "warn".to_string() },
    }
}

/// What differs between two plans, for people.
fn differences(old: &Plan, new: &Plan) -> Vec<String> {
    let mut changes = Vec::new();
    for pod in new.pods.values() {
        let addresses = pod.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
        match old.pods.get(&pod.key) {
            None => changes.push(format!("+ pod {}  {addresses}", pod.key)),
            Some(before) if before != pod => changes.push(format!("~ pod {}  {addresses}", pod.key)),
            Some(_) => {}
        }
    }
    changes.extend(old.pods.keys().filter(|key| !new.pods.contains_key(*key)).map(|key| format!("- pod {key}")));
    let services = |plan: &Plan| -> BTreeMap<_, _> {
        plan.manifests.services.iter().map(|service| (plan::key_of(&service.metadata), service.clone())).collect()
    };
    let (before, after) = (services(old), services(new));
    for (key, service) in &after {
        let spec = service.spec.as_ref();
        let addresses = spec.and_then(|spec| spec.cluster_ips.as_ref()).map_or(String::new(), |addresses| addresses.join(" "));
        match before.get(key) {
            None => changes.push(format!("+ service {key}  {addresses}")),
            Some(old) if old != service => changes.push(format!("~ service {key}  {addresses}")),
            Some(_) => {}
        }
    }
    changes.extend(before.keys().filter(|key| !after.contains_key(*key)).map(|key| format!("- service {key}")));
    changes
}

/// The first address of a family in a fixed pair.
pub fn of_family(addresses: &[IpAddr], family: Family) -> Option<IpAddr> {
    addresses.iter().copied().find(|address| Family::of(*address) == family)
}
