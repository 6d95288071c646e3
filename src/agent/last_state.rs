//! Keeps the last known state on disk, and serves it when the API server cannot be reached at the start.
//!
//! A node that boots while the control plane is away has empty tables and no names. What it knew before it went down is old, but far better
//! than nothing. An agent that merely restarts is served as well: its tables are there, and its names come from here.

use crate::admin::Status;
use crate::model::{Demand, Kind, Update};
use crate::notices::{LAST_STATE_REFUSED, LAST_STATE_SERVED, Notices, Subject};
use crate::snapshot;
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
    /// When what an earlier agent knew is used if nothing was heard by then.
    remembered: Option<Instant>,
    /// While it is served: the kinds whose listing is still to come.
    awaited: BTreeSet<Kind>,
    /// While it is served: what nobody has needed so far of what is not always watched.
    spare: Vec<(Kind, Vec<Update>)>,
    /// When changes are to be saved; `None` without changes.
    due: Option<Instant>,
    /// How long it took the last time.
    cost: Duration,
    saved: Option<Instant>,
    saving: Option<JoinHandle<()>>,
}

impl LastState {
    /// Looks for what an earlier agent has left in this folder. One that cannot be trusted is reported and not used. It is read once it is served: an agent
    /// that finds the API server, as nearly all do, has no memory to spare for a second copy of the cluster.
    pub fn open(folder: &Path, status: Status, notices: Notices) -> LastState {
        let is_there = snapshot::is_there(folder).unwrap_or_else(|error| {
            refuse(&notices, folder, &error);
            false
        });
        LastState {
            folder: folder.to_path_buf(),
            status,
            notices,
            remembered: is_there.then(|| Instant::now() + PATIENCE),
            awaited: BTreeSet::new(),
            spare: Vec::new(),
            due: None,
            cost: Duration::ZERO,
            saved: None,
            saving: None,
        }
    }

    /// When there is something to do next.
    pub fn next(&self) -> Option<Instant> {
        [self.remembered, self.due].into_iter().flatten().min()
    }

    /// The remembered state, if it is time for it and nothing was heard of the cluster. It is served until all that is `needed` has been listed, and what else
    /// is known of names: namespaces, and kinds that are `demanded`. Those that nobody watches would be served for ever, and are left out.
    pub fn fall_back(&mut self, store: &Store, needed: &[Kind], demanded: &[Kind]) -> Vec<Update> {
        let is_due = self.remembered.take_if(|at| *at <= Instant::now()).is_some();
        if !is_due || store.has_heard() {
            return Vec::new();
        }
        let read = snapshot::read(&self.folder).inspect_err(|error| refuse(&self.notices, &self.folder, error));
        let Ok(Some(snapshot)) = read else { return Vec::new() };
        let age = SystemTime::now().duration_since(snapshot.taken).unwrap_or_default().as_secs();
        let note = format!("the API server cannot be reached: the state of {age} seconds ago is served until it can");
        self.notices.tell(&LAST_STATE_SERVED, Subject::Node, note);
        self.status.serves_last_state(Some(snapshot.taken));
        let mut served = Vec::new();
        for (kind, updates) in snapshot.kinds {
            if Demand::KINDS.contains(&kind) {
                self.spare.push((kind, updates));
            } else {
                served.extend(updates);
            }
        }
        self.awaited = needed.iter().copied().chain([Kind::Namespace]).collect();
        served.extend(self.serve_besides(store, demanded));
        served
    }

    /// What is remembered of these kinds, which are needed now as well, while the last known state is served.
    pub fn serve_besides(&mut self, store: &Store, demanded: &[Kind]) -> Vec<Update> {
        let is_wanted = |(kind, _): &mut (Kind, Vec<Update>)| demanded.contains(kind) && !store.is_listed(*kind);
        let wanted: Vec<_> = self.spare.extract_if(.., is_wanted).collect();
        self.awaited.extend(wanted.iter().map(|(kind, _)| *kind));
        wanted.into_iter().flat_map(|(_, updates)| updates).collect()
    }

    /// The API server cannot be reached: the remembered state is not to wait any longer for its first word.
    pub fn hurry(&mut self) {
        if let Some(at) = &mut self.remembered {
            *at = Instant::now();
        }
    }

    /// A listing of the API server's is complete.
    pub fn listed(&mut self, kind: Kind) {
        self.spare.retain(|(spare, _)| *spare != kind);
        self.comes_no_more(kind);
    }

    /// The API server does not list a kind. Whether what is remembered of it is served.
    pub fn refused(&mut self, kind: Kind) -> bool {
        self.spare.retain(|(spare, _)| *spare != kind);
        self.comes_no_more(kind)
    }

    /// This kind's listing is not awaited any more. Whether it was.
    fn comes_no_more(&mut self, kind: Kind) -> bool {
        let was_awaited = self.awaited.remove(&kind);
        if was_awaited && self.awaited.is_empty() {
            tracing::info!("the API server's state has taken the place of the one that was remembered");
            self.spare.clear();
            self.status.serves_last_state(None);
        }
        was_awaited
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

fn refuse(notices: &Notices, folder: &Path, error: &io::Error) {
    let file = folder.join(snapshot::FILE);
    let note = format!("the last known state in {} is not used: {error}", file.display());
    notices.tell(&LAST_STATE_REFUSED, Subject::Node, note);
}

fn report(outcome: io::Result<()>, folder: &Path, status: &Status, taken: SystemTime) {
    match outcome {
        Ok(()) => status.saved_state(taken),
        Err(error) => {
            tracing::error!(folder = %folder.display(), %error, "the last known state cannot be saved; give --state-dir a folder that the agent may write")
        }
    }
}

#[cfg(test)]
#[path = "last_state_tests.rs"]
mod tests;
