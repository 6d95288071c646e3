//! The task that owns the state: it takes updates in, plans, has them committed, and publishes names.

use super::data_path::{DataPath, Done, Word};
use super::last_state::LastState;
use super::localhost_ports::LocalhostPorts;
use super::names::{Dns, Published};
use super::plan::Plan;
use super::stale_flows::StaleFlows;
use super::watchdog::GuardedSwitch;
use crate::admin::{ServiceHealth, Status};
use crate::config::Config;
use crate::model::{Demand, Kind, Service, ServiceKind, Update};
use crate::nft::Disturbance;
use crate::notices::Notices;
use crate::proxy::Dest;
use crate::proxy::explain::{Account, explain};
use crate::socket::{Explained, Inquiry};
use crate::store::Store;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// So many updates are taken in at once before the next look at the plan.
const UPDATES_AT_ONCE: usize = 1024;
/// The first commit waits for the ServiceCIDRs at most this long after everything else was listed.
const SERVICE_CIDR_DEADLINE: Duration = Duration::from_secs(2);
/// What the kernel refused (elements, the DNS switch), and the node's local addresses, are looked at again this often.
pub const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// The agent's state and what it acts on.
pub struct Follow {
    store: Store,
    plan: Option<Plan>,
    dns: Option<Dns>,
    status: Status,
    ready: watch::Sender<bool>,
    home: watch::Sender<bool>,
    last_state: Option<LastState>,
    /// Told when an address of the host comes or goes.
    addresses: watch::Receiver<()>,
    /// What people want to know.
    inquiries: mpsc::Receiver<Inquiry>,
    domain: String,
    /// Since when all is known that is needed.
    listed: Option<Instant>,
}

/// Where the task reports to.
pub struct Reports {
    /// Health and readiness.
    pub status: Status,
    /// Told when everything of the first full listing is in place.
    pub ready: watch::Sender<bool>,
    /// Told when DNS is served besides, and the questions of this node come here as far as they are to.
    pub home: watch::Sender<bool>,
    /// Log and Events.
    pub notices: Notices,
    /// What load balancers are told about Services.
    pub service_health: ServiceHealth,
    /// NodePorts on loopback addresses, where they are wanted.
    pub localhost_ports: Option<LocalhostPorts>,
    /// Stale UDP flows.
    pub stale_flows: StaleFlows,
    /// What is known, for a start without an API server.
    pub last_state: Option<LastState>,
}

impl Follow {
    /// A state that knows nothing yet. Without a data path names are published at once. What is beside the records says whether they are served.
    pub fn new(
        config: &Config,
        data_path: Option<DataPath>,
        names: Option<Published>,
        reports: Reports,
        addresses: watch::Receiver<()>,
        inquiries: mpsc::Receiver<Inquiry>,
    ) -> Follow {
        let Reports { status, ready, home, notices, service_health, localhost_ports, stale_flows, last_state } = reports;
        let plan = data_path.map(|data_path| Plan::new(config, data_path, notices, service_health, localhost_ports, stale_flows));
        let dns = names.map(|names| Dns::new(config, names, plan.is_some()));
        let domain = config.dns.domain.clone();
        Follow { store: Store::default(), plan, dns, status, ready, home, last_state, addresses, inquiries, domain, listed: None }
    }

    /// Follows the updates until they end or `stopped` is closed. New questions of DNS go elsewhere then; what is returned keeps the connections
    /// here that have begun here. What is under way in the kernel then is finished by its thread.
    pub async fn run(mut self, mut updates: mpsc::Receiver<Update>, mut stopped: watch::Receiver<()>) -> Option<GuardedSwitch> {
        let mut buffer = Vec::with_capacity(UPDATES_AT_ONCE);
        let mut addresses = interval(RETRY_REFUSED);
        addresses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.dns.as_ref().and_then(Dns::deadline);
            let idle = self.plan.as_ref().filter(|plan| !plan.data_path.is_busy());
            let retry = idle.and_then(|plan| plan.attempts.next());
            let warming = self.plan.as_ref().and_then(Plan::next_warming);
            let look_at_addresses = self.plan.as_ref().filter(|plan| plan.started).and_then(|plan| plan.local_addresses.again);
            let look = idle.and_then(|plan| plan.drift.due());
            let cidrs_awaited = self.plan.as_ref().filter(|plan| !plan.started).and_then(|plan| plan.cidrs_awaited);
            let demand_awaited = self.dns.as_ref().and_then(Dns::demand_awaited);
            let last_state = self.last_state.as_ref().and_then(LastState::next);
            let retry_switch = self.dns.as_ref().and_then(|dns| dns.retry_switch);
            tokio::select! {
                count = updates.recv_many(&mut buffer, UPDATES_AT_ONCE) => {
                    if count == 0 {
                        tracing::error!("the source of updates ended; the tables and names stay as they are");
                        return self.open_switch();
                    }
                    buffer.drain(..).for_each(|update| self.take_in(update));
                }
                word = data_path_says(&mut self.plan) => match word {
                    Word::Done(done) => self.committed(done),
                    Word::Disturbed(disturbance) => self.suspect(disturbance),
                },
                () = at(deadline) => self.publish_overdue(),
                () = at(retry) => self.plan.iter_mut().for_each(Plan::retry),
                () = at(look) => self.compare(),
                () = at(cidrs_awaited) => {}
                () = at(demand_awaited) => {}
                () = at(last_state) => self.look_at_last_state(),
                () = at(warming) => self.plan.iter_mut().for_each(|plan| plan.warm_up(&self.store)),
                () = at(retry_switch) => self.dns.iter_mut().for_each(|dns| dns.retry_switch = None),
                _ = addresses.tick() => self.look_at_addresses(),
                () = at(look_at_addresses) => self.look_at_addresses(),
                Ok(()) = self.addresses.changed() => self.look_at_addresses(),
                () = dns_changes(&mut self.dns) => self.remember_what_is_demanded(),
                Some(inquiry) = self.inquiries.recv() => self.answer(inquiry),
                _ = stopped.changed() => {
                    if let Some(last_state) = &mut self.last_state {
                        last_state.finish(&self.store).await;
                    }
                    return self.open_switch();
                }
            }
            self.act();
            // Before the tables are in place the servers elsewhere give the better answers.
            if let Some(dns) = &mut self.dns
                && self.plan.as_ref().is_none_or(|plan| plan.committed)
            {
                dns.close_switch();
                if dns.is_to_be_local() {
                    self.status.dns_local(dns.is_local());
                }
            }
            let serves = |dns: &Dns| dns.serving.borrow().is_some() && (dns.is_local() || !dns.is_to_be_local());
            if *self.ready.borrow() && self.dns.as_ref().is_none_or(serves) {
                self.home.send_if_modified(|home| !std::mem::replace(home, true));
            }
        }
    }

    /// New questions go elsewhere from now on.
    fn open_switch(&mut self) -> Option<GuardedSwitch> {
        self.dns.as_mut()?.open_switch()
    }

    fn take_in(&mut self, update: Update) {
        if let Some(plan) = &self.plan {
            // What kube-proxy does not watch is no change to its metrics.
            let is_proxied = |service: &Service| service.proxied && service.kind != ServiceKind::Headless;
            match &update {
                Update::Service(service) if is_proxied(service) => plan.data_path.metrics.service_changed(),
                Update::ServiceGone(key) if self.store.service(key).is_some_and(is_proxied) => {
                    plan.data_path.metrics.service_changed()
                }
                Update::Slice(slice) if !slice.headless => plan.data_path.metrics.slice_changed(),
                Update::SliceGone(key) if self.store.slice(key).is_some_and(|slice| !slice.headless) => {
                    plan.data_path.metrics.slice_changed()
                }
                _ => {}
            }
        }
        let listed = match update {
            Update::ListEnd(kind) => Some(kind),
            _ => None,
        };
        let needed = self.needed();
        if let (Update::Unreachable, Some(last_state)) = (&update, &mut self.last_state) {
            last_state.hurry();
        }
        // What the API server does not tell us must not be served for ever; but without namespaces nobody would be answered.
        if let (Update::Refused(kind), Some(last_state)) = (&update, &mut self.last_state)
            && !needed.contains(kind)
            && last_state.refused(*kind)
            && Demand::KINDS.contains(kind)
        {
            self.store.forget(*kind);
        }
        let of_node = matches!(update, Update::Node(_) | Update::NodeGone | Update::ListEnd(Kind::Node));
        self.store.apply(update);
        if let Some(kind) = listed.filter(|kind| self.store.is_listed(*kind)) {
            self.status.listed(kind);
            if let Some(last_state) = &mut self.last_state {
                last_state.listed(kind);
            }
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
        if !self.needed().iter().all(|kind| self.store.is_listed(*kind)) || !self.has_service_cidrs() {
            return;
        }
        self.listed.get_or_insert_with(Instant::now);
        let dirty = self.store.take_dirty();
        if let Some(last_state) = self.last_state.as_mut().filter(|_| !dirty.is_empty()) {
            last_state.changed(dirty.is_of_pods_alone());
        }
        if let Some(plan) = &mut self.plan {
            plan.plan(&self.store, &dirty);
            if plan.is_settled() {
                plan.health_checks.publish_planned();
                plan.latency.settled(&plan.attempts.failing(), &plan.data_path.metrics);
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
                    dns.committing(&self.store);
                }
            }
            None => {
                if let Some(dns) = &mut self.dns {
                    dns.publish_waiting(&self.store);
                    dns.synced(&self.store);
                }
            }
        }
        if let Some(dns) = &mut self.dns {
            dns.tell_known(&self.store);
        }
        self.announce();
    }

    fn needed(&self) -> &'static [Kind] {
        if self.plan.is_some() { &[Kind::Service, Kind::Slice, Kind::Node] } else { &[Kind::Service, Kind::Slice] }
    }

    /// Serves the last known state if nothing was heard of the cluster, and saves what has changed.
    fn look_at_last_state(&mut self) {
        let (needed, demanded) = (self.needed(), self.demanded());
        // Taken out, so that it does not take its own updates for the API server's.
        let Some(mut last_state) = self.last_state.take() else { return };
        last_state.fall_back(&self.store, needed, demanded).into_iter().for_each(|update| self.take_in(update));
        last_state.save(&self.store);
        self.last_state = Some(last_state);
    }

    /// Serves more of the last known state, where that is served, because the zones need it now.
    fn remember_what_is_demanded(&mut self) {
        let demanded = self.demanded();
        let Some(mut last_state) = self.last_state.take() else { return };
        last_state.serve_besides(&self.store, demanded).into_iter().for_each(|update| self.take_in(update));
        self.last_state = Some(last_state);
    }

    fn demanded(&self) -> &'static [Kind] {
        self.dns.as_ref().map(Dns::demanded).unwrap_or_default()
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
            dns.committed(&self.store, !plan.attempts.hold_up());
        }
    }

    fn announce(&mut self) {
        if self.dns.as_ref().is_some_and(|dns| dns.synced) {
            Demand::KINDS.iter().for_each(|kind| self.status.without_kind(*kind));
        }
        let in_kernel = self.plan.as_ref().is_none_or(|plan| plan.committed);
        let in_dns = self.dns.as_ref().is_none_or(|dns| dns.synced);
        if in_kernel && in_dns && !*self.ready.borrow() {
            let took = self.listed.map(|listed| listed.elapsed()).unwrap_or_default();
            tracing::info!(services = self.store.service_count(), ?took, "ready: all that was listed is in place");
            self.ready.send_replace(true);
        }
    }

    fn publish_overdue(&mut self) {
        let Some(dns) = &mut self.dns else { return };
        tracing::warn!("the kernel has not taken a change for a second; its names are published all the same");
        dns.publish_overdue(&self.store);
    }

    fn compare(&mut self) {
        let Some(plan) = &mut self.plan else { return };
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

    /// Answers from memory. Before everything is listed there is no answer: half a cluster would be a wrong one.
    fn answer(&self, inquiry: Inquiry) {
        let Some(plan) = self.plan.as_ref().filter(|plan| plan.started) else { return };
        // Who asked may have lost patience.
        match inquiry {
            Inquiry::Explain(question, own_addresses, clients, reply) => {
                let node_wide = plan.node_wide(&self.store, self.dns.as_ref().is_some_and(Dns::is_switched));
                let view = plan.view(&self.store, &self.domain, &own_addresses, &node_wide, clients.as_deref());
                let explanation = explain(view, &question);
                let dests: Vec<Dest> = explanation.iter().flat_map(|one| &one.accounts).filter_map(Account::dest).collect();
                let planned = dests.iter().map(|dest| plan.planned(&self.store, *dest)).collect();
                let held = plan.data_path.look(dests);
                let _ = reply.send(Explained { explanation, planned, held });
            }
            Inquiry::Services(reply) => {
                let _ = reply.send((plan.node_name().to_string(), self.store.service_keys().cloned().collect()));
            }
            Inquiry::Rows(keys, reply) => {
                let _ = reply.send(keys.iter().filter_map(|key| plan.row(&self.store, key)).collect());
            }
        }
    }

    fn look_at_addresses(&mut self) {
        let Some(plan) = &mut self.plan else { return };
        if !plan.config.nodeport_addresses.networks.is_empty() && plan.started {
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

/// Waits until the DNS sockets are open after all, or the zones need to know more of the cluster.
async fn dns_changes(dns: &mut Option<Dns>) {
    if let Some(dns) = dns {
        tokio::select! {
            Ok(()) = dns.serving.changed() => return,
            Ok(()) = dns.demand.changed() => return,
            else => {}
        }
    }
    std::future::pending().await
}
