//! An API server, watched.

mod client;
mod config_maps;
mod events;
#[cfg(test)]
mod events_tests;
mod failure;
mod health;
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
use crate::model::{Demand, Kind, Update};
use crate::notices::Notices;
use kube::api::ListParams;
use kube::{Api, Client};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use watch::{Selection, Watch};

/// The pods that have names in DNS, as CoreDNS asks for them.
const PODS_THAT_RUN: &str = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown";
/// How many objects are asked for at once.
const PAGE: u32 = 500;

/// Watches the given kinds, one task for each, and sends what happens. Every kind begins with a full listing; later ones follow where the
/// server has forgotten the changes in between. Own Node only: without a `node_name` no Node is watched.
///
/// What `demand` asks for is watched besides, from when it does so.
///
/// Failures are retried for ever. `health` tells how it goes. Returns when nobody receives any more; dropping the future ends all watches.
pub async fn watch(client: Client, node_name: Option<&str>, kinds: &[Kind], demand: Receiver<Demand>, told: Told) {
    let pace = Pace::default();
    let always = watch_at(pace, client.clone(), node_name, kinds, told.clone());
    tokio::join!(always, watch_on_demand(pace, client, demand, told));
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

/// Watches what is asked for, as soon as it is, and from then on.
async fn watch_on_demand(pace: Pace, client: Client, mut demand: Receiver<Demand>, told: Told) {
    let mut watched: Vec<Kind> = Vec::new();
    let mut tasks = JoinSet::new();
    loop {
        let asked_for = *demand.borrow_and_update();
        for kind in asked_for.kinds().iter().copied().filter(|kind| !watched.contains(kind)).collect::<Vec<_>>() {
            tracing::info!("{kind} are watched, because the zones of DNS need them");
            watched.push(kind);
            told.health.also_show(kind);
            let (client, told) = (client.clone(), told.clone());
            tasks.spawn(async move { watch_at(pace, client, None, &[kind], told).await });
        }
        tokio::select! {
            changed = demand.changed() => if changed.is_err() { break },
            () = told.updates.closed() => break,
        }
    }
    tasks.join_all().await;
}

async fn watch_at(pace: Pace, client: Client, node_name: Option<&str>, kinds: &[Kind], told: Told) {
    let mut tasks = JoinSet::new();
    for kind in kinds {
        let (client, told) = (client.clone(), told.clone());
        match (kind, node_name) {
            (Kind::Service, _) => {
                tasks.spawn(Watch::<objects::Service>::new(Api::all(client), Selection::default(), pace, told).run());
            }
            (Kind::Slice, _) => {
                tasks.spawn(Watch::<objects::EndpointSlice>::new(Api::all(client), Selection::default(), pace, told).run());
            }
            (Kind::Namespace, _) => {
                tasks.spawn(Watch::<objects::Namespace>::new(Api::all(client), Selection::default(), pace, told).run());
            }
            (Kind::ServiceCidr, _) => {
                tasks.spawn(Watch::<objects::ServiceCidr>::new(Api::all(client), Selection::default(), pace, told).run());
            }
            (Kind::Node, Some(name)) => {
                let own = Selection { fields: Some(format!("metadata.name={name}")), labels: None };
                tasks.spawn(Watch::<objects::Node>::new(Api::all(client), own, pace, told).run());
            }
            (Kind::Import, _) => {
                tasks.spawn(Watch::<objects::ServiceImport>::new(Api::all(client), Selection::default(), pace, told).run());
            }
            (Kind::ImportedSlice, _) => {
                let of_imports = Selection { fields: None, labels: Some(IMPORT_LABEL.into()) };
                tasks.spawn(Watch::<objects::ImportedSlice>::new(Api::all(client), of_imports, pace, told).run());
            }
            (Kind::Pod, _) => {
                let of_pods = Selection { fields: Some(PODS_THAT_RUN.into()), labels: None };
                tasks.spawn(Watch::<objects::Pod>::new(Api::all(client), of_pods, pace, told).run());
            }
            (Kind::Node, None) => {}
        }
    }
    drop(told);
    tasks.join_all().await;
}
