//! The service proxy's half of the agent's task: from what changed to what is committed.

use super::attempts::{Attempts, GIVEN_UP_AFTER};
use super::data_path::{DataPath, Done};
use super::drift::Drift;
use super::health_checks::HealthChecks;
use super::latency::Latency;
use super::layouts::{layout, pod_networks};
use super::localhost_ports::LocalhostPorts;
use super::node_addresses::{LocalAddresses, nodeport_addresses};
use super::stale_flows::StaleFlows;
use crate::admin::{ServiceHealth, Status};
use crate::config::{ClusterSource, Config, DetectLocalMode, ProxyConfig};
use crate::model::{Family, Kind, ObjectKey, Service};
use crate::nft::{Layout, NftError, Part, Rejected};
use crate::notices::{ADDRESS_CONFLICT, KERNEL_REFUSED, Notices, Subject, TABLE_OUT_OF_DATE, TABLE_REPAIRED};
use crate::proxy::explain::View;
use crate::proxy::listing::{self, Row};
use crate::proxy::{Conflict, Context, Delta, Dest, DetectLocal, Element, KnownClient, Planner, SlowStart, Traffic};
use crate::socket::Planned;
use crate::store::{Dirty, Store};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use tokio::time::Instant;

/// What is planned, and what has become of it in the kernel.
pub struct Plan {
    planner: Planner,
    slow_start: SlowStart,
    context: Context,
    pub local_addresses: LocalAddresses,
    pub config: ProxyConfig,
    service_networks: Networks,
    pod_networks: Networks,
    /// The tables' layouts as they were planned last, and whether the data path has them.
    layouts: (Vec<Layout>, bool),
    /// Gathered since the last commit was handed over.
    gathered: Delta,
    pub data_path: DataPath,
    pub health_checks: HealthChecks,
    notices: Notices,
    localhost_ports: Option<LocalhostPorts>,
    pub started: bool,
    /// Whether a commit succeeded, in each family but one that fails again and again.
    pub committed: bool,
    /// Whether to complain when there is no Node of this name; a folder of manifests need not have one.
    expects_node: bool,
    pub attempts: Attempts,
    pub drift: Drift,
    pub latency: Latency,
    pub stale_flows: StaleFlows,
    /// Until when the first commit waits for the ServiceCIDRs.
    pub cidrs_awaited: Option<Instant>,
}

impl Plan {
    /// A plan of nothing yet.
    pub fn new(
        config: &Config,
        data_path: DataPath,
        notices: Notices,
        service_health: ServiceHealth,
        localhost_ports: Option<LocalhostPorts>,
        stale_flows: StaleFlows,
    ) -> Plan {
        Plan {
            planner: Planner::default(),
            slow_start: SlowStart::default(),
            context: Context {
                node_name: config.node_name.clone(),
                dns_addresses: super::local_dns::addresses(config),
                without_external_ips: !config.proxy.external_ips,
                ..Context::default()
            },
            local_addresses: LocalAddresses::default(),
            config: config.proxy.clone(),
            service_networks: Networks::new(Element::ServiceCidr),
            pod_networks: Networks::new(Element::PodCidr),
            layouts: (Vec::new(), true),
            gathered: super::fixed_elements(config),
            data_path,
            health_checks: HealthChecks::new(service_health),
            notices,
            localhost_ports,
            started: false,
            committed: false,
            expects_node: !matches!(config.cluster, ClusterSource::Manifests(_)),
            attempts: Attempts::default(),
            drift: Drift::default(),
            latency: Latency::new(),
            stale_flows,
            cidrs_awaited: None,
        }
    }

    /// Plans what changed.
    pub fn plan(&mut self, store: &Store, dirty: &Dirty) {
        if dirty.node || !self.started {
            self.follow_node(store);
            self.follow_pod_networks(store);
        }
        if dirty.service_cidrs || !self.started {
            let networks = self.config.service_cidrs.iter().chain(store.service_cidrs()).copied();
            self.service_networks.plan(networks, &mut self.gathered);
        }
        dirty.services.iter().for_each(|key| self.plan_service(store, key));
        self.latency.plan(&dirty.triggers);
    }

    /// Whether everything that was planned is in the kernel, but for a family that fails again and again.
    pub fn is_settled(&self) -> bool {
        self.started && !self.attempts.hold_up() && self.gathered.is_empty() && self.layouts.1 && !self.data_path.is_busy()
    }

    /// When the next endpoint of a Service with a slow start gets more of its share.
    pub fn next_warming(&self) -> Option<Instant> {
        self.slow_start.due().map(Instant::from_std)
    }

    /// Gives endpoints of Services with a slow start what they are due.
    pub fn warm_up(&mut self, store: &Store) {
        let due = self.slow_start.whose_turn(Instant::now().into_std());
        due.iter().for_each(|key| self.plan_service(store, key));
    }

    fn plan_service(&mut self, store: &Store, key: &ObjectKey) {
        self.health_checks.plan(key, store, &self.context);
        if let Some(ports) = &self.localhost_ports {
            ports.set(key, store.service(key).filter(|service| service.is_exposed_on(&self.context.node_labels)), &self.context);
        }
        let mut keys = vec![key.clone()];
        while let Some(key) = keys.pop() {
            let slices = store.slices(&key);
            let warming = self.slow_start.see(&key, store.service(&key), &slices, Instant::now().into_std());
            self.planner.set_warming(&key, warming);
            let outcome = self.planner.update(&key, store.service(&key), &slices, &self.context, &mut self.gathered);
            for conflict in outcome.conflicts {
                let Conflict { dest, loser, kind, winner } = conflict;
                let note = format!("the {kind} {dest} belongs to service {winner}: give one of the two another address or port");
                self.notices.tell(&ADDRESS_CONFLICT, Subject::Service(loser), note);
            }
            keys.extend(outcome.promoted);
        }
    }

    /// A name that no Node has is an easy mistake that is hard to see: services work, but no endpoint is local and no NodePort answers.
    pub fn look_for_node(&mut self, store: &Store) {
        let is_missing = store.is_listed(Kind::Node) && store.node().is_none();
        if is_missing && self.expects_node {
            tracing::warn!(
                "there is no Node {:?}: no endpoint counts as local and NodePorts do not answer; give --node-name the name that \
                 `kubectl get nodes` shows for this machine",
                self.context.node_name
            );
            self.expects_node = false;
        }
    }

    /// Plans those services again that a change of the node concerns.
    pub fn follow_node(&mut self, store: &Store) {
        let node = store.node();
        if !self.config.nodeport_addresses.networks.is_empty() {
            self.local_addresses.look(&self.context.dns_addresses);
        }
        let context = Context {
            node_name: self.context.node_name.clone(),
            dns_addresses: self.context.dns_addresses.clone(),
            without_external_ips: self.context.without_external_ips,
            node_labels: node.map(|node| node.labels.clone()).unwrap_or_default(),
            zone: node.and_then(|node| node.zone.clone()),
            node_addresses: node.map(|node| node.addresses.clone()).unwrap_or_default(),
            nodeport_addresses: nodeport_addresses(&self.config.nodeport_addresses, node, &self.local_addresses),
        };
        if context != self.context {
            if (&context.nodeport_addresses, &context.zone) != (&self.context.nodeport_addresses, &self.context.zone) {
                let zone = context.zone.as_deref().unwrap_or("none");
                tracing::info!(addresses = ?context.nodeport_addresses, zone, "NodePorts answer on these addresses, in this zone");
            }
            self.health_checks.set_addresses(&context.nodeport_addresses);
            let before = std::mem::replace(&mut self.context, context);
            let mut services = self.planner.services();
            services.retain(|key| concerns(&before, &self.context, store.service(key)));
            services.iter().for_each(|key| self.plan_service(store, key));
        }
    }

    /// Where pods are known by the networks of the Node object, these may come late (once its controller has seen the node) or change.
    fn follow_pod_networks(&mut self, store: &Store) {
        let node = store.node();
        let networks = pod_networks(&self.config, node);
        self.pod_networks.plan(networks.iter().copied(), &mut self.gathered);
        let layouts = Family::BOTH.map(|family| layout(&self.config, node, family));
        if self.layouts.0 == layouts {
            return;
        }
        if self.config.detect_local == DetectLocalMode::NodeCidr && networks.is_empty() {
            tracing::warn!(
                "the Node object has no podCIDRs: nothing is masqueraded for where it comes from until it has; where it never gets \
                 any, choose another --detect-local-mode"
            );
        }
        self.layouts = (layouts.into(), false);
    }

    /// Hands the gathered changes to the data path, unless it is busy or there is nothing to do. The first commit happens in any case: it
    /// makes the tables, and removes what an earlier agent left.
    pub fn hand_over(&mut self, status: &Status) -> bool {
        if self.gathered.is_empty() && self.layouts.1 && self.started {
            return false;
        }
        self.data_path.metrics.pending.set(self.gathered.destinations.len() as i64);
        Family::BOTH.iter().for_each(|family| status.queued(*family));
        if self.data_path.is_busy() {
            return false;
        }
        self.started = true;
        self.data_path.metrics.queued();
        self.data_path.metrics.pending.set(0);
        if let Some(connections) = &self.data_path.metrics.connections {
            for (dest, destination) in &self.gathered.destinations {
                connections.set(*dest, destination.as_ref().and_then(|_| self.planner.owner(dest)));
            }
        }
        let layouts = if std::mem::replace(&mut self.layouts.1, true) { Vec::new() } else { self.layouts.0.clone() };
        let mut delta = std::mem::take(&mut self.gathered);
        self.stale_flows.committing(std::mem::take(&mut delta.flows));
        self.data_path.commit(delta, layouts);
        self.data_path.metrics.nothing_pending();
        self.health_checks.committing();
        self.latency.committing();
        true
    }

    /// Tries again what failed or was refused, as far as its time has come. Only when nothing is under way.
    pub fn retry(&mut self) {
        let (families, refused) = self.attempts.take_due(Instant::now());
        if refused || !families.is_empty() {
            self.data_path.retry(families, refused);
        }
    }

    /// What an explanation reads. `fixed` are the elements of [`Plan::node_wide`].
    pub fn view<'a>(
        &'a self,
        store: &'a Store,
        domain: &'a str,
        own_addresses: &'a [IpAddr],
        node_wide: &'a NodeWide,
        clients: Option<&'a [KnownClient]>,
    ) -> View<'a> {
        View {
            store,
            planner: &self.planner,
            context: &self.context,
            own_addresses,
            fixed: &node_wide.elements,
            masquerade_all: self.config.masquerade_all,
            detect_local: &node_wide.detect_local,
            cluster_cidrs: &self.config.cluster_cidrs,
            service_cidrs: &self.config.service_cidrs,
            domain,
            answers_dns: node_wide.answers_dns,
            clients,
        }
    }

    /// What belongs to the node as a whole.
    pub fn node_wide(&self, store: &Store, answers_dns: bool) -> NodeWide {
        let local_dns = self.context.dns_addresses.iter().copied().map(Element::LocalDns);
        let networks = self.pod_networks.elements().chain(self.service_networks.elements());
        let detect_local = Family::BOTH.map(|family| layout(&self.config, store.node(), family).detect_local);
        NodeWide { elements: local_dns.chain(networks).collect(), detect_local, answers_dns }
    }

    /// The row of a service in a list of all.
    pub fn row(&self, store: &Store, key: &ObjectKey) -> Option<Row> {
        Some(listing::row(store.service(key)?, &store.slices(key), &self.planner, &self.context))
    }

    /// What a destination should hold, and whether a change of it may still be on its way.
    pub fn planned(&self, store: &Store, dest: Dest) -> Planned {
        let owner = self.planner.owner(&dest).and_then(|key| store.service(key));
        let of_owner =
            |service: &Service| self.planner.destinations(service, &store.slices(&service.key), &self.context).remove(&dest);
        let wanted = owner.and_then(of_owner).map(|(_, destination)| destination);
        Planned {
            dest,
            wanted,
            waits: self.gathered.destinations.contains_key(&dest) || self.data_path.is_busy() || !self.committed,
        }
    }

    /// The name of the node.
    pub fn node_name(&self) -> &str {
        &self.context.node_name
    }

    /// Says what came of a request, and decides when to try again.
    pub fn report(&mut self, done: &Done, status: &Status) {
        for outcome in &done.committed.families {
            let (family, elements) = (outcome.family, outcome.elements);
            self.data_path.metrics.committed(outcome);
            if outcome.disturbed && outcome.error.is_none() && self.drift.is_to_be_told(done) {
                self.data_path.metrics.repaired(family, self.drift.told());
                self.notices.tell(&TABLE_REPAIRED, Subject::Node, self.drift.repaired(outcome));
            }
            if let Some(why) = &outcome.rebuilt {
                tracing::info!(%family, why, "made the table anew");
            }
            for rejected in &outcome.rejected {
                self.report_refused(family, rejected);
            }
            if outcome.unsifted > 0 {
                let count = outcome.unsifted;
                tracing::warn!(%family, count, "the kernel refuses too many destinations to look for each at once; these come later");
            }
            if let Some(error) = &outcome.error {
                tracing::error!(%family, %error, "the table is not up to date; trying again");
                self.report_failed(family, error, status);
                continue;
            }
            if elements > 0 {
                tracing::debug!(%family, elements, batches = outcome.batches, took = ?done.took, "committed");
            }
            if self.attempts.succeeded(family) {
                tracing::info!(%family, "the table is up to date again");
            }
        }
        self.drift.looked(done);
        self.attempts.set_aside(done.refused);
        // Those, too, that were not tried this time.
        let failed = self.attempts.failing();
        self.latency.committed(&failed, &self.data_path.metrics);
        self.stale_flows.committed(&failed);
        self.count_without_local();
        if !self.attempts.hold_up() {
            self.committed = true;
            self.health_checks.publish_committed();
        }
        for family in Family::BOTH.into_iter().filter(|family| !failed.contains(family)) {
            status.committed(family);
            self.data_path.metrics.in_step(family);
            // What gathered meanwhile has waited only since this commit began: a busy cluster is not a stuck kernel.
            if !self.gathered.is_empty() {
                status.queued(family);
            }
        }
    }

    /// A family that fails again and again is told of: once, because the log has every time.
    fn report_failed(&mut self, family: Family, error: &NftError, status: &Status) {
        let failures = self.attempts.failed(family);
        if failures < GIVEN_UP_AFTER {
            return;
        }
        status.failing(family, error.to_string());
        if failures == GIVEN_UP_AFTER {
            let works = self.attempts.working();
            let other = works.map_or(String::new(), |other| format!("; {other} is served meanwhile"));
            let note = format!("the {family} table of {} cannot be brought up to date: {error}{other}", self.context.node_name);
            self.notices.tell(&TABLE_OUT_OF_DATE, Subject::Node, note);
        }
    }

    fn count_without_local(&self) {
        for family in Family::BOTH {
            for traffic in [Traffic::Internal, Traffic::External] {
                self.data_path.metrics.without_local(family, traffic, self.planner.without_local(family, traffic));
            }
        }
    }

    fn report_refused(&self, family: Family, Rejected { what, reason }: &Rejected) {
        let (about, what) = match what {
            Part::Dest(dest) => match self.planner.owner(dest) {
                Some(service) => (Subject::Service(service.clone()), dest.to_string()),
                None => {
                    self.data_path.metrics.cleanup_failed(family);
                    (Subject::Node, format!("the removal of {dest}"))
                }
            },
            Part::Element(element) => (Subject::Node, format!("{element:?}")),
            Part::Networks(set) => (Subject::Node, format!("the networks of {}", set.name())),
        };
        let node = &self.context.node_name;
        let note = format!("the kernel of {node} refused {what} ({family}); everything else is in place: {reason}");
        self.notices.tell(&KERNEL_REFUSED, about, note);
    }
}

/// Whether a Service is to be planned again after this change. Other programs write labels on nodes all the time: only Services that ask for nodes by
/// their labels are concerned by those.
fn concerns(before: &Context, after: &Context, service: Option<&Service>) -> bool {
    let only_labels = Context { node_labels: after.node_labels.clone(), ..before.clone() } == *after;
    let exposed = |context: &Context| service.is_some_and(|service| service.is_exposed_on(&context.node_labels));
    !only_labels || exposed(before) != exposed(after)
}

/// Networks of one set as they were planned last.
struct Networks {
    element: fn(IpNet) -> Element,
    planned: BTreeSet<IpNet>,
}

/// What belongs to the node as a whole, for an explanation.
pub struct NodeWide {
    elements: Vec<Element>,
    detect_local: [DetectLocal; 2],
    answers_dns: bool,
}

impl Networks {
    fn elements(&self) -> impl Iterator<Item = Element> {
        self.planned.iter().map(|network| (self.element)(*network))
    }

    fn new(element: fn(IpNet) -> Element) -> Networks {
        Networks { element, planned: BTreeSet::new() }
    }

    /// Adds to `delta` what changes. Networks are merged, because overlapping intervals are an error to the kernel.
    fn plan(&mut self, networks: impl Iterator<Item = IpNet>, delta: &mut Delta) {
        let wanted: BTreeSet<IpNet> = IpNet::aggregate(&networks.collect()).into_iter().collect();
        let changed = self.planned.symmetric_difference(&wanted);
        delta.elements.extend(changed.map(|network| ((self.element)(*network), wanted.contains(network))));
        self.planned = wanted;
    }
}
