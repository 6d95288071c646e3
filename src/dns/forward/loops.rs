//! Loops: an upstream server that asks us, directly or through others, would send every question round until it times out.
//!
//! They are found as CoreDNS's plugin loop finds them, by a question that nobody else asks: if it comes here, the server leads back to us. CoreDNS
//! ends then, and is started again and again; here the server is left out until its question stays away.

use super::server::{Server, Way};
use crate::config::ForwardConfig;
use crate::dns::metrics::Metrics;
use crate::dns::name::DomainName;
use crate::dns::reply;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// The type of the question (CoreDNS's choice), which hardly anybody else asks for.
pub(in crate::dns) const PROBE_TYPE: RecordType = RecordType::HINFO;
/// How long it may be under way.
const PATIENCE: Duration = Duration::from_secs(1);

/// The questions that are under way, and whether each has come back.
#[derive(Debug, Default)]
pub(super) struct Probes(Mutex<HashMap<DomainName, bool>>);

impl Probes {
    /// Notes that a question has arrived here; whether it is one of these.
    pub fn arrived(&self, query: &Query) -> bool {
        let is_probe = query.query_type() == PROBE_TYPE;
        let Some(name) = is_probe.then(|| reply::from_hickory(query.name())).flatten() else { return false };
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.get_mut(&name.to_lower()).map(|back| *back = true).is_some()
    }

    fn sent(&self, name: &DomainName) -> UnderWay<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), false);
        UnderWay { probes: self, name: name.clone() }
    }

    fn forget(&self, name: &DomainName) -> Option<bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }
}

/// A question that is forgotten however the wait for it ends.
struct UnderWay<'a> {
    probes: &'a Probes,
    name: DomainName,
}

impl UnderWay<'_> {
    fn is_back(&self) -> bool {
        self.probes.forget(&self.name).unwrap_or(false)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.probes.forget(&self.name);
    }
}

/// What it takes to look after the servers of one zone.
#[derive(Clone, Debug)]
pub(super) struct Care {
    /// The zone that they are asked for.
    pub zone: Name,
    pub config: ForwardConfig,
    pub probes: Arc<Probes>,
    pub metrics: Arc<Metrics>,
}

impl Care {
    /// Asks the server for a name in its zone that does not exist, and says whether the question came back here. What is answered does not matter.
    pub async fn leads_back(&self, server: &Server) -> bool {
        let labels = [rand::random::<u64>(), rand::random::<u64>()].map(|number| format!("{number:016x}"));
        let zone = self.zone.iter();
        let name = DomainName::from_labels(labels.iter().map(|label| label.as_bytes()).chain(zone));
        // Not even the longest zone of a configuration leaves no room for it.
        let Some(name) = name.map(|name| name.to_lower()) else { return false };
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(reply::name_to_hickory(&name), PROBE_TYPE));
        let probe = self.probes.sent(&name);
        let _ = timeout(PATIENCE, server.exchange(&question, Way::of_checks(&self.config), &self.metrics)).await;
        probe.is_back()
    }
}
