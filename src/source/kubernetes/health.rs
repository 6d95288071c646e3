//! Which watches are connected, and one log line for each change of that.

use crate::model::Kind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tracing::{info, warn};

/// Which watches are connected. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    watches: Mutex<[Watch; 4]>,
    /// Told when the server is reachable again, so that no watch sleeps out its delay.
    reachable: Notify,
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
}

impl Health {
    /// Whether the watch of this kind is connected at the moment.
    pub fn is_connected(&self, kind: Kind) -> bool {
        self.watches()[kind as usize].connected
    }

    /// Notes that a watch is connected.
    pub(super) fn connected(&self, kind: Kind) {
        let mut watches = self.watches();
        let watch = &mut watches[kind as usize];
        watch.connected = true;
        match watch.trouble.take() {
            Some(Trouble::Unreachable(_)) => {
                if !any_unreachable(&watches) {
                    info!("the API server is reachable again and all watches are connected");
                }
                self.0.reachable.notify_waiters();
            }
            Some(Trouble::Refused(_)) => info!("{kind} are watched now"),
            None => {}
        }
    }

    /// Notes that a watch does not work: one log line for the whole outage, or for each new reason of a refusal.
    pub(super) fn failed(&self, kind: Kind, trouble: Trouble) {
        let mut watches = self.watches();
        let known = match &trouble {
            Trouble::Unreachable(_) => any_unreachable(&watches),
            Trouble::Refused(_) => watches[kind as usize].trouble.as_ref() == Some(&trouble),
        };
        if !known {
            match &trouble {
                Trouble::Unreachable(why) => {
                    warn!("cannot reach the API server: {why}; what is known stays in use, and the connection is retried");
                }
                Trouble::Refused(why) => warn!("cannot watch {kind}: {why}; what is known stays in use, and it is retried"),
            }
        }
        watches[kind as usize] = Watch { connected: false, trouble: Some(trouble) };
    }

    /// Waits until another watch finds the server reachable again.
    pub(super) async fn reachable_again(&self) {
        self.0.reachable.notified().await;
    }

    fn watches(&self) -> MutexGuard<'_, [Watch; 4]> {
        self.0.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn any_unreachable(watches: &[Watch; 4]) -> bool {
    watches.iter().any(|watch| matches!(watch.trouble, Some(Trouble::Unreachable(_))))
}
