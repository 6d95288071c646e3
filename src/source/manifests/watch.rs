//! Applying edits of the folder live.

use super::{ManifestError, Manifests, read};
use crate::model::{Details, Update};
use crate::source::translate::Translator;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// An edit is read when the folder has been quiet for so long: editors and `kubectl` write in several steps.
const QUIET: Duration = Duration::from_millis(100);
/// How often a folder that is gone is looked for.
const GONE_PAUSE: Duration = Duration::from_secs(1);

/// Reads the folder and sends it as a full listing, then again after each edit. What an edit breaks is logged with file and line, and the
/// last good content stays. Works on mounted ConfigMaps too, whose files are swapped as a whole by a symbolic link.
///
/// Returns when nobody receives any more.
///
/// # Errors
/// [`ManifestError`] when the folder cannot be used at the start: nothing has been sent then.
pub async fn watch(folder: &Path, node_name: Option<&str>, updates: Sender<Update>) -> Result<(), ManifestError> {
    // A missing folder is answered as such, and not with what the watcher says of it.
    tokio::fs::read_dir(folder)
        .await
        .map(drop)
        .map_err(|source| ManifestError::Unreadable { path: folder.to_path_buf(), source })?;
    // Watched before it is read, so that no edit falls between.
    let edits = Edits::of(folder)?;
    let mut content = Content::of(folder).await?;
    let mut translator = Translator::default().reading(Details::ALL);
    send(&content.good, node_name, &mut translator, &updates).await;
    loop {
        tokio::select! {
            () = edits.next() => {}
            () = updates.closed() => return Ok(()),
        }
        match content.reread().await {
            Reread::Changed => send(&content.good, node_name, &mut translator, &updates).await,
            Reread::Unchanged | Reread::Broken => {}
            Reread::Gone => edits.look_again().await,
        }
    }
}

/// The last good content of a folder.
pub(super) struct Content {
    folder: PathBuf,
    pub(super) good: Manifests,
    /// What was last said to be wrong with the folder; empty when it is in order.
    complaint: String,
}

/// What has become of the content.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reread {
    /// It is another one.
    Changed,
    /// It is the same.
    Unchanged,
    /// It cannot be used; the last good one stays.
    Broken,
    /// The folder is not there or not readable; the last good content stays.
    Gone,
}

impl Content {
    pub(super) async fn of(folder: &Path) -> Result<Content, ManifestError> {
        let good = read_aside(folder).await?;
        announce(&good, &Manifests::default());
        Ok(Content { folder: folder.to_path_buf(), good, complaint: String::new() })
    }

    pub(super) async fn reread(&mut self) -> Reread {
        match read_aside(&self.folder).await {
            Ok(read) => {
                let changed = read != self.good;
                if changed {
                    announce(&read, &self.good);
                    self.good = read;
                } else if !self.complaint.is_empty() {
                    info!("{} is in order again and unchanged", self.folder.display());
                }
                self.complaint.clear();
                if changed { Reread::Changed } else { Reread::Unchanged }
            }
            Err(error) => {
                let complaint = error.to_string();
                if complaint != self.complaint {
                    warn!("{complaint}; the last good content of the folder stays in use");
                    self.complaint = complaint;
                }
                if matches!(error, ManifestError::Unreadable { .. }) { Reread::Gone } else { Reread::Broken }
            }
        }
    }
}

/// Sends everything; that nobody receives any more shows in [`watch`].
async fn send(manifests: &Manifests, node_name: Option<&str>, translator: &mut Translator, updates: &Sender<Update>) {
    for update in manifests.updates(node_name, translator) {
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

fn announce(read: &Manifests, before: &Manifests) {
    info!(services = read.services.len(), slices = read.slices.len(), "manifests read");
    for ignored in read.ignored.iter().filter(|ignored| !before.ignored.contains(ignored)) {
        info!("{ignored} means nothing here and is ignored");
    }
}

/// Large folders take a while to parse: not on a thread that serves others.
async fn read_aside(folder: &Path) -> Result<Manifests, ManifestError> {
    let folder = folder.to_path_buf();
    let reading = tokio::task::spawn_blocking(move || read(&folder));
    reading.await.expect("only a panic of the reader itself ends it without a result")
}

/// The edits of a folder, one at a time.
struct Edits {
    folder: PathBuf,
    watcher: Mutex<RecommendedWatcher>,
    edited: Arc<Notify>,
}

impl Edits {
    fn of(folder: &Path) -> Result<Edits, ManifestError> {
        let unwatchable = |source| ManifestError::Unwatchable { path: folder.to_path_buf(), source };
        let edited = Arc::new(Notify::new());
        let told = edited.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_edit(event.kind)) {
                told.notify_one();
            }
        })
        .map_err(unwatchable)?;
        watcher.watch(folder, RecursiveMode::NonRecursive).map_err(unwatchable)?;
        Ok(Edits { folder: folder.to_path_buf(), watcher: watcher.into(), edited })
    }

    /// Waits for an edit and then until the folder is quiet.
    async fn next(&self) {
        self.edited.notified().await;
        while timeout(QUIET, self.edited.notified()).await.is_ok() {}
        // The edit may have put another folder under the name, and the kernel watches folders, not names. Where there is none at the
        // moment both calls fail, and that shows when it is read.
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = watcher.unwatch(&self.folder);
        let _ = watcher.watch(&self.folder, RecursiveMode::NonRecursive);
    }

    /// Has the folder looked for again after a while: its coming back is no edit that the kernel would tell.
    async fn look_again(&self) {
        sleep(GONE_PAUSE).await;
        self.edited.notify_one();
    }
}

/// Reading is no edit (we do it ourselves); the end of writing is.
fn is_edit(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
