//! The chain of each server block: what CoreDNS's plugins do, in CoreDNS's order (that of its `plugin.cfg`).
//!
//! A [`Model`] says how DNS answers, whoever wrote it: flags, our own YAML or a Corefile. It is compiled once to a [`Plan`], which is published
//! ([`Chain`]) and replaced as a whole when the configuration changes: questions under way finish with the plan that they began with. What a block
//! does not have costs nothing, and a block of the ordinary kind (cluster names, cache, forwarding) has a short way past all the others
//! ([`AtOnce`]), which the threads that receive take.
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | the configuration; pure |
//! | [`values`] | how its values are written; pure |
//! | [`plan`] | the configuration, ready to answer by |
//! | [`listener`] | what is answered on an address: zones, and which block a question is for |
//! | [`server`] | one block, ready |
//! | `elsewhere` | the upstream servers and the cache of a block |
//! | [`explain`] | the configuration in words; pure |
//! | `extras` | the parts of a block beside cluster names, cache and forwarding |
//! | [`rewrite`], [`template`], [`hosts`], [`log`] | single plugins |
//! | `text`, `rdata` | records written as text, and their data |
//! | `walk` | one question's way through a block |

mod elsewhere;
pub mod explain;
mod extras;
pub mod hosts;
pub mod listener;
pub mod log;
pub mod model;
pub mod plan;
mod rdata;
pub mod rewrite;
pub mod server;
pub mod template;
mod text;
pub mod values;
mod walk;

pub use listener::{AtOnce, Entry, Listener};
pub use model::{Block, Model};
pub use plan::{ChainError, Plan};
pub use server::Server;
pub(in crate::dns) use walk::{Asked, Outcome, Walk};

use super::limits::Limits;
use super::metrics::{Metrics, Place};
use crate::model::Demand;
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The plan that is in force. Clones are one.
#[derive(Clone)]
pub struct Chain(Arc<Published>);

struct Published {
    plan: ArcSwap<Plan>,
    /// What this plan and those before it need to know.
    demand: watch::Sender<Demand>,
    /// What of it is known.
    known: watch::Sender<Demand>,
    /// Our own addresses, which no plan's forwarders may ask, and where it is shown what is answered there.
    own: Mutex<Vec<(SocketAddr, Arc<Metrics>)>>,
    /// What is under way, whatever the plan.
    limits: Arc<Limits>,
}

impl Chain {
    /// A plan.
    pub fn new(plan: Plan) -> Chain {
        Chain::limited(plan, Limits::default())
    }

    /// A plan, and how much may be under way.
    pub fn limited(plan: Plan, limits: Limits) -> Chain {
        let demand = watch::Sender::new(plan.demand());
        let (plan, limits) = (ArcSwap::from_pointee(plan), Arc::new(limits));
        let known = watch::Sender::new(Demand::default());
        Chain(Arc::new(Published { plan, demand, known, own: Mutex::default(), limits }))
    }

    /// What is under way.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.0.limits
    }

    /// The plan that is in force. Cheap; whoever answers many questions may use [`arc_swap::Cache`] over [`Chain::published`] instead.
    pub fn plan(&self) -> Arc<Plan> {
        self.0.plan.load_full()
    }

    /// The place where the plan is published.
    pub fn published(&self) -> &ArcSwap<Plan> {
        &self.0.plan
    }

    /// From now on questions are answered by this plan.
    pub fn replace(&self, plan: Plan) {
        let own = self.0.own.lock().unwrap_or_else(PoisonError::into_inner);
        plan.never_ask(&own.iter().map(|(address, _)| *address).collect::<Vec<_>>());
        let demand = plan.demand();
        let before = self.0.plan.swap(Arc::new(plan));
        show(&self.plan(), Some(&before), &own);
        self.ask_for(demand);
    }

    /// From now on this is asked of the cluster as well, for a plan that is to come.
    pub fn ask_for(&self, demand: Demand) {
        self.0.demand.send_if_modified(|asked| {
            let is_new = !asked.has(&demand);
            *asked = asked.and(&demand);
            is_new
        });
    }

    /// This much is known now of what was asked for, and can be answered from.
    pub fn know(&self, known: Demand) {
        self.0.known.send_if_modified(|before| {
            let is_new = *before != known;
            *before = known;
            is_new
        });
    }

    /// Waits until all of this is known.
    pub async fn knows(&self, demand: Demand) {
        // Its sender is this chain.
        let _ = self.0.known.subscribe().wait_for(|known| known.has(&demand)).await;
    }

    /// What must be known of the cluster for this plan and those before it, at this moment.
    pub fn asked_for(&self) -> Demand {
        self.0.demand.borrow().clone()
    }

    /// What must be known of the cluster for this plan and those before it.
    pub fn demand(&self) -> watch::Receiver<Demand> {
        self.0.demand.subscribe()
    }

    /// Questions are answered on these addresses, so that they are never asked, and these metrics show what takes part in the answers.
    pub fn served_on(&self, addresses: &[SocketAddr], metrics: &Arc<Metrics>) {
        let mut own = self.0.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.extend(addresses.iter().map(|address| (*address, metrics.clone())));
        self.plan().never_ask(addresses);
        show(&self.plan(), None, &own);
    }
}

/// Shows plugins and caches as they are in this plan, and no longer those of the one before, as CoreDNS does when it begins anew.
fn show(plan: &Plan, before: Option<&Plan>, own: &[(SocketAddr, Arc<Metrics>)]) {
    let places = |plan: &Plan, address: SocketAddr| -> Vec<(Place, Entry)> {
        let label = server_label(address);
        plan.listener(address).entries().map(|entry| (entry.place(&label), entry.clone())).collect()
    };
    // First all that was, then all that is: addresses with one port have one label.
    for (address, metrics) in own {
        metrics.no_plugins();
        before.iter().flat_map(|before| places(before, *address)).for_each(|(place, _)| metrics.no_cache_of(&place));
    }
    for (address, metrics) in own {
        for (place, entry) in places(plan, *address) {
            metrics.enabled(&place, &plan.plugins(&entry));
            if let Some(resolver) = &plan.server(&entry).resolver {
                metrics.cache_of(&place, resolver.cached());
            }
        }
    }
}

/// The address label of CoreDNS's metrics, such as `dns://:53`.
pub(in crate::dns) fn server_label(address: SocketAddr) -> Arc<str> {
    format!("dns://:{}", address.port()).into()
}
