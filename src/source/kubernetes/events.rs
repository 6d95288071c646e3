//! Notices, sent to the API server as Events (events.k8s.io/v1, KEP-383).
//!
//! kube's own recorder does not suit: it takes two notices of one reason about one object for the same, keeps the first one's words, and
//! forgets everything at a restart. Here an Event's name follows from what it says. So a restarted agent counts on where the last one stopped,
//! and what every node would say is one Event for the whole cluster: whoever comes second is told that it exists already.

use super::retry::random;
use crate::model::ObjectKey;
use crate::notices::{Notice, Subject};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

/// The Events' `reportingController`.
const CONTROLLER: &str = "waypost";
/// Where Events about objects without a namespace go, as those of the kubelet.
const NO_NAMESPACE: &str = "default";
/// So many different notices are remembered; more are logged only.
const MEMORY: usize = 1024;
/// The API's limit for a note, in bytes.
const NOTE_LIMIT: usize = 1024;
/// An Event's name is the object's with a number; together they must not pass 253 bytes.
const NAME_LIMIT: usize = 230;

/// How fast Events may be sent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What every node would say is said within this time, so that not all ask at once.
    pub spread: Duration,
    /// A notice that repeats is written at most this often; the count tells how often it was given.
    pub repeat: Duration,
    /// So many Events at once …
    pub burst: u32,
    /// … and one more after each of these.
    pub refill: Duration,
    /// A notice that was not repeated for so long is forgotten; the API server forgets its Event after an hour as well.
    pub forget: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            spread: Duration::from_secs(10),
            repeat: Duration::from_secs(60),
            burst: 25,
            refill: Duration::from_secs(10),
            forget: Duration::from_secs(3600),
        }
    }
}

/// Sends notices as Events until nobody gives any more. What cannot be sent is dropped: it was logged.
pub async fn send_events(client: Client, node_name: &str, notices: Receiver<Notice>) {
    send_events_within(Limits::default(), client, node_name, notices).await;
}

pub(super) async fn send_events_within(limits: Limits, client: Client, node_name: &str, mut notices: Receiver<Notice>) {
    let budget = Budget { left: limits.burst, since: Instant::now(), limits };
    let mut sender = Sender { client, node_name, limits, budget, known: HashMap::new(), said: None };
    loop {
        let due = sender.known.values().filter_map(|told| told.due).min();
        tokio::select! {
            notice = notices.recv() => match notice {
                Some(notice) => sender.take(notice),
                None => return,
            },
            () = at(due) => sender.send_due().await,
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

struct Sender<'a> {
    client: Client,
    node_name: &'a str,
    limits: Limits,
    budget: Budget,
    known: HashMap<Notice, Told>,
    /// The failure that was logged last.
    said: Option<String>,
}

/// What has become of a notice so far.
struct Told {
    /// When it is to be sent (again); `None` when there is nothing new.
    due: Option<Instant>,
    /// How often it was given since it was last sent.
    unsaid: i32,
    /// When it was last sent.
    sent: Option<Instant>,
}

impl Sender<'_> {
    fn take(&mut self, notice: Notice) {
        let now = Instant::now();
        self.known.retain(|_, told| told.due.is_some() || told.sent.is_some_and(|sent| now < sent + self.limits.forget));
        if self.known.len() >= MEMORY && !self.known.contains_key(&notice) {
            debug!("no Event is made of it: {MEMORY} others are remembered or wait");
            return;
        }
        let spread = if notice.reason.everywhere { self.limits.spread.mul_f64(random()) } else { Duration::ZERO };
        let told = self.known.entry(notice).or_insert(Told { due: None, unsaid: 0, sent: None });
        told.unsaid = told.unsaid.saturating_add(1);
        let earliest = told.sent.map_or(now + spread, |sent| (sent + self.limits.repeat).max(now));
        told.due.get_or_insert(earliest);
    }

    async fn send_due(&mut self) {
        let now = Instant::now();
        let Some((notice, unsaid)) = self.known.iter().find_map(|(notice, told)| {
            let is_due = told.due.is_some_and(|due| due <= now);
            is_due.then(|| (notice.clone(), told.unsaid))
        }) else {
            return;
        };
        let allowed = self.budget.take(now);
        let outcome = match allowed {
            Ok(()) => self.publish(&notice, unsaid).await,
            Err(_) => Ok(()),
        };
        if let Some(told) = self.known.get_mut(&notice) {
            *told = match allowed {
                Ok(()) => Told { due: None, unsaid: 0, sent: Some(now) },
                Err(later) => Told { due: Some(later), ..*told },
            };
        }
        match outcome {
            Ok(()) if allowed.is_ok() => self.said = None,
            Ok(()) => {}
            Err(error) => self.complain(&error),
        }
    }

    /// One log line for each reason: that the API server is away is logged by the watches as well.
    fn complain(&mut self, error: &kube::Error) {
        let why = match error {
            kube::Error::Api(status) if status.code == 403 => {
                format!("no permission; grant create and patch on events.events.k8s.io to the agent ({})", status.message)
            }
            other => other.to_string(),
        };
        if self.said.as_ref() != Some(&why) {
            warn!("an Event is lost: {why}; what it says stands in this log");
            self.said = Some(why);
        }
    }

    async fn publish(&self, notice: &Notice, times: i32) -> Result<(), kube::Error> {
        let Some(regarding) = self.reference(&notice.about).await? else {
            debug!("{} is gone, and with it the Event about it", notice.about);
            return Ok(());
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), regarding.namespace.as_deref().unwrap_or(NO_NAMESPACE));
        let event = event(notice, regarding, self.node_name);
        match events.create(&PostParams::default(), &event).await {
            Ok(_) if times > 1 => count_on(&events, &event, times - 1).await,
            Ok(_) => Ok(()),
            Err(error) if has_code(&error, 409) && notice.reason.everywhere => Ok(()),
            Err(error) if has_code(&error, 409) => count_on(&events, &event, times).await,
            Err(error) => Err(error),
        }
    }

    /// The object with its uid, without which `kubectl describe` does not show the Event; `None` when it is gone.
    async fn reference(&self, about: &Subject) -> Result<Option<ObjectReference>, kube::Error> {
        let client = self.client.clone();
        let (kind, api_version, namespace, name, found) = match about {
            Subject::Service(ObjectKey { namespace, name }) => {
                let api: Api<Service> = Api::namespaced(client, namespace);
                ("Service", "v1", Some(&**namespace), &**name, api.get_metadata_opt(name).await?.map(|object| object.metadata))
            }
            Subject::Slice(ObjectKey { namespace, name }) => {
                let api: Api<EndpointSlice> = Api::namespaced(client, namespace);
                let found = api.get_metadata_opt(name).await?.map(|object| object.metadata);
                ("EndpointSlice", "discovery.k8s.io/v1", Some(&**namespace), &**name, found)
            }
            Subject::Node => {
                let api: Api<Node> = Api::all(client);
                let found = api.get_metadata_opt(self.node_name).await?.map(|object| object.metadata);
                ("Node", "v1", None, self.node_name, found)
            }
        };
        Ok(found.map(|metadata| ObjectReference {
            kind: Some(kind.into()),
            api_version: Some(api_version.into()),
            namespace: namespace.map(str::to_string),
            name: Some(name.into()),
            uid: metadata.uid,
            ..ObjectReference::default()
        }))
    }
}

/// Notes that an Event was observed again. An empty patch is the way to read it: to patch is a right that we have.
async fn count_on(events: &Api<Event>, event: &Event, times: i32) -> Result<(), kube::Error> {
    let name = event.metadata.name.as_deref().unwrap_or_default();
    let patch = |body| async move { events.patch(name, &PatchParams::default(), &Patch::Merge(body)).await };
    let so_far = patch(json!({})).await?.series.map_or(1, |series| series.count);
    let series = json!({ "count": so_far.saturating_add(times), "lastObservedTime": MicroTime(Timestamp::now()) });
    patch(json!({ "series": series })).await.map(drop)
}

fn event(notice: &Notice, regarding: ObjectReference, node_name: &str) -> Event {
    let namespace = regarding.namespace.clone().unwrap_or_else(|| NO_NAMESPACE.into());
    let mut name = cut(regarding.name.as_deref().unwrap_or_default(), NAME_LIMIT).trim_end_matches(['.', '-']).to_string();
    name += &format!(".{:016x}", number(notice, &regarding, node_name));
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        action: Some(notice.reason.action.into()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(cut(&notice.note, NOTE_LIMIT).into()),
        reason: Some(notice.reason.name.into()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.into()),
        reporting_instance: Some(cut(node_name, 128).into()),
        type_: Some(notice.reason.severity.event_type().into()),
        ..Event::default()
    }
}

/// FNV-1a over everything that makes this Event another one: the same for every version of this program.
fn number(notice: &Notice, regarding: &ObjectReference, node_name: &str) -> u64 {
    let node = if notice.reason.everywhere { "" } else { node_name };
    let parts = [notice.reason.name, regarding.uid.as_deref().unwrap_or_default(), node, &notice.note];
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// At most so many bytes of a text, never half a character.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// A token bucket.
struct Budget {
    left: u32,
    since: Instant,
    limits: Limits,
}

impl Budget {
    /// Takes one; the error says when the next one is there.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        while self.left < self.limits.burst && self.since + self.limits.refill <= now {
            self.left += 1;
            self.since += self.limits.refill;
        }
        if self.left == self.limits.burst {
            self.since = now;
        }
        self.left = self.left.checked_sub(1).ok_or(self.since + self.limits.refill)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_slowed_to_the_refill() {
        let limits = Limits { burst: 3, refill: Duration::from_secs(10), ..Limits::default() };
        let start = Instant::now();
        let mut budget = Budget { left: 3, since: start, limits };
        assert!((0..3).all(|_| budget.take(start).is_ok()));
        assert_eq!(budget.take(start), Err(start + limits.refill), "it says when to come again");
        assert_eq!(budget.take(start + limits.refill), Ok(()));
        assert_eq!(budget.take(start + limits.refill), Err(start + limits.refill * 2));
        let later = start + limits.refill * 100;
        assert_eq!((0..10).filter(|_| budget.take(later).is_ok()).count(), 3, "no more than a burst is saved up");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!((cut("aé", 2), cut("aé", 3), cut("", 5)), ("a", "aé", ""));
    }
}
