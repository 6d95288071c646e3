//! The watch of one kind: list, follow, begin anew.
//!
//! kube has a watcher of its own. It cannot fall back from streaming lists, hides whether a resumed watch is connected, and keeps
//! bookmarks to itself, by which a dead connection is told from a quiet one.

use super::failure::Failure;
use super::health::{Health, Trouble};
use super::relisting::{Items, Relisting, Step};
use super::retry::{Reason, Retry, random};
use super::{Pace, Told};
use crate::model::{Details, Update};
use crate::notices::Notices;
use crate::source::translate::{Translate, Translator};
use futures::{Stream, StreamExt, TryFutureExt, TryStreamExt, stream};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::fmt::Debug;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

/// How many objects one answer of a paged listing may hold: it is in memory as a whole.
const PAGE: u32 = 500;
/// All agents of a cluster are given a new configuration at the same moment; their listings begin within this time.
const SPREAD: Duration = Duration::from_secs(2);
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
    /// The server has said that we may not see this kind, or that there is none.
    is_denied: bool,
    /// What is to be read of objects.
    details: Receiver<Details>,
    /// A listing beside the watch, because more is to be read of them than was at the last one.
    relisting: Relisting<T>,
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
    /// A watch of what `api` and `selection` name, which reads these details; further ones from when they are asked for.
    pub fn new(api: Api<T>, selection: Selection, pace: Pace, details: Receiver<Details>, told: Told) -> Watch<T> {
        Watch {
            api,
            selection,
            pace,
            updates: told.updates,
            health: told.health,
            translator: Translator::new(told.notices.clone()),
            notices: told.notices,
            retry: Retry::default(),
            listing: Listing::Streaming,
            version: None,
            floor: None,
            is_denied: false,
            details,
            relisting: Relisting::default(),
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
            if self.version.is_none() && self.retry.is_repeated(reason) {
                let word = match reason {
                    Reason::Unreachable => Some(Update::Unreachable),
                    Reason::Refused if self.is_denied => Some(Update::Refused(T::KIND)),
                    // A server that is ill will know better.
                    Reason::Refused | Reason::Ended => None,
                };
                if let Some(word) = word {
                    let _ = self.send(word).await;
                }
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
        self.is_denied = matches!(failure, Failure::Trouble(Trouble::Forbidden(_) | Trouble::Absent(_)));
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
                    Trouble::Refused(_) | Trouble::Forbidden(_) | Trouble::Absent(_) => Reason::Refused,
                };
                self.health.failed(T::KIND, trouble, &self.notices);
                Some(reason)
            }
        }
    }

    /// Lists if need be and follows the changes until something stops it.
    async fn round(&mut self) -> Result<Infallible, Failure> {
        if self.version.is_none() {
            self.relisting.end();
            self.read_details();
        }
        let mut events = match (self.version.clone(), self.listing) {
            (Some(version), _) => self.open(&version, false).await?,
            (None, Listing::Streaming) => self.list_streaming().await?,
            (None, Listing::Paged | Listing::PagedOnce) => {
                let version = self.list_pages().await?;
                self.open(&version, false).await?
            }
        };
        let patience = self.pace.watch + self.pace.grace;
        let mut silent_at = Instant::now() + patience;
        loop {
            tokio::select! {
                event = timeout_at(silent_at, next(&mut events)) => {
                    let event = event.map_err(|_| silent(patience))??;
                    self.retry.reset();
                    silent_at = Instant::now() + patience;
                    self.follow(event).await?;
                }
                step = self.relisting.next() => self.relist(step).await?,
                changed = self.details.changed() => {
                    changed.map_err(|_| Failure::Closed)?;
                    // What the watch tells has them from now on, and the listing what it does not tell.
                    self.read_details();
                    self.relisting.want(SPREAD.mul_f64(random()));
                }
            }
        }
    }

    /// What is listed and told from now on has what is wanted now.
    fn read_details(&mut self) {
        let details = self.details.borrow_and_update().clone();
        self.translator.read(details);
    }

    /// Does the next step of the listing beside the watch.
    async fn relist(&mut self, step: Step<T>) -> Result<(), Failure> {
        match step {
            Step::Begin => {
                self.send(Update::ListBegin(T::KIND)).await?;
                if self.relisting.paged || self.listing == Listing::Paged {
                    self.relisting.begin(self.pages(), self.pace.watch + self.pace.grace);
                } else {
                    self.relisting.begin(self.streamed(), self.pace.quiet);
                }
                Ok(())
            }
            Step::Object(object) if self.relisting.counts(object.meta()) => self.present(&object).await,
            Step::Object(_) => Ok(()),
            Step::End => {
                self.relisting.end();
                self.list_end().await
            }
            Step::Silent => {
                self.relisting.paged = true;
                self.relisting.fail(Reason::Ended, String::new());
                Ok(())
            }
            Step::Failed(error) => {
                let failure = error.map_or(Failure::Ended, |error| failure::<T>(&error));
                self.relisting.paged |= matches!(failure, Failure::Invalid(_));
                let (reason, why) = match failure {
                    Failure::Trouble(Trouble::Unreachable(why)) => (Reason::Unreachable, why),
                    Failure::Trouble(Trouble::Refused(why) | Trouble::Forbidden(why)) => (Reason::Refused, why),
                    _ => (Reason::Ended, String::new()),
                };
                if self.relisting.fail(reason, why.clone()) && !why.is_empty() {
                    warn!("cannot list {} anew: {why}; what is known stays in use, and it is tried again", T::KIND);
                }
                Ok(())
            }
        }
    }

    /// All objects as the beginning of a watch that is not followed: as of now or later.
    fn streamed(&self) -> Items<T> {
        let (api, parameters) = (self.api.clone(), self.watching(true));
        let version = self.version.clone().unwrap_or_default();
        let events = async move { api.watch(&parameters, &version).await }.try_flatten_stream();
        let item = |event: kube::Result<WatchEvent<T>>| async {
            match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => Some(Ok(Some(object))),
                Ok(WatchEvent::Bookmark(bookmark)) => {
                    bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END).then_some(Ok(None))
                }
                Ok(WatchEvent::Error(status)) => Some(Err(kube::Error::Api(status))),
                Ok(WatchEvent::Deleted(_)) => None,
                // One object that is not even shaped like its kind must not stop the others.
                Err(error) if is_unreadable(&error) => None,
                Err(error) => Some(Err(error)),
            }
        };
        events.filter_map(item).boxed()
    }

    /// All objects in pages, as of now.
    fn pages(&self) -> Items<T> {
        let (api, parameters) = (self.api.clone(), self.page());
        let page = move |parameters: Option<ListParams>| {
            let api = api.clone();
            async move {
                let Some(mut parameters) = parameters else { return Ok(None) };
                let page = api.list(&parameters).await?;
                parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
                let is_last = parameters.continue_token.is_none();
                let items = page.items.into_iter().map(Some).chain(is_last.then_some(None)).map(Ok);
                Ok::<_, kube::Error>(Some((stream::iter(items), (!is_last).then_some(parameters))))
            }
        };
        stream::try_unfold(Some(parameters), page).try_flatten().boxed()
    }

    fn page(&self) -> ListParams {
        ListParams {
            field_selector: self.selection.fields.clone(),
            label_selector: self.selection.labels.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        }
    }

    fn watching(&self, with_initial_events: bool) -> WatchParams {
        // The ends of the watches of many nodes are spread out.
        let seconds = self.pace.watch.mul_f64(1.0 - random() / 4.0).as_secs().max(1);
        WatchParams {
            field_selector: self.selection.fields.clone(),
            label_selector: self.selection.labels.clone(),
            timeout: Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
            bookmarks: true,
            send_initial_events: with_initial_events,
        }
    }

    async fn open(&mut self, version: &str, with_initial_events: bool) -> Result<Events<T>, Failure> {
        let events = self.api.watch(&self.watching(with_initial_events), version).await.map_err(|error| failure::<T>(&error))?;
        self.health.connected(T::KIND);
        Ok(Box::pin(events))
    }

    /// All objects as the beginning of a watch, which is returned to be followed.
    async fn list_streaming(&mut self) -> Result<Events<T>, Failure> {
        let floor = self.floor.clone().unwrap_or_else(|| "0".into());
        let mut events = self.open(&floor, true).await?;
        self.send(Update::ListBegin(T::KIND)).await?;
        loop {
            let event = timeout(self.pace.quiet, next(&mut events)).await.map_err(|_| Failure::Quiet)??;
            self.retry.reset();
            if let WatchEvent::Bookmark(bookmark) = &event
                && bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END)
            {
                self.list_end().await?;
                self.know(&bookmark.metadata.resource_version);
                return Ok(events);
            }
            self.apply(event).await?;
        }
    }

    /// All objects in pages; the version that they are at.
    async fn list_pages(&mut self) -> Result<String, Failure> {
        let mut parameters = self.page();
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
                self.list_end().await?;
                let version = page.metadata.resource_version.unwrap_or_default();
                self.know(&version);
                if self.listing == Listing::PagedOnce {
                    self.listing = Listing::Streaming;
                }
                return Ok(version);
            }
        }
    }

    /// Applies an event and remembers how far we are.
    async fn follow(&mut self, event: WatchEvent<T>) -> Result<(), Failure> {
        let version = match &event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                self.relisting.watch_tells(object.meta());
                object.meta().resource_version.clone()
            }
            WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version.clone()),
            WatchEvent::Error(_) => None,
        };
        self.apply(event).await?;
        self.know(version.as_deref().unwrap_or_default());
        Ok(())
    }

    async fn list_end(&mut self) -> Result<(), Failure> {
        let details = self.translator.details_of(T::KIND);
        if details != Details::default() {
            self.send(Update::ListTells(T::KIND, details)).await?;
        }
        self.send(Update::ListEnd(T::KIND)).await
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
    async fn send(&mut self, update: Update) -> Result<(), Failure> {
        self.updates.send(update).await.map_err(|_| Failure::Closed)
    }
}

/// The next event that can be understood.
async fn next<T: Translate>(events: &mut Events<T>) -> Result<WatchEvent<T>, Failure> {
    loop {
        match events.next().await {
            None => return Err(Failure::Ended),
            Some(Ok(WatchEvent::Error(status))) => return Err(Failure::of_status(&status, &resource::<T>())),
            Some(Ok(event)) => return Ok(event),
            // One object that is not even shaped like its kind must not stop the others.
            Some(Err(error)) if is_unreadable(&error) => {
                warn!("skipped a change of {} that cannot be read: {error}", T::KIND)
            }
            Some(Err(error)) => return Err(failure::<T>(&error)),
        }
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
