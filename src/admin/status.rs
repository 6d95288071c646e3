//! What the agent's parts report about themselves, and the judgement that health and readiness pages make of it.

use crate::config::{ClusterSource, Config, Role};
use crate::model::{Family, Kind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A change that waits longer than this for its commit makes the agent unhealthy: twice kube-proxy's sync period of 30 s.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

/// The agent's state as far as health and readiness depend on it. Cheap to clone and to write; all clones are one.
#[derive(Clone, Debug)]
pub struct Status(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// The families that are to be programmed.
    families: BTreeMap<Family, FamilyState>,
    /// The kinds whose first listing is awaited.
    unlisted: BTreeSet<Kind>,
    /// Whether the node takes traffic; `None` while it is unknown.
    node: Option<bool>,
    /// Whether an unknown node takes traffic: where no Node object is to be expected.
    without_node: bool,
    /// `None` where this agent serves no DNS.
    dns_serving: Option<bool>,
    /// Why DNS does not do what is written.
    dns_refused: Option<String>,
    /// `None` where the questions of this node are not to come here.
    dns_local: Option<bool>,
    /// Another agent serves this node, and has not handed over yet.
    second: bool,
    /// Another agent serves this node, to which this one has handed over.
    retired: bool,
    /// When the state that is served was known: while it is one of an earlier agent's.
    last_state: Option<SystemTime>,
    /// When the state that was saved last was known; `None` before the first time.
    saved_state: Option<SystemTime>,
    stopping: bool,
}

#[derive(Clone, Debug, Default)]
struct FamilyState {
    /// When the oldest change that still waits was queued.
    queued: Option<Instant>,
    committed: Option<SystemTime>,
    /// Why commits fail again and again.
    failing: Option<String>,
}

impl Status {
    /// The status of an agent that has done nothing yet.
    pub fn new(config: &Config) -> Status {
        let dns = config.role != Role::Proxy && !config.dns.addresses.is_empty();
        let without_node = config.role == Role::Dns || matches!(config.cluster, ClusterSource::Manifests(_));
        let (families, unlisted) = match config.role {
            Role::Dns => (BTreeMap::new(), BTreeSet::from([Kind::Service, Kind::Slice, Kind::Namespace])),
            Role::All | Role::Proxy => {
                let kinds = [Kind::Service, Kind::Slice, Kind::Namespace, Kind::Node];
                let families = Family::BOTH.map(|family| (family, FamilyState::default()));
                (families.into(), kinds.into())
            }
        };
        let dns_serving = dns.then_some(false);
        let state = State {
            families,
            unlisted,
            node: None,
            without_node,
            dns_serving,
            dns_refused: None,
            dns_local: None,
            second: false,
            retired: false,
            last_state: None,
            saved_state: None,
            stopping: false,
        };
        Status(Arc::new(Mutex::new(state)))
    }

    /// This kernel lacks the family, so that nobody waits for its commit.
    pub fn without_family(&self, family: Family) {
        self.state().families.remove(&family);
    }

    /// Readiness waits for the first listing of this kind as well.
    pub fn awaits(&self, kind: Kind) {
        self.state().unlisted.insert(kind);
    }

    /// This agent does not watch objects of this kind, so that nobody waits for its listing.
    pub fn without_kind(&self, kind: Kind) {
        self.state().unlisted.remove(&kind);
    }

    /// A change waits for its commit. Called again while one waits already, it changes nothing.
    pub fn queued(&self, family: Family) {
        self.queued_at(family, Instant::now());
    }

    /// All that was queued is committed.
    pub fn committed(&self, family: Family) {
        self.committed_at(family, SystemTime::now());
    }

    /// Commits of this family fail again and again, and why. It is over with the next [`Status::committed`].
    pub fn failing(&self, family: Family, why: String) {
        if let Some(state) = self.state().families.get_mut(&family) {
            state.failing = Some(why);
        }
    }

    /// Whether the node takes traffic; `None` when the API server has no such Node.
    pub fn node(&self, eligible: Option<bool>) {
        self.state().node = eligible;
    }

    /// The first full listing of this kind is in.
    pub fn listed(&self, kind: Kind) {
        self.state().unlisted.remove(&kind);
    }

    /// Whether DNS answers on its addresses.
    pub fn dns_serving(&self, serving: bool) {
        self.state().dns_serving = Some(serving);
    }

    /// Why DNS does not do what is written, while that is so.
    pub fn dns_refused(&self, why: Option<String>) {
        self.state().dns_refused = why;
    }

    /// Whether the questions of this node's pods come here: said only where they are to.
    pub fn dns_local(&self, local: bool) {
        self.state().dns_local = Some(local);
    }

    /// Whether another agent serves this node that has yet to hand over.
    pub fn second(&self, second: bool) {
        self.state().second = second;
    }

    /// Another agent serves this node from now on. This one is as ready and healthy as that one: to say otherwise would have it ended before
    /// it has finished its answers.
    pub fn retired(&self) {
        self.state().retired = true;
    }

    /// Whether the state of an earlier agent is served, and when that was known.
    pub fn serves_last_state(&self, known: Option<SystemTime>) {
        self.state().last_state = known;
    }

    /// The state of this moment is on disk.
    pub fn saved_state(&self, known: SystemTime) {
        self.state().saved_state = Some(known);
    }

    /// The agent is about to end: it is no longer ready, but still alive.
    pub fn stopping(&self) {
        self.state().stopping = true;
    }

    /// What readiness waits for, in words; empty when everything is there.
    pub fn pending(&self) -> Vec<String> {
        let state = self.state();
        let mut pending = state.pending_dns();
        if state.second {
            pending.push("another agent of this node to hand over".to_string());
        }
        // One family is better than none: it does not wait for one that cannot be had.
        let some_work = state.families.values().any(|family| family.committed.is_some());
        let is_awaited = |family: &FamilyState| family.committed.is_none() && !(some_work && family.failing.is_some());
        let awaited = state.families.iter().filter(|(_, family)| is_awaited(family));
        pending.extend(awaited.map(|(family, _)| format!("the first commit of the {family} table")));
        pending
    }

    /// What is to be known of an agent that is ready all the same, in words.
    pub fn remarks(&self) -> Vec<String> {
        let age = self.last_state_age();
        let old =
            age.map(|age| format!("with the last known state, {} s old: the API server has not been reached", age.as_secs()));
        let state = self.state();
        let failing = state.families.iter().filter_map(|(family, state)| Some((family, state.failing.as_ref()?)));
        let failing = failing.map(|(family, why)| format!("but the {family} table is not up to date: {why}"));
        let refused = state.dns_refused.iter();
        let refused = refused.map(|why| format!("but DNS does not do what is written, and goes on as before: {why}"));
        old.into_iter().chain(failing).chain(refused).collect()
    }

    /// What the readiness of DNS waits for.
    pub fn pending_dns(&self) -> Vec<String> {
        self.state().pending_dns()
    }

    /// The judgement of `/healthz` and `/livez`.
    pub fn health(&self) -> Health {
        self.health_at(Instant::now())
    }

    /// How long the oldest change of this family has waited for its commit; `None` where the family is not programmed.
    pub(super) fn waiting(&self, family: Family, now: Instant) -> Option<Duration> {
        let state = self.state();
        let queued = state.families.get(&family)?.queued;
        Some(queued.map_or(Duration::ZERO, |queued| now.saturating_duration_since(queued)))
    }

    /// Whether commits of this family fail again and again; `None` where the family is not programmed.
    pub(super) fn is_failing(&self, family: Family) -> Option<bool> {
        self.state().families.get(&family).map(|state| state.failing.is_some())
    }

    /// The age of the state that is served, while it is one of an earlier agent's.
    pub fn last_state_age(&self) -> Option<Duration> {
        self.state().last_state.map(|known| SystemTime::now().duration_since(known).unwrap_or_default())
    }

    pub(super) fn saved_at(&self) -> Option<SystemTime> {
        self.state().saved_state
    }

    pub(super) fn is_dns_serving(&self) -> Option<bool> {
        self.state().dns_serving
    }

    pub(super) fn is_dns_local(&self) -> Option<bool> {
        self.state().dns_local
    }

    fn queued_at(&self, family: Family, now: Instant) {
        if let Some(state) = self.state().families.get_mut(&family) {
            state.queued.get_or_insert(now);
        }
    }

    fn committed_at(&self, family: Family, now: SystemTime) {
        if let Some(state) = self.state().families.get_mut(&family) {
            *state = FamilyState { queued: None, committed: Some(now), failing: None };
        }
    }

    fn health_at(&self, now: Instant) -> Health {
        let state = self.state();
        let families: Vec<FamilyHealth> = state.families.iter().map(|(family, state)| state.health(*family, now)).collect();
        // As with kube-proxy a family that never worked is missed by nobody: the node's kernel lacks it.
        let is_missed = |family: &FamilyHealth| !(family.healthy || family.failing && family.updated.is_none());
        // Nothing hangs where the kernel says no: another start would hear the same.
        let hangs = |family: &FamilyHealth| !family.healthy && !family.failing;
        let some_work = families.is_empty() || families.iter().any(|family| family.healthy);
        Health {
            healthy: state.retired || some_work && !families.iter().any(is_missed),
            alive: state.retired || some_work && !families.iter().any(hangs),
            node_eligible: state.node.unwrap_or(state.without_node),
            families,
        }
    }

    /// Each writer leaves the state whole, so that a panic elsewhere is no reason to lose the health page.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pending_dns(&self) -> Vec<String> {
        let mut pending: Vec<String> = self.unlisted.iter().map(|kind| format!("the first listing of {kind}")).collect();
        if self.dns_serving == Some(false) {
            pending.push(match &self.dns_refused {
                None => "DNS to serve".to_string(),
                Some(why) => format!("DNS to serve, which cannot do what is written: {why}"),
            });
        }
        if self.stopping {
            pending.push("the process to end: it is stopping".to_string());
        }
        pending
    }
}

impl FamilyState {
    fn health(&self, family: Family, now: Instant) -> FamilyHealth {
        let waiting = self.queued.map(|queued| now.saturating_duration_since(queued));
        let healthy = waiting.is_none_or(|waiting| waiting < HEALTH_TIMEOUT);
        FamilyHealth { family, updated: self.committed, healthy, failing: self.failing.is_some() }
    }
}

/// Whether the service proxy does its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// No change waits too long for its commit, in any family that has ever been committed.
    pub healthy: bool,
    /// Nothing hangs: a family that fails while the other one works is no reason to start anew.
    pub alive: bool,
    /// The node is known and takes traffic.
    pub node_eligible: bool,
    /// Each family for itself.
    pub families: Vec<FamilyHealth>,
}

/// Whether one family's table is kept up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyHealth {
    /// The family.
    pub family: Family,
    /// When it was last committed; `None` before the first time.
    pub updated: Option<SystemTime>,
    /// No change waits too long for its commit.
    pub healthy: bool,
    /// Commits fail again and again.
    pub failing: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunArgs, Surroundings, load};

    fn status(flags: &[(&str, &str)]) -> Status {
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        Status::new(&load(&RunArgs::of(flags), &surroundings).unwrap().0)
    }

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy_until_it_is_committed() {
        let status = status(&[]);
        let start = Instant::now();
        assert!(status.health_at(start).healthy, "healthy while it starts");
        status.queued_at(Family::V4, start);
        status.queued_at(Family::V4, start + HEALTH_TIMEOUT / 2);
        assert!(status.health_at(start + HEALTH_TIMEOUT - Duration::from_nanos(1)).healthy);
        let late = status.health_at(start + HEALTH_TIMEOUT);
        assert!(!late.healthy, "the oldest change counts, not the newest");
        assert_eq!(late.families.iter().map(|family| family.healthy).collect::<Vec<_>>(), [false, true]);
        status.committed_at(Family::V4, SystemTime::UNIX_EPOCH);
        let health = status.health_at(start + HEALTH_TIMEOUT * 2);
        assert!(health.healthy);
        assert_eq!(health.families[0].updated, Some(SystemTime::UNIX_EPOCH));
    }

    #[test]
    fn a_node_is_eligible_only_when_it_is_known() {
        let proxy = status(&[]);
        assert!(!proxy.health().node_eligible);
        proxy.node(Some(true));
        assert!(proxy.health().node_eligible);
        proxy.node(Some(false));
        assert!(!proxy.health().node_eligible);
        proxy.node(None);
        assert!(!proxy.health().node_eligible);
        assert!(status(&[("role", "dns"), ("dns-address", "10.0.0.1")]).health().node_eligible, "no Node is watched there");
        let standalone = status(&[("manifests", "/m")]);
        assert!(standalone.health().node_eligible, "a folder of manifests need not have a Node");
        standalone.node(Some(false));
        assert!(!standalone.health().node_eligible);
    }

    #[test]
    fn readiness_names_what_is_missing_until_nothing_is() {
        let status = status(&[("dns-address", "169.254.20.10")]);
        assert_eq!(
            status.pending(),
            [
                "the first listing of services",
                "the first listing of endpointslices",
                "the first listing of namespaces",
                "the first listing of nodes",
                "DNS to serve",
                "the first commit of the IPv4 table",
                "the first commit of the IPv6 table",
            ]
        );
        for kind in [Kind::Service, Kind::Slice, Kind::Namespace, Kind::Node] {
            status.listed(kind);
        }
        status.dns_serving(true);
        assert!(status.pending_dns().is_empty(), "DNS does not wait for the tables");
        status.committed(Family::V4);
        assert_eq!(status.pending(), ["the first commit of the IPv6 table"]);
        status.without_family(Family::V6);
        assert!(status.pending().is_empty());
        status.stopping();
        assert_eq!(status.pending(), ["the process to end: it is stopping"]);
    }

    #[test]
    fn a_refused_configuration_of_dns_is_named_whether_dns_is_served_or_not() {
        let status = status(&[("role", "dns"), ("dns-address", "10.0.0.1")]);
        [Kind::Service, Kind::Slice, Kind::Namespace].into_iter().for_each(|kind| status.listed(kind));
        status.dns_refused(Some("Corefile:3: nonsense".into()));
        assert_eq!(status.pending_dns(), ["DNS to serve, which cannot do what is written: Corefile:3: nonsense"]);
        status.dns_serving(true);
        assert!(status.pending_dns().is_empty());
        assert_eq!(status.remarks(), ["but DNS does not do what is written, and goes on as before: Corefile:3: nonsense"]);
        status.dns_refused(None);
        assert!(status.remarks().is_empty());
    }

    #[test]
    fn a_family_that_fails_again_and_again_is_named_and_keeps_the_other_one_from_nothing() {
        let status = status(&[("manifests", "/m"), ("role", "proxy")]);
        for kind in [Kind::Service, Kind::Slice, Kind::Namespace, Kind::Node] {
            status.listed(kind);
        }
        let start = Instant::now();
        Family::BOTH.iter().for_each(|family| status.queued_at(*family, start));
        let fail = || status.failing(Family::V6, "no such family".into());
        fail();
        assert_eq!(status.pending().len(), 2, "one of two must work");
        assert!(!status.health_at(start + HEALTH_TIMEOUT).healthy);
        status.committed(Family::V4);
        assert_eq!(status.pending(), Vec::<String>::new());
        assert_eq!(status.remarks(), ["but the IPv6 table is not up to date: no such family"]);
        let health = status.health_at(start + HEALTH_TIMEOUT);
        assert!(health.healthy && health.alive, "it has never worked: {health:?}");
        assert_eq!(health.families.iter().map(|family| family.healthy).collect::<Vec<_>>(), [true, false]);

        status.committed(Family::V6);
        assert!(status.remarks().is_empty());
        status.queued_at(Family::V6, start);
        fail();
        let health = status.health_at(start + HEALTH_TIMEOUT);
        assert_eq!((health.healthy, health.alive), (false, true), "load balancers look elsewhere; nobody restarts it");
        status.queued_at(Family::V4, start);
        assert!(!status.health_at(start + HEALTH_TIMEOUT).alive, "the other one hangs");
    }

    #[test]
    fn an_agent_is_ready_once_the_other_one_has_handed_over_and_healthy_when_it_has_done_so_itself() {
        let status = status(&[("manifests", "/m"), ("role", "proxy")]);
        for kind in [Kind::Service, Kind::Slice, Kind::Namespace, Kind::Node] {
            status.listed(kind);
        }
        Family::BOTH.iter().for_each(|family| status.committed(*family));
        status.second(true);
        assert_eq!(status.pending(), ["another agent of this node to hand over"]);
        status.second(false);
        assert!(status.pending().is_empty());
        let start = Instant::now();
        status.queued_at(Family::V4, start);
        assert!(!status.health_at(start + HEALTH_TIMEOUT).healthy);
        status.retired();
        assert!(status.health_at(start + HEALTH_TIMEOUT).healthy, "the other one commits now");
    }

    #[test]
    fn an_agent_without_dns_does_not_wait_for_it() {
        assert!(!status(&[]).pending().contains(&"DNS to serve".to_string()));
        let dns = status(&[("role", "dns"), ("dns-address", "10.0.0.1")]);
        for kind in [Kind::Service, Kind::Slice, Kind::Namespace] {
            dns.listed(kind);
        }
        assert_eq!(dns.pending(), ["DNS to serve"]);
    }
}
