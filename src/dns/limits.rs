//! How much may be under way at a time: whatever clients send, the memory for it has a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest question. Waypost says that it takes 1232 bytes (EDNS); who sends more than this has not listened.
pub const LONGEST_QUESTION: usize = 4096;

/// Questions over UDP that need more than the records and what a cache has, and are worked on at a time. Others get SERVFAIL.
const UDP: usize = 8192;
/// Questions over TCP that are worked on at a time. Others wait on their connections.
const TCP: usize = 4096;
/// Questions over TCP that are worked on for the cache alone, because their clients have gone. Without a bound of their own one client could take
/// all places, by connections that it closes.
pub(super) const ORPHANS: usize = 256;
/// Answers over TCP that their clients have not taken yet, bytes. Beyond that a connection ends that has another answer waiting; one alone may
/// always go.
const UNSENT: usize = 64 << 20;

/// What is under way, of all addresses together.
#[derive(Debug)]
pub struct Limits {
    udp: Questions,
    tcp: Questions,
    orphans: Arc<Semaphore>,
    unsent: AtomicUsize,
    most_unsent: usize,
}

/// The places of one transport.
#[derive(Debug)]
struct Questions {
    places: Arc<Semaphore>,
    /// Those that wait for other servers leave a quarter of the places to those that need nobody else.
    elsewhere: Semaphore,
}

impl Questions {
    fn new(places: usize) -> Questions {
        Questions { places: Arc::new(Semaphore::new(places)), elsewhere: Semaphore::new((places * 3 / 4).max(1)) }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::of(UDP, TCP, UNSENT)
    }
}

impl Limits {
    /// So many questions over UDP, and over TCP, and so many bytes that wait to be taken.
    pub fn of(udp: usize, tcp: usize, most_unsent: usize) -> Limits {
        let orphans = Arc::new(Semaphore::new(ORPHANS));
        Limits { udp: Questions::new(udp), tcp: Questions::new(tcp), orphans, unsent: AtomicUsize::new(0), most_unsent }
    }

    /// A place for a question over UDP, if there is one.
    pub(super) fn udp(&self) -> Option<OwnedSemaphorePermit> {
        self.udp.places.clone().try_acquire_owned().ok()
    }

    /// A place for a question over TCP, which is waited for.
    pub(super) async fn tcp(&self) -> Option<OwnedSemaphorePermit> {
        self.tcp.places.clone().acquire_owned().await.ok()
    }

    /// A place for a question over TCP whose client has gone, if there is one.
    pub(super) fn orphan(&self) -> Option<OwnedSemaphorePermit> {
        self.orphans.clone().try_acquire_owned().ok()
    }

    /// A place among those that wait for other servers, if there is one.
    pub(super) fn elsewhere(&self, by_tcp: bool) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let questions = if by_tcp { &self.tcp } else { &self.udp };
        questions.elsewhere.try_acquire().ok()
    }

    /// Notes that an answer of so many bytes waits to be taken on a connection, for as long as the returned value lives; `None` where the connection has
    /// others that wait already, and there are too many.
    pub(super) fn waits(self: &Arc<Limits>, connection: &Arc<AtomicUsize>, bytes: usize) -> Option<Unsent> {
        let others = connection.fetch_add(bytes, Ordering::Relaxed);
        let all = self.unsent.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let unsent = Unsent { limits: self.clone(), connection: connection.clone(), bytes };
        (others == 0 || all <= self.most_unsent).then_some(unsent)
    }
}

/// An answer that waits to be taken.
pub(super) struct Unsent {
    limits: Arc<Limits>,
    connection: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.limits.unsent.fetch_sub(self.bytes, Ordering::Relaxed);
        self.connection.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_takes_its_answers_is_never_refused_and_one_that_lets_them_lie_is() {
        let limits = Arc::new(Limits::of(1, 1, 100));
        let (lazy, quick) = (Arc::default(), Arc::default());
        let lying: Vec<_> = (0..2).map(|_| limits.waits(&lazy, 50).unwrap()).collect();
        assert!(limits.waits(&lazy, 50).is_none());
        drop(limits.waits(&quick, 50).unwrap());
        drop(limits.waits(&quick, 50).unwrap());
        drop(lying);
        assert!(limits.waits(&lazy, 50).is_some());
    }

    #[test]
    fn those_that_wait_for_other_servers_leave_room() {
        let limits = Limits::of(4, 4, 0);
        let waiting: Vec<_> = (0..3).map(|_| limits.elsewhere(false).unwrap()).collect();
        assert!(limits.elsewhere(false).is_none() && limits.elsewhere(true).is_some());
        drop(waiting);
        assert!(limits.elsewhere(false).is_some());
    }
}
