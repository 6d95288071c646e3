//! An API server, watched.

mod client;
mod config_maps;
mod events;
#[cfg(test)]
mod events_tests;
mod failure;
mod health;
mod relisting;
mod retry;
#[cfg(test)]
mod tests;
mod watch;

pub use client::{ClientError, client};
pub use config_maps::watch_config_maps;
pub use events::send_events;
pub use health::Health;

use super::convert::IMPORT_LABEL;
use super::objects;
use super::translate::Translate;
use crate::model::{Demand, Details, Kind, Update};
use crate::notices::Notices;
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::api::ListParams;
use kube::{Api, Client};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch::{Receiver, Sender as Teller};
use tokio::task::JoinSet;
use watch::{Selection, Watch};

/// The pods that have names in DNS, as CoreDNS asks for them.
const PODS_THAT_RUN: &str = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown";
/// How many objects are asked for at once.
const PAGE: u32 = 500;

/// Watches the given kinds, one task for each, and sends what happens. Every kind begins with a full listing; later ones follow where the
/// server has forgotten the changes in between. Own Node only: without a `node_name` no Node is watched.
///
/// What `demand` asks for is watched besides, from when it does so. A kind of which it asks for further details is listed anew, while its watch goes on.
///
/// Failures are retried for ever. `health` tells how it goes. Returns when nobody receives any more; dropping the future ends all watches.
pub async fn watch(client: Client, node_name: Option<&str>, kinds: &[Kind], demand: Receiver<Demand>, told: Told) {
    watch_at(Pace::default(), client, node_name, kinds, demand, told).await;
}

/// All objects of a kind, as they are now.
///
/// # Errors
/// What the server or the way to it says.
pub async fn list<T>(client: &Client) -> Result<Vec<T>, kube::Error>
where
    T: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api: Api<T> = Api::all(client.clone());
    let mut objects = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        objects.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

/// Whom a watch tells what it sees.
#[derive(Clone, Debug)]
pub struct Told {
    /// What has changed.
    pub updates: Sender<Update>,
    /// How it goes.
    pub health: Health,
    /// What people should know.
    pub notices: Notices,
}

/// How patient a watch is.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// When the server shall end a watch. Not longer, so that a server or load balancer that hangs is noticed.
    watch: Duration,
    /// How long after that a watch is taken for dead.
    grace: Duration,
    /// How long a streaming listing may be silent before it is given up for an ordinary one.
    quiet: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { watch: Duration::from_secs(120), grace: Duration::from_secs(5), quiet: Duration::from_secs(10) }
    }
}

async fn watch_at(
    pace: Pace,
    client: Client,
    node_name: Option<&str>,
    always: &[Kind],
    mut demand: Receiver<Demand>,
    told: Told,
) {
    let mut watched: Vec<(Kind, Teller<Details>)> = Vec::new();
    let mut tasks = JoinSet::new();
    loop {
        let asked_for = demand.borrow_and_update().clone();
        for kind in always.iter().chain(asked_for.kinds()).copied() {
            let details = asked_for.details.of(kind);
            if let Some((_, teller)) = watched.iter().find(|(known, _)| *known == kind) {
                if *teller.borrow() != details {
                    tracing::info!("{kind} are listed anew, because the zones of DNS need to know more of them");
                    teller.send_replace(details);
                }
                continue;
            }
            if !always.contains(&kind) {
                tracing::info!("{kind} are watched, because the zones of DNS need them");
                told.health.also_show(kind);
            }
            let teller = Teller::new(details);
            if let Some(watch) = watch_of(kind, teller.subscribe(), pace, client.clone(), node_name, told.clone()) {
                tasks.spawn(watch);
                watched.push((kind, teller));
            }
        }
        tokio::select! {
            changed = demand.changed() => if changed.is_err() { break },
            () = told.updates.closed() => break,
        }
    }
    drop(told);
    while tasks.join_next().await.is_some() {}
}

/// The watch of a kind; none of Nodes where the own one has no name.
fn watch_of(
    kind: Kind,
    details: Receiver<Details>,
    pace: Pace,
    client: Client,
    node_name: Option<&str>,
    told: Told,
) -> Option<BoxFuture<'static, ()>> {
    fn one<T>(client: Client, selection: Selection, pace: Pace, details: Receiver<Details>, told: Told) -> BoxFuture<'static, ()>
    where
        T: Translate + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
    {
        Watch::<T>::new(Api::all(client), selection, pace, details, told).run().boxed()
    }
    let all = Selection::default();
    Some(match kind {
        Kind::Service => one::<objects::Service>(client, all, pace, details, told),
        Kind::Slice => one::<objects::EndpointSlice>(client, all, pace, details, told),
        Kind::Namespace => one::<objects::Namespace>(client, all, pace, details, told),
        Kind::ServiceCidr => one::<objects::ServiceCidr>(client, all, pace, details, told),
        Kind::Node => {
            let own = Selection { fields: Some(format!("metadata.name={}", node_name?)), labels: None };
            one::<objects::Node>(client, own, pace, details, told)
        }
        Kind::Import => one::<objects::ServiceImport>(client, all, pace, details, told),
        Kind::ImportedSlice => {
            let of_imports = Selection { fields: None, labels: Some(IMPORT_LABEL.into()) };
            one::<objects::ImportedSlice>(client, of_imports, pace, details, told)
        }
        Kind::Pod => {
            let of_pods = Selection { fields: Some(PODS_THAT_RUN.into()), labels: None };
            one::<objects::Pod>(client, of_pods, pace, details, told)
        }
    })
}
