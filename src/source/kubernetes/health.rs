//! Which watches are connected, and one log line for each change of that.

use crate::model::Kind;
use crate::notices::{Notices, PERMISSION_MISSING, Subject};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts, Registry};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tracing::{info, warn};

/// Which watches are connected. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    watches: Mutex<Watches>,
    /// Told when the server is reachable again, so that no watch sleeps out its delay.
    reachable: Notify,
}

#[derive(Debug, Default)]
struct Watches {
    /// By kind.
    of: [Watch; Kind::COUNT],
    /// Those that the metric shows.
    shown: Vec<Kind>,
    /// Why there is no connection, as far as it was logged in the present outage.
    said: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Watch {
    connected: bool,
    trouble: Option<Trouble>,
}

/// What keeps a watch from working.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No connection: it concerns all watches alike.
    Unreachable(String),
    /// The server answered, but not with what was asked for.
    Refused(String),
    /// The server does not let us: which permission is missing.
    Forbidden(String),
    /// The server has nothing of that kind: what defines it is not installed.
    Absent(String),
}

impl Health {
    /// Whether the watch of this kind is connected at the moment.
    pub fn is_connected(&self, kind: Kind) -> bool {
        self.watches().of[kind as usize].connected
    }

    /// Registers a metric that shows which of these watches are connected.
    ///
    /// # Errors
    /// When the registry has a metric of that name already.
    pub fn show(&self, kinds: &[Kind], registry: &Registry) -> Result<(), prometheus::Error> {
        let options = Opts::new("waypost_watch_connected", "Whether the objects of this kind are watched at the API server");
        let gauge = IntGaugeVec::new(options, &["kind"])?;
        self.watches().shown.extend(kinds);
        registry.register(Box::new(Connected { health: self.clone(), gauge }))
    }

    /// The metric shows this one as well.
    pub(super) fn also_show(&self, kind: Kind) {
        self.watches().shown.push(kind);
    }

    /// Notes that a watch is connected.
    pub(super) fn connected(&self, kind: Kind) {
        let mut watches = self.watches();
        let watch = &mut watches.of[kind as usize];
        watch.connected = true;
        match watch.trouble.take() {
            Some(Trouble::Unreachable(_)) => {
                watches.end_outage();
                self.0.reachable.notify_waiters();
            }
            Some(_) => info!("{kind} are watched now"),
            None => {}
        }
    }

    /// Notes that a watch does not work: one log line for each reason of an outage, and for each new reason of a refusal; a notice for each
    /// permission that is missing.
    pub(super) fn failed(&self, kind: Kind, trouble: Trouble, notices: &Notices) {
        let mut watches = self.watches();
        match &trouble {
            Trouble::Unreachable(why) if !watches.said.contains(why) => {
                warn!("cannot reach the API server: {why}; what is known stays in use, and the connection is retried");
                watches.said.push(why.clone());
            }
            Trouble::Unreachable(_) => {}
            Trouble::Refused(why) | Trouble::Forbidden(why) | Trouble::Absent(why)
                if watches.of[kind as usize].trouble.as_ref() != Some(&trouble) =>
            {
                let text = format!("cannot watch {kind}: {why}; what is known stays in use, and it is retried");
                match trouble {
                    Trouble::Forbidden(_) => notices.tell(&PERMISSION_MISSING, Subject::Node, text),
                    _ => warn!("{text}"),
                }
            }
            _ => {}
        }
        let answered = !matches!(trouble, Trouble::Unreachable(_));
        watches.of[kind as usize] = Watch { connected: false, trouble: Some(trouble) };
        if answered {
            watches.end_outage();
        }
    }

    /// Waits until another watch finds the server reachable again.
    pub(super) async fn reachable_again(&self) {
        self.0.reachable.notified().await;
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
        self.0.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watches {
    /// Once no watch lacks a connection the outage is over, and the next one is logged anew.
    fn end_outage(&mut self) {
        let unreachable = |watch: &Watch| matches!(watch.trouble, Some(Trouble::Unreachable(_)));
        if !self.said.is_empty() && !self.of.iter().any(unreachable) {
            self.said.clear();
            info!("the API server is reachable again");
        }
    }
}

/// The watches as a metric.
struct Connected {
    health: Health,
    gauge: IntGaugeVec,
}

impl Collector for Connected {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shown = self.health.watches().shown.clone();
        for kind in shown {
            self.gauge.with_label_values(&[&kind.to_string()]).set(i64::from(self.health.is_connected(kind)));
        }
        self.gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable(why: &str) -> Trouble {
        Trouble::Unreachable(why.into())
    }

    #[test]
    fn an_outage_is_said_once_for_each_reason_and_anew_the_next_time() {
        let health = Health::default();
        let failed = |kind, trouble| health.failed(kind, trouble, &Notices::logged());
        failed(Kind::Service, unreachable("refused"));
        failed(Kind::Slice, unreachable("refused"));
        failed(Kind::Slice, unreachable("bad certificate"));
        failed(Kind::Service, unreachable("refused"));
        assert_eq!(health.watches().said, ["refused", "bad certificate"]);
        health.connected(Kind::Service);
        assert_eq!(health.watches().said.len(), 2, "one watch is still without a connection");
        assert!(health.is_connected(Kind::Service) && !health.is_connected(Kind::Slice));
        failed(Kind::Slice, Trouble::Forbidden("no permission".into()));
        assert!(health.watches().said.is_empty(), "an answer ends the outage, whatever it says");
    }

    #[test]
    fn a_missing_permission_is_a_notice_once_and_anew_when_it_is_missing_again() {
        let health = Health::default();
        let (notices, mut sent) = Notices::sent();
        let forbidden = || health.failed(Kind::Slice, Trouble::Forbidden("grant list".into()), &notices);
        forbidden();
        forbidden();
        let notice = sent.try_recv().unwrap();
        assert_eq!((notice.reason, &notice.about), (&PERMISSION_MISSING, &Subject::Node));
        assert!(notice.note.contains("endpointslices") && notice.note.contains("grant list"), "{}", notice.note);
        assert!(sent.try_recv().is_err(), "it was said");
        health.connected(Kind::Slice);
        forbidden();
        assert!(sent.try_recv().is_ok());
    }
}
