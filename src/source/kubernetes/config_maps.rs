//! ConfigMaps with a Corefile and what it imports, watched one by one, so that nobody needs the right to read others.

use super::failure::missing_for_config_map;
use crate::import::read::{Mounted, Texts};
use crate::notices::{Notices, PERMISSION_MISSING, Subject};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use std::pin::pin;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Watches ConfigMaps, given as `namespace/name`, and tells the texts of all of them together. The first one has the Corefile; nothing is told
/// before it is known whether the others exist, but that they cannot be had.
pub async fn watch_config_maps(client: Client, names: Vec<String>, told: watch::Sender<Mounted>, notices: Notices) {
    let known: Vec<Option<Option<Texts>>> = vec![None; names.len()];
    let (changes, _) = watch::channel(known);
    let mut watches = JoinSet::new();
    for (number, full_name) in names.into_iter().enumerate() {
        let (client, changes, told, notices) = (client.clone(), changes.clone(), told.clone(), notices.clone());
        watches.spawn(async move {
            let (namespace, name) = full_name.split_once('/').unwrap_or(("default", full_name.as_str()));
            let mut objects = pin!(watch_object(Api::<ConfigMap>::namespaced(client, namespace), name));
            let mut failing = false;
            while let Some(object) = objects.next().await {
                match object {
                    Ok(object) => {
                        failing = false;
                        let texts = object.map(|map| map.data.unwrap_or_default());
                        changes.send_modify(|known| known[number] = Some(texts));
                    }
                    Err(error) if !failing => {
                        failing = true;
                        told.send_if_modified(|before| {
                            let is_first = *before == Mounted::Awaited;
                            if is_first {
                                *before = Mounted::Unreachable;
                            }
                            is_first
                        });
                        match missing_for_config_map(&error, &full_name) {
                            Some(why) => {
                                let note = format!("cannot watch the settings of DNS: {why}; it is retried");
                                notices.tell(&PERMISSION_MISSING, Subject::Node, note);
                            }
                            None => {
                                tracing::warn!(config_map = full_name, %error, "the ConfigMap of DNS cannot be watched; trying again");
                            }
                        }
                    }
                    Err(_) => {}
                }
                if failing {
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        });
    }
    let mut changed = changes.subscribe();
    loop {
        let known: Option<Vec<Option<Texts>>> = changed.borrow_and_update().iter().cloned().collect();
        if let Some(known) = known {
            let corefile_is_there = known.first().is_some_and(Option::is_some);
            // Of two files with one name the earlier ConfigMap's counts.
            let all: Texts = known.into_iter().rev().flatten().flatten().collect();
            told.send_if_modified(|before| {
                let now = if corefile_is_there { Mounted::Files(all) } else { Mounted::Absent };
                let is_new = *before != now;
                *before = now;
                is_new
            });
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}
