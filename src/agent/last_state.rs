//! Keeps the last known state on disk, and serves it when the API server cannot be reached at the start.
//!
//! A node that boots while the control plane is away has empty tables and no names. What it knew before it went down is old, but far better
//! than nothing. An agent that merely restarts is served as well: its tables are there, and its names come from here.

use crate::admin::Status;
use crate::model::{Kind, Update};
use crate::notices::{LAST_STATE_REFUSED, LAST_STATE_SERVED, Notices, Subject};
use crate::snapshot::{self, Snapshot};
use crate::store::Store;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long the API server may take to say its first word, as long as it seems to be there.
const PATIENCE: Duration = Duration::from_secs(3);
/// Changes gather at least this long before they are saved,
const PAUSE: Duration = Duration::from_secs(5);
/// and this many times as long as it takes to write them down, so that in a cluster of any size it takes half a percent of the time at most.
const RELUCTANCE: u32 = 200;
/// Pods come and go all the time, and all of the state is written for one of them.
const PAUSE_OF_PODS: Duration = Duration::from_secs(300);

/// The state's place on disk, and what is done with it.
pub struct LastState {
    folder: PathBuf,
    status: Status,
    notices: Notices,
    /// What an earlier agent knew, and when it is used if nothing was heard by then.
    remembered: Option<(Instant, Snapshot)>,
    /// While it is served: the kinds whose listing is still to come.
    awaited: BTreeSet<Kind>,
    /// When changes are to be saved; `None` without changes.
    due: Option<Instant>,
    /// How long it took the last time.
    cost: Duration,
    saved: Option<Instant>,
    saving: Option<JoinHandle<()>>,
}

impl LastState {
    /// Reads what an earlier agent has left in this folder. One that cannot be trusted is reported and not used.
    pub fn open(folder: &Path, status: Status, notices: Notices) -> LastState {
        let remembered = snapshot::read(folder).unwrap_or_else(|error| {
            let file = folder.join(snapshot::FILE);
            let note = format!("the last known state in {} is not used: {error}", file.display());
            notices.tell(&LAST_STATE_REFUSED, Subject::Node, note);
            None
        });
        LastState {
            folder: folder.to_path_buf(),
            status,
            notices,
            remembered: remembered.map(|snapshot| (Instant::now() + PATIENCE, snapshot)),
            awaited: BTreeSet::new(),
            due: None,
            cost: Duration::ZERO,
            saved: None,
            saving: None,
        }
    }

    /// When there is something to do next.
    pub fn next(&self) -> Option<Instant> {
        let fall_back = self.remembered.as_ref().map(|(at, _)| *at);
        [fall_back, self.due].into_iter().flatten().min()
    }

    /// The remembered state, if it is time for it and nothing was heard of the cluster.
    pub fn fall_back(&mut self, store: &Store, needed: &[Kind]) -> Vec<Update> {
        let Some((_, snapshot)) = self.remembered.take_if(|(at, _)| *at <= Instant::now()) else { return Vec::new() };
        if store.has_heard() {
            return Vec::new();
        }
        let age = SystemTime::now().duration_since(snapshot.taken).unwrap_or_default().as_secs();
        let note = format!("the API server cannot be reached: the state of {age} seconds ago is served until it can");
        self.notices.tell(&LAST_STATE_SERVED, Subject::Node, note);
        self.status.serves_last_state(Some(snapshot.taken));
        self.awaited = needed.iter().copied().collect();
        snapshot.updates
    }

    /// The API server cannot be reached: the remembered state is not to wait any longer for its first word.
    pub fn hurry(&mut self) {
        if let Some((at, _)) = &mut self.remembered {
            *at = Instant::now();
        }
    }

    /// A listing of the API server's is complete.
    pub fn listed(&mut self, kind: Kind) {
        if self.awaited.remove(&kind) && self.awaited.is_empty() {
            tracing::info!("the API server's state has taken the place of the one that was remembered");
            self.status.serves_last_state(None);
        }
    }

    /// Something has changed that should be saved; nothing but pods, perhaps.
    pub fn changed(&mut self, is_of_pods_alone: bool) {
        // What is remembered must not look new only because it was written again.
        if !self.awaited.is_empty() {
            return;
        }
        let pause = if is_of_pods_alone { PAUSE_OF_PODS } else { PAUSE };
        let pause = pause.max(self.cost * RELUCTANCE);
        let now = Instant::now();
        let due = self.saved.map_or(now + PAUSE, |saved| saved + pause).max(now);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Saves the store if it is time; the disk is waited for elsewhere.
    pub fn save(&mut self, store: &Store) {
        if self.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        if self.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            self.due = Some(Instant::now() + PAUSE);
            return;
        }
        self.saving = Some(self.write(store));
    }

    /// Saves what has changed since the last time, and waits until it is on disk.
    pub async fn finish(&mut self, store: &Store) {
        if let Some(saving) = self.saving.take() {
            let _ = saving.await;
        }
        if self.due.is_some() {
            let _ = self.write(store).await;
        }
    }

    fn write(&mut self, store: &Store) -> JoinHandle<()> {
        let begun = Instant::now();
        let taken = SystemTime::now();
        let bytes = snapshot::encode(store, taken);
        (self.cost, self.saved, self.due) = (begun.elapsed(), Some(begun), None);
        let (folder, status) = (self.folder.clone(), self.status.clone());
        tokio::task::spawn_blocking(move || report(snapshot::write(&folder, &bytes), &folder, &status, taken))
    }
}

fn report(outcome: io::Result<()>, folder: &Path, status: &Status, taken: SystemTime) {
    match outcome {
        Ok(()) => status.saved_state(taken),
        Err(error) => {
            tracing::error!(folder = %folder.display(), %error, "the last known state cannot be saved; give --state-dir a folder that the agent may write")
        }
    }
}
