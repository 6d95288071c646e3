//! The thread that owns the kernel's tables.
//!
//! A commit blocks, for microseconds or, at the first start of a large cluster, for a good part of a second; so it has a thread of its own.
//! One commit is under way at a time; meanwhile the next one gathers.

use super::metrics::ProxyMetrics;
use crate::nft::{Committed, Committer, Kernel};
use crate::proxy::Delta;
use std::io;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// What the thread is asked to do.
enum Request {
    /// Commit this.
    Commit(Delta),
    /// Compare the tables with what they should hold, and mend them.
    Compare,
}

/// What came of a request.
#[derive(Debug)]
pub struct Done {
    /// What was committed, family by family.
    pub committed: Committed,
    /// Whether something that is wanted could not be put in place.
    pub behind: bool,
    /// How long it took.
    pub took: Duration,
}

/// The agent's end of the thread.
pub struct DataPath {
    requests: std::sync::mpsc::Sender<Request>,
    done: mpsc::UnboundedReceiver<Done>,
    busy: bool,
    /// The metrics that commits move.
    pub metrics: ProxyMetrics,
}

impl DataPath {
    /// Starts the thread; it ends when this value is dropped.
    pub fn start<K: Kernel + Send + 'static>(mut committer: Committer<K>, metrics: ProxyMetrics) -> io::Result<DataPath> {
        let (requests, received) = std::sync::mpsc::channel();
        let (finished, done) = mpsc::unbounded_channel();
        let work = move || {
            while let Ok(request) = received.recv() {
                let start = Instant::now();
                let committed = match request {
                    Request::Commit(delta) => committer.commit(delta),
                    Request::Compare => {
                        committer.distrust();
                        committer.commit(Delta::default())
                    }
                };
                let done = Done { committed, behind: committer.is_behind(), took: start.elapsed() };
                if finished.send(done).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("data-path".into()).spawn(work)?;
        Ok(DataPath { requests, done, busy: false, metrics })
    }

    /// Whether a request is under way.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Commits a delta. Only when nothing is under way.
    pub fn commit(&mut self, delta: Delta) {
        self.send(Request::Commit(delta));
    }

    /// Compares and mends the tables. Only when nothing is under way.
    pub fn compare(&mut self) {
        self.send(Request::Compare);
    }

    /// Waits for the request under way; for ever when there is none, or when the thread is gone.
    pub async fn done(&mut self) -> Done {
        match self.done.recv().await {
            Some(done) => {
                self.busy = false;
                done
            }
            None => std::future::pending().await,
        }
    }

    fn send(&mut self, request: Request) {
        // The thread outlives this value unless it panicked; then nothing is ever done again, which health reports as a change that waits.
        self.busy = true;
        if self.requests.send(request).is_err() {
            tracing::error!("the thread that commits to the kernel is gone; restart the agent");
        }
    }
}
