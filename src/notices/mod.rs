//! What people should know: a log line, and an Event on the object that it is about.
//!
//! The core reports facts (a conflict, an element that the kernel refused); the agent makes notices of them. [`Notices::tell`] logs and hands on
//! without ever waiting: an API server that is slow or away costs Events, never packets. [`crate::source::kubernetes`] sends them.

mod reason;

pub use reason::*;

use crate::model::ObjectKey;
use std::fmt;
use tokio::sync::mpsc;

/// So many notices may wait for the API server; more are logged only.
const QUEUE: usize = 256;

/// What a notice is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A Service.
    Service(ObjectKey),
    /// An EndpointSlice.
    Slice(ObjectKey),
    /// The agent's own Node.
    Node,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Service(key) => write!(f, "Service {key}"),
            Subject::Slice(key) => write!(f, "EndpointSlice {key}"),
            Subject::Node => f.write_str("this Node"),
        }
    }
}

/// Something that people should know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notice {
    /// Why.
    pub reason: &'static Reason,
    /// The object that it is about.
    pub about: Subject,
    /// What exactly has happened.
    pub note: String,
}

/// Takes notices. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    events: Option<mpsc::Sender<Notice>>,
}

impl Notices {
    /// Notices that are logged only: without an API server, and where another agent says the same. The same as the default.
    pub fn logged() -> Notices {
        Notices::default()
    }

    /// Notices that are logged, and the end from which they are taken to be sent as Events.
    pub fn sent() -> (Notices, mpsc::Receiver<Notice>) {
        let (events, received) = mpsc::channel(QUEUE);
        (Notices { events: Some(events) }, received)
    }

    /// Logs the notice and hands it on. Never waits.
    pub fn tell(&self, reason: &'static Reason, about: Subject, note: impl Into<String>) {
        let notice = Notice { reason, about, note: note.into() };
        let (reason, about, note) = (reason.name, &notice.about, &notice.note);
        match notice.reason.severity {
            Severity::Normal => tracing::info!(reason, %about, "{note}"),
            Severity::Warning => tracing::warn!(reason, %about, "{note}"),
            Severity::Error => tracing::error!(reason, %about, "{note}"),
        }
        self.repeat(notice);
    }

    /// Hands a notice on that was logged before and still holds.
    pub fn repeat(&self, notice: Notice) {
        if let Some(events) = &self.events
            && events.try_send(notice).is_err()
        {
            tracing::debug!("no Event is made of it: too many wait for the API server");
        }
    }
}
