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

use super::objects;
use crate::model::{Kind, Update};
use crate::notices::Notices;
use kube::api::ListParams;
use kube::{Api, Client};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use watch::Watch;

/// How many objects are asked for at once.
const PAGE: u32 = 500;

/// Watches the given kinds, one task for each, and sends what happens. Every kind begins with a full listing; later ones follow where the
/// server has forgotten the changes in between. Own Node only: without a `node_name` no Node is watched.
///
/// Failures are retried for ever. `health` tells how it goes. Returns when nobody receives any more; dropping the future ends all watches.
pub async fn watch(
    client: Client,
    node_name: Option<&str>,
    kinds: &[Kind],
    updates: Sender<Update>,
    health: Health,
    notices: Notices,
) {
    watch_at(Pace::default(), client, node_name, kinds, Told { updates, health, notices }).await;
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
struct Told {
    updates: Sender<Update>,
    health: Health,
    notices: Notices,
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

async fn watch_at(pace: Pace, client: Client, node_name: Option<&str>, kinds: &[Kind], told: Told) {
    let mut tasks = JoinSet::new();
    for kind in kinds {
        let (client, told) = (client.clone(), told.clone());
        match (kind, node_name) {
            (Kind::Service, _) => {
                tasks.spawn(Watch::<objects::Service>::new(Api::all(client), None, pace, told).run());
            }
            (Kind::Slice, _) => {
                tasks.spawn(Watch::<objects::EndpointSlice>::new(Api::all(client), None, pace, told).run());
            }
            (Kind::Namespace, _) => {
                tasks.spawn(Watch::<objects::Namespace>::new(Api::all(client), None, pace, told).run());
            }
            (Kind::ServiceCidr, _) => {
                tasks.spawn(Watch::<objects::ServiceCidr>::new(Api::all(client), None, pace, told).run());
            }
            (Kind::Node, Some(name)) => {
                let own = Some(format!("metadata.name={name}"));
                tasks.spawn(Watch::<objects::Node>::new(Api::all(client), own, pace, told).run());
            }
            (Kind::Node, None) => {}
        }
    }
    drop(told);
    tasks.join_all().await;
}
