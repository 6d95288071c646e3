//! The task that owns the state: it takes updates in, plans, has them committed, and publishes names.

use super::data_path::{DataPath, Done, Word};
use super::drift::Drift;
use super::health_checks::HealthChecks;
use super::latency::Latency;
use super::localhost_ports::LocalhostPorts;
use super::node_addresses::nodeport_addresses;
use crate::admin::{ServiceHealth, Status};
use crate::config::{ClusterSource, Config, NodePortAddresses};
use crate::dns::records::Records;
use crate::model::{Family, Kind, Name, ObjectKey, Update};
use crate::nft::{Disturbance, DnsSwitch, Part, Rejected};
use crate::notices::{ADDRESS_CONFLICT, KERNEL_REFUSED, Notices, Subject, TABLE_REPAIRED};
use crate::proxy::{Conflict, Context, Delta, Element, Planner, Traffic};
use crate::store::{Dirty, Store};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// So many updates are taken in at once before the next look at the plan.
const UPDATES_AT_ONCE: usize = 1024;
/// Names wait for the data path at most this long, so that a stuck kernel never freezes DNS.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(1);
/// A commit that failed is tried again after this long, and after twice as long each further time, up to [`RETRY_REFUSED`].
const RETRY_FAILED: Duration = Duration::from_secs(1);
/// The first commit waits for the ServiceCIDRs at most this long after everything else was listed.
const SERVICE_CIDR_DEADLINE: Duration = Duration::from_secs(2);
/// What the kernel refused (elements, the DNS switch), and the node's local addresses, are looked at again this often.
const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// The agent's state and what it acts on.
pub struct Follow {
    store: Store,
    plan: Option<Plan>,
    dns: Option<Dns>,
    status: Status,
    ready: watch::Sender<bool>,
    /// Told when an address of the host comes or goes.
    addresses: watch::Receiver<()>,
}

/// Where the task reports to.
pub struct Reports {
    /// Health and readiness.
    pub status: Status,
    /// Told when everything of the first full listing is in place.
    pub ready: watch::Sender<bool>,
    /// Log and Events.
    pub notices: Notices,
    /// What load balancers are told about Services.
    pub service_health: ServiceHealth,
    /// NodePorts on loopback addresses, where they are wanted.
    pub localhost_ports: Option<LocalhostPorts>,
}

/// The service proxy's half.
struct Plan {
    planner: Planner,
    context: Context,
    nodeports: NodePortAddresses,
    /// The configured service networks, to which those of ServiceCIDR objects are added.
    service_cidrs: Vec<IpNet>,
    /// The service networks as they were planned last: merged, so that no two overlap.
    planned_cidrs: BTreeSet<IpNet>,
    /// Gathered since the last commit was handed over.
    gathered: Delta,
    /// Services whose session affinity was reported as not honoured.
    without_affinity: BTreeSet<ObjectKey>,
    data_path: DataPath,
    health_checks: HealthChecks,
    notices: Notices,
    localhost_ports: Option<LocalhostPorts>,
    started: bool,
    /// Whether a commit succeeded in both families.
    committed: bool,
    /// Whether to complain when there is no Node of this name; a folder of manifests need not have one.
    expects_node: bool,
    /// How many commits in a row have failed.
    failures: u32,
    /// When to compare the tables again, because something that is wanted is not in place.
    retry: Option<Instant>,
    drift: Drift,
    latency: Latency,
    /// Until when the first commit waits for the ServiceCIDRs.
    cidrs_awaited: Option<Instant>,
}

/// The half of DNS.
struct Dns {
    records: Arc<Records>,
    /// Names that wait until the rules for them are committed.
    waiting: Names,
    /// Names whose rules are being committed.
    committing: Names,
    synced: bool,
    /// Whether the sockets are open.
    serving: watch::Receiver<bool>,
    /// Addresses on which the pods of this node are answered here.
    local: Vec<IpAddr>,
    /// While it is there, questions to those addresses come here; without it they go to the servers behind the cluster's DNS service.
    switch: Option<DnsSwitch>,
    /// When to try to close the switch again, because the kernel refused it.
    retry_switch: Option<Instant>,
}

#[derive(Default)]
struct Names {
    services: BTreeSet<ObjectKey>,
    since: Option<Instant>,
}

impl Follow {
    /// A state that knows nothing yet. Without a data path names are published at once. The flag beside the records says whether they are served.
    pub fn new(
        config: &Config,
        data_path: Option<DataPath>,
        names: Option<(Arc<Records>, watch::Receiver<bool>)>,
        reports: Reports,
        addresses: watch::Receiver<()>,
    ) -> Follow {
        let Reports { status, ready, notices, service_health, localhost_ports } = reports;
        let plan = data_path.map(|data_path| Plan {
            planner: Planner::default(),
            context: Context {
                node_name: config.node_name.clone(),
                dns_addresses: super::local_dns::addresses(config),
                ..Context::default()
            },
            nodeports: config.proxy.nodeport_addresses.clone(),
            service_cidrs: config.proxy.service_cidrs.clone(),
            planned_cidrs: BTreeSet::new(),
            gathered: super::fixed_elements(config),
            data_path,
            health_checks: HealthChecks::new(service_health),
            notices,
            localhost_ports,
            without_affinity: BTreeSet::new(),
            started: false,
            committed: false,
            expects_node: !matches!(config.cluster, ClusterSource::Manifests(_)),
            failures: 0,
            retry: None,
            drift: Drift::default(),
            latency: Latency::new(),
            cidrs_awaited: None,
        });
        let dns = names.map(|(records, serving)| Dns {
            records,
            serving,
            waiting: Names::default(),
            committing: Names::default(),
            synced: false,
            local: super::local_dns::addresses(config),
            switch: None,
            retry_switch: None,
        });
        Follow { store: Store::default(), plan, dns, status, ready, addresses }
    }

    /// Follows the updates until they end or `stopped` is closed. What is under way in the kernel then is finished by its thread.
    pub async fn run(mut self, mut updates: mpsc::Receiver<Update>, mut stopped: watch::Receiver<()>) {
        let mut buffer = Vec::with_capacity(UPDATES_AT_ONCE);
        let mut addresses = interval(RETRY_REFUSED);
        addresses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.dns.as_ref().and_then(Dns::deadline);
            let retry = self.plan.as_ref().and_then(|plan| plan.retry);
            let look = self.plan.as_ref().filter(|plan| !plan.data_path.is_busy()).and_then(|plan| plan.drift.due());
            let cidrs_awaited = self.plan.as_ref().filter(|plan| !plan.started).and_then(|plan| plan.cidrs_awaited);
            let retry_switch = self.dns.as_ref().and_then(|dns| dns.retry_switch);
            tokio::select! {
                count = updates.recv_many(&mut buffer, UPDATES_AT_ONCE) => {
                    if count == 0 {
                        tracing::error!("the source of updates ended; the tables and names stay as they are");
                        return;
                    }
                    buffer.drain(..).for_each(|update| self.take_in(update));
                }
                word = data_path_says(&mut self.plan) => match word {
                    Word::Done(done) => self.committed(done),
                    Word::Disturbed(disturbance) => self.suspect(disturbance),
                },
                () = at(deadline) => self.publish_overdue(),
                () = at(retry) => self.compare(),
                () = at(look) => self.compare(),
                () = at(cidrs_awaited) => {}
                () = at(retry_switch) => self.dns.iter_mut().for_each(|dns| dns.retry_switch = None),
                _ = addresses.tick() => self.look_at_addresses(),
                Ok(()) = self.addresses.changed() => self.look_at_addresses(),
                () = dns_serves(&mut self.dns) => {}
                _ = stopped.changed() => return,
            }
            self.act();
            // Before the tables are in place the servers elsewhere give the better answers.
            if let Some(dns) = &mut self.dns
                && self.plan.as_ref().is_none_or(|plan| plan.committed)
            {
                dns.close_switch();
            }
        }
    }

    fn take_in(&mut self, update: Update) {
        if let Some(plan) = &self.plan {
            match update {
                Update::Service(_) | Update::ServiceGone(_) => plan.data_path.metrics.service_changed(),
                Update::Slice(_) | Update::SliceGone(_) => plan.data_path.metrics.slice_changed(),
                _ => {}
            }
        }
        let listed = match update {
            Update::ListEnd(kind) => Some(kind),
            _ => None,
        };
        let of_node = matches!(update, Update::Node(_) | Update::NodeGone | Update::ListEnd(Kind::Node));
        self.store.apply(update);
        if let Some(kind) = listed.filter(|kind| self.store.is_listed(*kind)) {
            self.status.listed(kind);
        }
        if of_node {
            self.status.node(self.store.node().map(|node| node.eligible));
            if let Some(plan) = &mut self.plan {
                plan.look_for_node(&self.store);
            }
        }
    }

    /// Plans and hands over what changed. Nothing is programmed or published before the first full listing: half a cluster is worse than the
    /// state that the last agent left. Namespaces are needed only to say that a name does not exist.
    fn act(&mut self) {
        let needed: &[Kind] =
            if self.plan.is_some() { &[Kind::Service, Kind::Slice, Kind::Node] } else { &[Kind::Service, Kind::Slice] };
        if !needed.iter().all(|kind| self.store.is_listed(*kind)) || !self.has_service_cidrs() {
            return;
        }
        let dirty = self.store.take_dirty();
        if let Some(plan) = &mut self.plan {
            plan.plan(&self.store, &dirty);
            if plan.is_settled() {
                plan.health_checks.publish_planned();
                plan.latency.settled(&plan.data_path.metrics);
                plan.data_path.metrics.nothing_pending();
            }
        }
        if let Some(dns) = &mut self.dns {
            dns.take(&self.store, dirty);
        }
        match &mut self.plan {
            Some(plan) => {
                if let Some(dns) = &mut self.dns
                    && plan.is_settled()
                {
                    dns.publish_waiting(&self.store);
                    dns.synced(&self.store);
                }
                if plan.hand_over(&self.status)
                    && let Some(dns) = &mut self.dns
                {
                    dns.committing = std::mem::take(&mut dns.waiting);
                }
            }
            None => {
                if let Some(dns) = &mut self.dns {
                    dns.publish_waiting(&self.store);
                    dns.synced(&self.store);
                }
            }
        }
        self.announce();
    }

    /// The first commit waits a moment for the ServiceCIDRs, so that it need not take away what it is about to add. No longer: an API server may
    /// not have them, or not show them to us.
    fn has_service_cidrs(&mut self) -> bool {
        let listed = self.store.is_listed(Kind::ServiceCidr);
        let Some(plan) = self.plan.as_mut().filter(|plan| !listed && !plan.started) else { return true };
        *plan.cidrs_awaited.get_or_insert_with(|| Instant::now() + SERVICE_CIDR_DEADLINE) <= Instant::now()
    }

    fn committed(&mut self, done: Done) {
        let Some(plan) = &mut self.plan else { return };
        plan.report(&done, &self.status);
        if let Some(dns) = &mut self.dns {
            let names = std::mem::take(&mut dns.committing);
            if plan.failures == 0 {
                dns.publish(&self.store, names.services);
                dns.synced(&self.store);
            } else {
                dns.wait_on(names);
            }
        }
    }

    fn announce(&mut self) {
        let in_kernel = self.plan.as_ref().is_none_or(|plan| plan.committed);
        let in_dns = self.dns.as_ref().is_none_or(|dns| dns.synced);
        if in_kernel && in_dns && !*self.ready.borrow() {
            tracing::info!(services = self.store.service_count(), "ready");
            self.ready.send_replace(true);
        }
    }

    fn publish_overdue(&mut self) {
        let Some(dns) = &mut self.dns else { return };
        tracing::warn!("the kernel has not taken a change for a second; its names are published all the same");
        let committing = std::mem::take(&mut dns.committing);
        dns.publish(&self.store, committing.services);
        dns.publish_waiting(&self.store);
        dns.synced(&self.store);
    }

    fn compare(&mut self) {
        let Some(plan) = &mut self.plan else { return };
        plan.retry = None;
        if !plan.data_path.is_busy() && plan.started {
            plan.drift.looking();
            plan.data_path.compare();
        }
    }

    fn suspect(&mut self, disturbance: Disturbance) {
        if let Some(plan) = &mut self.plan {
            plan.drift.suspect(disturbance);
        }
    }

    fn look_at_addresses(&mut self) {
        let Some(plan) = &mut self.plan else { return };
        if !plan.nodeports.networks.is_empty() && plan.started {
            plan.follow_node(&self.store);
        }
    }
}

/// Waits until then; for ever when there is no such moment.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Waits for what the data path has to say; for ever when there is none.
async fn data_path_says(plan: &mut Option<Plan>) -> Word {
    match plan {
        Some(plan) => plan.data_path.next().await,
        None => std::future::pending().await,
    }
}

/// Waits until the DNS sockets are open after all.
async fn dns_serves(dns: &mut Option<Dns>) {
    if let Some(dns) = dns
        && dns.serving.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Plan {
    fn plan(&mut self, store: &Store, dirty: &Dirty) {
        if dirty.node || !self.started {
            self.follow_node(store);
        }
        if dirty.service_cidrs || !self.started {
            self.follow_service_cidrs(store);
        }
        dirty.services.iter().for_each(|key| self.plan_service(store, key));
        self.latency.plan(&dirty.triggers);
    }

    /// Whether everything that was planned is in the kernel.
    fn is_settled(&self) -> bool {
        self.started && self.failures == 0 && self.gathered.is_empty() && !self.data_path.is_busy()
    }

    fn plan_service(&mut self, store: &Store, key: &ObjectKey) {
        self.report_affinity(store, key);
        self.health_checks.plan(key, store, &self.context.node_name);
        if let Some(ports) = &self.localhost_ports {
            ports.set(key, store.service(key));
        }
        let mut keys = vec![key.clone()];
        while let Some(key) = keys.pop() {
            let slices = store.slices(&key);
            let outcome = self.planner.update(&key, store.service(&key), &slices, &self.context, &mut self.gathered);
            for conflict in outcome.conflicts {
                let Conflict { dest, loser, kind, winner } = conflict;
                let note = format!("the {kind} {dest} belongs to service {winner}: give one of the two another address or port");
                self.notices.tell(&ADDRESS_CONFLICT, Subject::Service(loser), note);
            }
            keys.extend(outcome.promoted);
        }
    }

    /// Says once for each service that its connections are spread although it asks for session affinity: nobody shall have to find out.
    fn report_affinity(&mut self, store: &Store, key: &ObjectKey) {
        if store.service(key).is_none_or(|service| !service.proxied || service.affinity_seconds.is_none()) {
            self.without_affinity.remove(key);
        } else if self.without_affinity.insert(key.clone()) {
            tracing::warn!(service = %key, "sessionAffinity ClientIP is not supported yet: its connections go to any endpoint");
        }
    }

    /// A name that no Node has is an easy mistake that is hard to see: services work, but no endpoint is local and no NodePort answers.
    fn look_for_node(&mut self, store: &Store) {
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

    /// Plans every service again when the node's addresses changed.
    fn follow_node(&mut self, store: &Store) {
        let node = store.node();
        let context = Context {
            node_name: self.context.node_name.clone(),
            dns_addresses: self.context.dns_addresses.clone(),
            zone: node.and_then(|node| node.zone.clone()),
            node_addresses: node.map(|node| node.addresses.clone()).unwrap_or_default(),
            nodeport_addresses: nodeport_addresses(&self.nodeports, node, &self.context.dns_addresses),
        };
        if context != self.context {
            tracing::info!(addresses = ?context.nodeport_addresses, zone = ?context.zone, "NodePorts answer on these addresses, in this zone");
            self.health_checks.set_addresses(&context.nodeport_addresses);
            self.context = context;
            self.planner.services().iter().for_each(|key| self.plan_service(store, key));
        }
    }

    /// Networks are merged, because overlapping intervals are an error to the kernel.
    fn follow_service_cidrs(&mut self, store: &Store) {
        let all: Vec<IpNet> = self.service_cidrs.iter().chain(store.service_cidrs()).copied().collect();
        let wanted: BTreeSet<IpNet> = IpNet::aggregate(&all).into_iter().collect();
        let changed = self.planned_cidrs.symmetric_difference(&wanted);
        self.gathered.elements.extend(changed.map(|network| (Element::ServiceCidr(*network), wanted.contains(network))));
        self.planned_cidrs = wanted;
    }

    /// Hands the gathered changes to the data path, unless it is busy or there is nothing to do. The first commit happens in any case: it
    /// makes the tables, and removes what an earlier agent left.
    fn hand_over(&mut self, status: &Status) -> bool {
        if self.gathered.is_empty() && self.started {
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
        self.data_path.commit(std::mem::take(&mut self.gathered));
        self.data_path.metrics.nothing_pending();
        self.health_checks.committing();
        self.latency.committing();
        true
    }

    fn report(&mut self, done: &Done, status: &Status) {
        let mut failed = Vec::new();
        for outcome in &done.committed.families {
            let (family, elements) = (outcome.family, outcome.elements);
            self.data_path.metrics.committed(outcome);
            if done.repaired && outcome.error.is_none() && (elements > 0 || outcome.rebuilt.is_some()) {
                self.data_path.metrics.repaired(family);
                self.notices.tell(&TABLE_REPAIRED, Subject::Node, self.drift.repaired(family));
                tracing::info!(%family, elements, rebuilt = outcome.rebuilt.is_some(), "put the table right");
            }
            if let Some(why) = &outcome.rebuilt {
                tracing::info!(%family, why, "made the table anew");
            }
            for rejected in &outcome.rejected {
                self.report_refused(family, rejected);
            }
            match &outcome.error {
                Some(error) => {
                    failed.push(family);
                    tracing::error!(%family, %error, "the table is not up to date; trying again");
                }
                None if elements > 0 => {
                    tracing::debug!(%family, elements, batches = outcome.batches, took = ?done.took, "committed")
                }
                None => {}
            }
        }
        self.drift.looked(done);
        self.latency.committed(&failed, &self.data_path.metrics);
        self.count_without_local();
        self.committed |= failed.is_empty();
        if failed.is_empty() {
            self.health_checks.publish_committed();
        }
        self.failures = if failed.is_empty() { 0 } else { self.failures.saturating_add(1) };
        self.retry = match (failed.is_empty(), done.behind) {
            (false, _) => Some(Instant::now() + (RETRY_FAILED * 2u32.pow(self.failures.min(8) - 1)).min(RETRY_REFUSED)),
            (true, true) => Some(Instant::now() + RETRY_REFUSED),
            (true, false) => None,
        };
        for family in Family::BOTH.into_iter().filter(|family| !failed.contains(family)) {
            status.committed(family);
            // What gathered meanwhile has waited only since this commit began: a busy cluster is not a stuck kernel.
            if !self.gathered.is_empty() {
                status.queued(family);
            }
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
        };
        let node = &self.context.node_name;
        let note = format!("the kernel of {node} refused {what} ({family}); everything else is in place: {reason}");
        self.notices.tell(&KERNEL_REFUSED, about, note);
    }
}

impl Dns {
    /// Removed names disappear at once; the others wait for the data path.
    fn take(&mut self, store: &Store, dirty: Dirty) {
        for name in &dirty.namespaces {
            self.set_namespace(store, name);
        }
        for key in dirty.services {
            if store.service(&key).is_none() {
                self.records.publish(&key, None, &store.slices(&key));
            } else {
                self.waiting.services.insert(key);
                self.waiting.since.get_or_insert_with(Instant::now);
            }
        }
    }

    fn set_namespace(&self, store: &Store, name: &Name) {
        self.records.set_namespace(name, store.has_namespace(name));
    }

    /// Names whose commit failed wait on, until their deadline.
    fn wait_on(&mut self, names: Names) {
        self.waiting.services.extend(names.services);
        self.waiting.since = [self.waiting.since, names.since].into_iter().flatten().min();
    }

    fn publish_waiting(&mut self, store: &Store) {
        let names = std::mem::take(&mut self.waiting);
        self.publish(store, names.services);
    }

    fn publish(&self, store: &Store, services: BTreeSet<ObjectKey>) {
        for key in services {
            self.records.publish(&key, store.service(&key), &store.slices(&key));
        }
    }

    /// From now on a name that is not known does not exist.
    fn synced(&mut self, store: &Store) {
        if !self.synced && store.is_listed(Kind::Namespace) {
            tracing::info!(services = store.service_count(), "cluster names are served");
            self.records.set_synced();
            self.synced = true;
        }
    }

    /// From now on the pods of this node are answered here, once all names are known and the sockets are open. Tried again after a while
    /// when it fails; meanwhile they are answered elsewhere.
    fn close_switch(&mut self) {
        let is_due = self.switch.is_none() && self.retry_switch.is_none();
        if !self.synced || self.local.is_empty() || !is_due || !*self.serving.borrow() {
            return;
        }
        match DnsSwitch::close(&self.local) {
            Ok(switch) => {
                tracing::info!(addresses = ?self.local, "this node answers its own DNS questions");
                self.switch = Some(switch);
            }
            Err(error) => {
                tracing::error!(%error, "DNS questions of this node go to the cluster's DNS service; trying again");
                self.retry_switch = Some(Instant::now() + RETRY_REFUSED);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let oldest = [self.waiting.since, self.committing.since].into_iter().flatten().min()?;
        Some(oldest + PUBLISH_DEADLINE)
    }
}
