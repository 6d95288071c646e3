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
//! | `text` | records written as text |
//! | `walk` | one question's way through a block |

mod elsewhere;
pub mod explain;
mod extras;
pub mod hosts;
pub mod listener;
pub mod log;
pub mod model;
pub mod plan;
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

use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The plan that is in force. Clones are one.
#[derive(Clone)]
pub struct Chain(Arc<Published>);

struct Published {
    plan: ArcSwap<Plan>,
    /// Our own addresses, which no plan's forwarders may ask.
    own: Mutex<Vec<SocketAddr>>,
}

impl Chain {
    /// A plan.
    pub fn new(plan: Plan) -> Chain {
        Chain(Arc::new(Published { plan: ArcSwap::from_pointee(plan), own: Mutex::default() }))
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
        plan.never_ask(&own);
        self.0.plan.store(Arc::new(plan));
    }

    /// Addresses of our own, which are never asked.
    pub fn never_ask(&self, addresses: &[SocketAddr]) {
        let mut own = self.0.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.extend_from_slice(addresses);
        self.plan().never_ask(addresses);
    }
}
