//! The half of DNS of the agent's task: names are published once their rules are committed.

use super::follow::RETRY_REFUSED;
use super::watchdog::GuardedSwitch;
use crate::config::Config;
use crate::dns::chain::Chain;
use crate::dns::metrics::Metrics;
use crate::dns::pulse::Pulses;
use crate::dns::records::Records;
use crate::model::{Demand, Details, Kind, Name, ObjectKey, ServiceKind};
use crate::nft::{self, NftError, Tracking};
use crate::store::{Dirty, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::Instant;

/// Names wait for the data path at most this long, so that a stuck kernel never freezes DNS.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(1);
/// What is watched only because the zones need it is waited for at most this long once everything else is there (CoreDNS's `startup_timeout`):
/// the agent may not be allowed to watch it. What it is needed for fails until it comes.
pub const DEMAND_DEADLINE: Duration = Duration::from_secs(5);

/// Names on their way into the records, and the switch that leads questions to them.
pub struct Dns {
    records: Arc<Records>,
    metrics: Arc<Metrics>,
    /// Changes from before that have waited for this agent, and not for its work.
    started: SystemTime,
    /// When the changes of Services whose names are not published yet were triggered.
    triggers: BTreeMap<ObjectKey, Vec<SystemTime>>,
    /// Names that wait until the rules for them are committed.
    waiting: Names,
    /// Names whose rules are being committed.
    committing: Names,
    pub synced: bool,
    /// What the zones need beyond services and namespaces, and who waits for it.
    chain: Chain,
    /// Told when they need more.
    pub demand: watch::Receiver<Demand>,
    /// What of it is in the store, and since when.
    listed: (Demand, Instant),
    /// Until when that is waited for.
    demand_awaited: Option<Instant>,
    /// Signs of life of the server, once the sockets are open.
    pub serving: watch::Receiver<Option<Pulses>>,
    /// Addresses on which the pods of this node are answered here.
    local: Vec<IpAddr>,
    /// How questions to them are kept here.
    tracking: Tracking,
    /// While it is there, questions to those addresses come here; without it they go to the servers behind the cluster's DNS service.
    switch: Option<GuardedSwitch>,
    /// When to try to close the switch again, because the kernel refused it.
    pub retry_switch: Option<Instant>,
}

/// The names, the metrics of DNS, and whether they are served.
pub type Published = (Arc<Records>, Arc<Metrics>, watch::Receiver<Option<Pulses>>, Chain);

/// Names that are published together.
#[derive(Default)]
pub struct Names {
    services: BTreeSet<ObjectKey>,
    since: Option<Instant>,
    /// Whether they are in the records already, which hold them back.
    prepared: bool,
}

impl Dns {
    /// Names that nobody knows yet, nor shall before the first commit, where there are rules to commit. What is beside the records says whether they are
    /// served.
    pub fn new(config: &Config, (records, metrics, serving, chain): Published, with_rules: bool) -> Dns {
        if with_rules {
            records.hold_back();
        }
        Dns {
            records,
            metrics,
            started: SystemTime::now(),
            triggers: BTreeMap::new(),
            serving,
            waiting: Names::default(),
            committing: Names::default(),
            synced: false,
            demand: chain.demand(),
            chain,
            listed: (Demand::default(), Instant::now()),
            demand_awaited: None,
            local: super::local_dns::addresses(config),
            tracking: if config.proxy.tracked_dns { Tracking::Tracked } else { Tracking::Untracked },
            switch: None,
            retry_switch: None,
        }
    }

    /// Removed names disappear at once; the others wait for the data path.
    pub fn take(&mut self, store: &Store, dirty: Dirty) {
        for name in &dirty.namespaces {
            self.set_namespace(store, name);
        }
        // What is forgotten is unknown first, and then gone; what is listed is there first, and then all there is.
        let (pods, imports) = (store.is_listed(Kind::Pod), store.is_listed(Kind::Import) && store.is_listed(Kind::ImportedSlice));
        if !pods {
            self.records.set_pods_listed(false);
        }
        if !imports {
            self.records.set_imports_listed(false);
        }
        dirty.pods.iter().for_each(|pod| self.records.move_pod(pod));
        for key in &dirty.imports {
            self.records.publish_import(key, store.import(key), &store.imported_slices(key));
        }
        self.records.set_pods_listed(pods);
        self.records.set_imports_listed(imports);
        for (key, triggers) in dirty.triggers {
            let mut new = triggers.into_iter().map(|trigger| trigger.time).filter(|time| *time > self.started).peekable();
            if new.peek().is_some() {
                self.triggers.entry(key).or_default().extend(new);
            }
        }
        for key in dirty.services {
            if store.service(&key).is_none() {
                self.records.publish(&key, None, &store.slices(&key));
                self.triggers.remove(&key);
            } else {
                self.waiting.services.insert(key);
                self.waiting.since.get_or_insert_with(Instant::now);
            }
        }
    }

    fn set_namespace(&self, store: &Store, name: &Name) {
        self.records.set_namespace(name, store.has_namespace(name), store.namespace_labels(name));
    }

    /// The names that wait are those of the commit that has begun. At a first start they are put into the records meanwhile, where nobody sees them before
    /// its end: that there are ten thousand of them takes no time then.
    pub fn committing(&mut self, store: &Store) {
        self.committing = std::mem::take(&mut self.waiting);
        if self.records.are_held_back() {
            self.committing.services.iter().for_each(|key| self.records.publish(key, store.service(key), &store.slices(key)));
            self.committing.prepared = true;
        }
    }

    /// The commit has come to its end: its names are published, or wait on until their deadline.
    pub fn committed(&mut self, store: &Store, is_in_place: bool) {
        let names = std::mem::take(&mut self.committing);
        if is_in_place {
            self.publish(store, names);
            self.synced(store);
            return;
        }
        self.waiting.services.extend(names.services);
        self.waiting.since = [self.waiting.since, names.since].into_iter().flatten().min();
    }

    /// Publishes the names whose time is up, whatever became of their rules.
    pub fn publish_overdue(&mut self, store: &Store) {
        let committing = std::mem::take(&mut self.committing);
        self.publish(store, committing);
        self.publish_waiting(store);
        self.synced(store);
    }

    /// Publishes the names that wait.
    pub fn publish_waiting(&mut self, store: &Store) {
        let names = std::mem::take(&mut self.waiting);
        self.publish(store, names);
    }

    /// Publishes the names of these services as they are now; those of a start as they were prepared, and what has changed since then waits for a commit
    /// of its own.
    fn publish(&mut self, store: &Store, names: Names) {
        for key in names.services {
            let service = store.service(&key);
            if !names.prepared {
                self.records.publish(&key, service, &store.slices(&key));
            }
            // What has changed since it was prepared is programmed by its own commit.
            let is_later = names.prepared && self.waiting.services.contains(&key);
            let triggers = if is_later { Vec::new() } else { self.triggers.remove(&key).unwrap_or_default() };
            if let Some(service) = service {
                let is_headless = service.kind == ServiceKind::Headless;
                triggers.into_iter().for_each(|time| self.metrics.programmed(is_headless, time));
            }
        }
        self.records.show();
    }

    /// From now on a name that is not known does not exist.
    pub fn synced(&mut self, store: &Store) {
        if !self.synced && store.is_listed(Kind::Namespace) && self.has_what_was_demanded(store) {
            tracing::info!(services = store.service_count(), "cluster names are served");
            self.records.set_synced();
            self.synced = true;
        }
    }

    fn has_what_was_demanded(&mut self, store: &Store) -> bool {
        let demand = self.chain.asked_for();
        let Some(missing) = demand.kinds().iter().find(|kind| !store.is_listed(**kind)) else { return true };
        let is_over = *self.demand_awaited.get_or_insert_with(|| Instant::now() + DEMAND_DEADLINE) <= Instant::now();
        if is_over {
            tracing::warn!(
                "{missing} are not listed yet, which the zones need: DNS is served without, and what needs them fails (SERVFAIL)"
            );
        }
        is_over
    }

    /// The kinds that are watched because the zones need them.
    pub fn demanded(&self) -> &'static [Kind] {
        self.chain.asked_for().kinds()
    }

    /// Tells how much of what the zones need can be answered from: all that was waiting when it was listed must have been published.
    pub fn tell_known(&mut self, store: &Store) {
        let known = known(store, &self.chain.asked_for());
        if known != self.listed.0 {
            self.listed = (known.clone(), Instant::now());
        }
        if self.waiting_since().is_none_or(|since| since > self.listed.1) {
            self.chain.know(known);
        }
    }

    /// Until when what the zones need is waited for, while it is.
    pub fn demand_awaited(&self) -> Option<Instant> {
        self.demand_awaited.filter(|_| !self.synced)
    }

    /// From now on the pods of this node are answered here, once all names are known and the sockets are open. Tried again after a while
    /// when it fails; meanwhile they are answered elsewhere.
    pub fn close_switch(&mut self) {
        let is_due = self.switch.is_none() && self.retry_switch.is_none();
        let Some(pulses) = self.serving.borrow().clone() else { return };
        if !self.synced || self.local.is_empty() || !is_due {
            return;
        }
        match self.closed_switch(&pulses) {
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

    fn closed_switch(&mut self, pulses: &Pulses) -> Result<GuardedSwitch, NftError> {
        if self.tracking == Tracking::Tracked && !nft::knows_zones()? {
            tracing::warn!(
                "this kernel has no conntrack zones (CONFIG_NF_CONNTRACK_ZONES), which --dns-untracked=false needs: if this agent is killed, a client that \
                 keeps its UDP socket is refused until its flow has lapsed or an agent is back; others are answered elsewhere at once"
            );
            self.tracking = Tracking::TrackedWithoutZone;
        }
        GuardedSwitch::close(&self.local, self.tracking, pulses)
    }

    /// From now on the pods of this node are answered elsewhere, but for what they have begun here: that can be finished for as long as the returned
    /// value lives.
    pub fn open_switch(&mut self) -> Option<GuardedSwitch> {
        let mut switch = self.switch.take()?;
        switch.only_finish();
        Some(switch)
    }

    /// Whether the pods of this node are to be answered here.
    pub fn is_to_be_local(&self) -> bool {
        !self.local.is_empty()
    }

    /// Whether they are.
    pub fn is_local(&self) -> bool {
        self.switch.is_some()
    }

    /// Whether the questions of this node's pods come here.
    pub fn is_switched(&self) -> bool {
        self.switch.is_some()
    }

    /// When the oldest name that waits is published in any case.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.waiting_since()? + PUBLISH_DEADLINE)
    }

    fn waiting_since(&self) -> Option<Instant> {
        [self.waiting.since, self.committing.since].into_iter().flatten().min()
    }
}

/// How much of what is asked for was listed.
fn known(store: &Store, asked: &Demand) -> Demand {
    let all_listed = |kinds: &[Kind]| kinds.iter().all(|kind| store.is_listed(*kind));
    let watched = || [Kind::Service, Kind::Slice, Kind::Namespace].iter().chain(asked.kinds());
    let has = |detail: Details| {
        // Kinds that are watched for a demand are a matter of their own: perhaps the agent may not see them.
        let is_told = |kind: &Kind| match store.is_listed(*kind) {
            true => store.details(*kind).have(&detail.of(*kind)),
            false => Demand::KINDS.contains(kind),
        };
        if watched().all(is_told) { detail } else { Details::default() }
    };
    let details = asked.details.clone().single().map(has).fold(Details::default(), |all, more| all.and(&more));
    Demand {
        pods: asked.pods && all_listed(&[Kind::Pod]),
        imports: asked.imports && all_listed(&[Kind::Import, Kind::ImportedSlice]),
        details,
    }
}
