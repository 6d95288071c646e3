//! The watch of one kind: list, follow, begin anew.
//!
//! kube has a watcher of its own. It cannot fall back from streaming lists, hides whether a resumed watch is connected, and keeps
//! bookmarks to itself, by which a dead connection is told from a quiet one.

use super::failure::Failure;
use super::health::{Health, Trouble};
use super::retry::{Reason, Retry, random};
use super::{Pace, Told};
use crate::model::{Details, Update};
use crate::notices::Notices;
use crate::source::translate::{Translate, Translator};
use futures::{Stream, StreamExt};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::fmt::Debug;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;
use tracing::{debug, warn};

/// How many objects one answer of a paged listing may hold: it is in memory as a whole.
const PAGE: u32 = 500;
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The watch of one kind.
pub struct Watch<T> {
    api: Api<T>,
    selection: Selection,
    pace: Pace,
    updates: Sender<Update>,
    health: Health,
    notices: Notices,
    translator: Translator,
    retry: Retry,
    listing: Listing,
    /// The server's version up to which everything is known; `None` before the first listing and when it has expired.
    version: Option<String>,
    /// The version that a new listing must not fall short of, so that a server that lags behind does not take us back in time.
    /// The first listing takes what the server has at hand, as kube-proxy's does.
    floor: Option<String>,
}

/// Limits a watch to certain objects.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// By their fields.
    pub fields: Option<String>,
    /// By their labels.
    pub labels: Option<String>,
}

/// How a full listing is asked for.
#[derive(Clone, Copy, PartialEq)]
enum Listing {
    /// As a watch that begins with all objects: neither side holds the whole list in memory.
    Streaming,
    /// In pages, once: the server was silent.
    PagedOnce,
    /// In pages: the server has no streaming lists.
    Paged,
}

type Events<T> = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<T>>> + Send>>;

impl<T> Watch<T>
where
    T: Translate + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// A watch of what `api` and `selection` name, which reads these details.
    pub fn new(api: Api<T>, selection: Selection, pace: Pace, details: Details, told: Told) -> Watch<T> {
        Watch {
            api,
            selection,
            pace,
            updates: told.updates,
            health: told.health,
            translator: Translator::new(told.notices.clone()).reading(details),
            notices: told.notices,
            retry: Retry::default(),
            listing: Listing::Streaming,
            version: None,
            floor: None,
        }
    }

    /// Watches until nobody receives any more.
    pub async fn run(mut self) {
        let updates = self.updates.clone();
        loop {
            let Err(failure) = tokio::select! {
                result = self.round() => result,
                () = updates.closed() => return,
            };
            let Some(reason) = self.learn(failure) else { return };
            let delay = self.retry.delay(reason);
            if self.version.is_none() && self.retry.is_repeated(Reason::Unreachable) {
                let _ = self.send(Update::Unreachable).await;
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.health.reachable_again(), if reason == Reason::Unreachable => {}
                () = updates.closed() => return,
            }
        }
    }

    /// Draws the conclusions from a failure; `None` when it is the end.
    fn learn(&mut self, failure: Failure) -> Option<Reason> {
        debug!("the watch of {} stopped: {failure:?}", T::KIND);
        match failure {
            Failure::Closed => None,
            Failure::Ended => Some(Reason::Ended),
            Failure::Expired => {
                self.version = None;
                Some(Reason::Ended)
            }
            Failure::Ahead => {
                (self.version, self.floor) = (None, None);
                Some(Reason::Ended)
            }
            Failure::Quiet => {
                self.listing = Listing::PagedOnce;
                Some(Reason::Ended)
            }
            Failure::Invalid(_) if self.version.is_none() && self.listing == Listing::Streaming => {
                self.listing = Listing::Paged;
                Some(Reason::Ended)
            }
            Failure::Invalid(why) => {
                (self.version, self.floor) = (None, None);
                self.health.failed(T::KIND, Trouble::Refused(why), &self.notices);
                Some(Reason::Refused)
            }
            Failure::Trouble(trouble) => {
                let reason = match trouble {
                    Trouble::Unreachable(_) => Reason::Unreachable,
                    Trouble::Refused(_) | Trouble::Forbidden(_) => Reason::Refused,
                };
                self.health.failed(T::KIND, trouble, &self.notices);
                Some(reason)
            }
        }
    }

    /// Lists if need be and follows the changes until something stops it.
    async fn round(&mut self) -> Result<Infallible, Failure> {
        let mut events = match (self.version.clone(), self.listing) {
            (Some(version), _) => self.open(&version, false).await?,
            (None, Listing::Streaming) => self.list_streaming().await?,
            (None, Listing::Paged | Listing::PagedOnce) => {
                let version = self.list_pages().await?;
                self.open(&version, false).await?
            }
        };
        let patience = self.pace.watch + self.pace.grace;
        loop {
            let event = timeout(patience, self.next(&mut events)).await.map_err(|_| silent(patience))??;
            self.follow(event).await?;
        }
    }

    async fn open(&self, version: &str, with_initial_events: bool) -> Result<Events<T>, Failure> {
        // The ends of the watches of many nodes are spread out.
        let seconds = self.pace.watch.mul_f64(1.0 - random() / 4.0).as_secs().max(1);
        let parameters = WatchParams {
            field_selector: self.selection.fields.clone(),
            label_selector: self.selection.labels.clone(),
            timeout: Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
            bookmarks: true,
            send_initial_events: with_initial_events,
        };
        let events = self.api.watch(&parameters, version).await.map_err(|error| failure::<T>(&error))?;
        self.health.connected(T::KIND);
        Ok(Box::pin(events))
    }

    /// All objects as the beginning of a watch, which is returned to be followed.
    async fn list_streaming(&mut self) -> Result<Events<T>, Failure> {
        let floor = self.floor.clone().unwrap_or_else(|| "0".into());
        let mut events = self.open(&floor, true).await?;
        self.send(Update::ListBegin(T::KIND)).await?;
        loop {
            let event = timeout(self.pace.quiet, self.next(&mut events)).await.map_err(|_| Failure::Quiet)??;
            if let WatchEvent::Bookmark(bookmark) = &event
                && bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END)
            {
                self.send(Update::ListEnd(T::KIND)).await?;
                self.know(&bookmark.metadata.resource_version);
                return Ok(events);
            }
            self.apply(event).await?;
        }
    }

    /// All objects in pages; the version that they are at.
    async fn list_pages(&mut self) -> Result<String, Failure> {
        let mut parameters = ListParams {
            field_selector: self.selection.fields.clone(),
            label_selector: self.selection.labels.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut begun = false;
        loop {
            let page = self.api.list(&parameters).await.map_err(|error| failure::<T>(&error))?;
            self.health.connected(T::KIND);
            if !begun {
                self.send(Update::ListBegin(T::KIND)).await?;
                begun = true;
            }
            for object in &page.items {
                self.present(object).await?;
            }
            parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if parameters.continue_token.is_none() {
                self.send(Update::ListEnd(T::KIND)).await?;
                let version = page.metadata.resource_version.unwrap_or_default();
                self.know(&version);
                if self.listing == Listing::PagedOnce {
                    self.listing = Listing::Streaming;
                }
                return Ok(version);
            }
        }
    }

    /// The next event that can be understood.
    async fn next(&mut self, events: &mut Events<T>) -> Result<WatchEvent<T>, Failure> {
        loop {
            match events.next().await {
                None => return Err(Failure::Ended),
                Some(Ok(WatchEvent::Error(status))) => return Err(Failure::of_status(&status, &resource::<T>())),
                Some(Ok(event)) => {
                    self.retry.reset();
                    return Ok(event);
                }
                // One object that is not even shaped like its kind must not stop the others.
                Some(Err(error)) if is_unreadable(&error) => {
                    warn!("skipped a change of {} that cannot be read: {error}", T::KIND)
                }
                Some(Err(error)) => return Err(failure::<T>(&error)),
            }
        }
    }

    /// Applies an event and remembers how far we are.
    async fn follow(&mut self, event: WatchEvent<T>) -> Result<(), Failure> {
        let version = match &event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                object.meta().resource_version.clone()
            }
            WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version.clone()),
            WatchEvent::Error(_) => None,
        };
        self.apply(event).await?;
        self.know(version.as_deref().unwrap_or_default());
        Ok(())
    }

    /// Everything up to this version is known.
    fn know(&mut self, version: &str) {
        if !version.is_empty() {
            self.version = Some(version.to_string());
            self.floor = self.version.clone();
        }
    }

    async fn apply(&mut self, event: WatchEvent<T>) -> Result<(), Failure> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => self.present(&object).await,
            WatchEvent::Deleted(object) => match self.translator.gone(&object) {
                Some(update) => self.send(update).await,
                None => Ok(()),
            },
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => Ok(()),
        }
    }

    async fn present(&mut self, object: &T) -> Result<(), Failure> {
        match self.translator.present(object) {
            Some(update) => self.send(update).await,
            None => Ok(()),
        }
    }

    /// Waits while the receiver is behind, so that a listing is never in memory as a whole.
    async fn send(&self, update: Update) -> Result<(), Failure> {
        self.updates.send(update).await.map_err(|_| Failure::Closed)
    }
}

fn failure<T: Translate>(error: &kube::Error) -> Failure {
    Failure::of(error, &resource::<T>())
}

/// Whether a single event could not be decoded. kube then takes the event for a status, which it reads as an empty one.
fn is_unreadable(error: &kube::Error) -> bool {
    match error {
        kube::Error::SerdeError(_) => true,
        kube::Error::Api(status) => status.code == 0 && status.message.is_empty(),
        _ => false,
    }
}

/// The resource's full name, as RBAC rules and the API server's messages write it.
fn resource<T: Translate>() -> String {
    match &*T::group(&()) {
        "" => T::plural(&()).to_string(),
        group => format!("{}.{group}", T::plural(&())),
    }
}

fn silent(patience: Duration) -> Failure {
    Failure::Trouble(Trouble::Unreachable(format!("it has been silent for {} s", patience.as_secs())))
}
