//! The thread that owns the kernel's tables.
//!
//! A commit blocks, for microseconds or, at the first start of a large cluster, for a good part of a second; so it has a thread of its own.
//! One commit is under way at a time; meanwhile the next one gathers.

use super::metrics::ProxyMetrics;
use crate::model::Family;
use crate::nft::{Committed, Committer, Disturbance, Held, Kernel, Layout, Membership, Monitor};
use crate::proxy::{Delta, Dest, Destination};
use futures::FutureExt;
use std::io;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// What the thread is asked to do.
enum Request {
    /// Commit this, into tables of these layouts; a family whose layout is not given keeps its own.
    Commit(Delta, Vec<Layout>),
    /// Compare the tables with what they should hold, and mend them.
    Compare,
    /// Try again what failed in these families, and, where so, what the kernel refused.
    Retry(Vec<Family>, bool),
}

/// What the thread is told.
enum Message {
    /// Work, of which the end is reported.
    Work(Request),
    /// Say what is committed for these destinations.
    Look(Vec<Dest>, oneshot::Sender<Vec<Held>>),
}

/// The thread's name, by which another agent on this node knows who has written.
pub const THREAD: &str = "data-path";
/// While a larger change than this is committed, the kernel writes no notices: for each of its elements it would.
const QUIET_FROM: usize = 1000;

/// What came of a request.
#[derive(Debug)]
pub struct Done {
    /// What was committed, family by family.
    pub committed: Committed,
    /// Whether something is set aside because the kernel refused it.
    pub refused: bool,
    /// How long it took.
    pub took: Duration,
    /// Whether the tables were compared on purpose.
    pub compared: bool,
    /// Whether somebody else may have changed the tables while no notices were written.
    pub unheard: bool,
}

/// What the data path has to say.
#[derive(Debug)]
pub enum Word {
    /// The request under way has come to its end.
    Done(Done),
    /// Somebody else has changed the tables.
    Disturbed(Disturbance),
}

/// The agent's end of the thread.
pub struct DataPath {
    requests: std::sync::mpsc::Sender<Message>,
    done: mpsc::UnboundedReceiver<Done>,
    /// The end of a request that is told of after what the kernel told of before it.
    ended: Option<Done>,
    busy: bool,
    monitor: Option<Monitor>,
    /// The metrics that commits move.
    pub metrics: ProxyMetrics,
}

impl DataPath {
    /// Starts the thread; it ends when this value is dropped. With a monitor it is noticed when somebody else changes the tables.
    pub fn start<K: Kernel + Send + 'static>(
        committer: Committer<K>,
        metrics: ProxyMetrics,
        monitor: Option<(Monitor, Membership)>,
    ) -> io::Result<DataPath> {
        let (requests, received) = std::sync::mpsc::channel();
        let (finished, done) = mpsc::unbounded_channel();
        let (monitor, membership) = monitor.unzip();
        let mut worker = Worker { committer, membership };
        let work = move || {
            while let Ok(message) = received.recv() {
                match message {
                    Message::Work(request) => {
                        if finished.send(worker.work(request)).is_err() {
                            return;
                        }
                    }
                    // Who asked may have lost patience.
                    Message::Look(dests, reply) => drop(reply.send(worker.held(&dests))),
                }
            }
        };
        std::thread::Builder::new().name(THREAD.into()).spawn(work)?;
        Ok(DataPath { requests, done, ended: None, busy: false, monitor, metrics })
    }

    /// Whether a request is under way.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Commits a delta, into tables of these layouts; a family whose layout is not given keeps its own. Only when nothing is under way.
    pub fn commit(&mut self, delta: Delta, layouts: Vec<Layout>) {
        self.send(Request::Commit(delta, layouts));
    }

    /// Compares and mends the tables. Only when nothing is under way.
    pub fn compare(&mut self) {
        self.send(Request::Compare);
    }

    /// Tries again what failed in these families, and, where so, what the kernel refused. Only when nothing is under way.
    pub fn retry(&mut self, families: Vec<Family>, refused: bool) {
        self.send(Request::Retry(families, refused));
    }

    /// Asks what is committed for these destinations. While a request is under way the answer takes as long as that.
    pub fn look(&self, dests: Vec<Dest>) -> oneshot::Receiver<Vec<Held>> {
        let (reply, held) = oneshot::channel();
        // Without the thread nobody answers, and whoever asked finds that out.
        let _ = self.requests.send(Message::Look(dests, reply));
        held
    }

    /// Waits for the end of the request under way, or for somebody else to change the tables; for ever when the thread is gone.
    pub async fn next(&mut self) -> Word {
        if let Some(done) = self.ended.take() {
            self.busy = false;
            return Word::Done(done);
        }
        tokio::select! {
            done = self.done.recv(), if self.busy => {
                let Some(done) = done else { return std::future::pending().await };
                // The request may have put right what the notice is about: without the notice first, nobody would be told of it.
                if let Some(disturbance) = disturbed(&mut self.monitor).now_or_never() {
                    self.ended = Some(done);
                    return Word::Disturbed(disturbance);
                }
                self.busy = false;
                Word::Done(done)
            }
            disturbance = disturbed(&mut self.monitor) => Word::Disturbed(disturbance),
        }
    }

    fn send(&mut self, request: Request) {
        // The thread outlives this value unless it panicked; then nothing is ever done again, which health reports as a change that waits.
        self.busy = true;
        if self.requests.send(Message::Work(request)).is_err() {
            tracing::error!("the thread that commits to the kernel is gone; restart the agent");
        }
    }
}

/// Waits until somebody else has changed the tables; for ever where nobody listens.
async fn disturbed(monitor: &mut Option<Monitor>) -> Disturbance {
    let Some(listening) = monitor else { return std::future::pending().await };
    listening.disturbed().await.unwrap_or_else(|error| {
        tracing::error!(%error, "from now on only the comparison every 5 minutes notices when others change the tables");
        *monitor = None;
        // What the notices that are lost would have said.
        Disturbance { by: None }
    })
}

/// What the thread works with.
struct Worker<K> {
    committer: Committer<K>,
    membership: Option<Membership>,
}

impl<K: Kernel> Worker<K> {
    fn held(&self, dests: &[Dest]) -> Vec<Held> {
        dests.iter().map(|dest| self.committer.held(dest)).collect()
    }

    fn work(&mut self, request: Request) -> Done {
        let start = Instant::now();
        let is_large = is_large(&request);
        let compared = matches!(request, Request::Compare);
        let delta = self.prepare(request);
        let quiet = self.membership.clone().filter(|_| is_large || self.committer.is_to_compare());
        let before = quiet.as_ref().and_then(|membership| self.go_quiet(membership));
        let committed = self.committer.commit(delta);
        let batches: usize = committed.families.iter().map(|family| family.batches).sum();
        let unheard = quiet.is_some_and(|membership| {
            if let Err(error) = membership.join() {
                tracing::error!(%error, "cannot listen for changes of the tables any more");
            }
            let after = self.committer.kernel().generation();
            before.map(|generation| generation.wrapping_add(batches as u32)) != after
        });
        Done { committed, refused: self.committer.has_refused(), took: start.elapsed(), compared, unheard }
    }

    /// Says to the committer what is to be different from now on; what is to be committed besides.
    fn prepare(&mut self, request: Request) -> Delta {
        match request {
            Request::Commit(delta, layouts) => {
                layouts.into_iter().for_each(|layout| self.committer.set_layout(layout));
                return delta;
            }
            Request::Compare => self.committer.distrust(),
            Request::Retry(families, refused) => {
                self.committer.retry(&families);
                if refused {
                    self.committer.another_round();
                }
            }
        }
        Delta::default()
    }

    /// Stops the notices; the generation from which on nothing is heard.
    fn go_quiet(&mut self, membership: &Membership) -> Option<u32> {
        // A group that cannot be left costs time, and nothing else.
        let _ = membership.leave();
        self.committer.kernel().generation()
    }
}

/// Another layout makes everything anew.
fn is_large(request: &Request) -> bool {
    let Request::Commit(delta, layouts) = request else { return false };
    let of = |destination: &Option<Destination>| destination.as_ref().map_or(1, |one| 2 + one.cluster.len() + one.local.len());
    !layouts.is_empty() || delta.elements.len() + delta.destinations.values().map(of).sum::<usize>() > QUIET_FROM
}
