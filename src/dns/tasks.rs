//! Work that a thread has under way beside what it does anyway, and looks after by itself: the threads that receive questions have here those that
//! somebody else is asked. So a question stays on one processor, and its answer goes out together with others.

use futures::future::BoxFuture;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use tracing::warn;

/// The work, each with whatever its outcome is for.
pub(super) struct Tasks<T, W> {
    places: Vec<Place<T, W>>,
    free: Vec<usize>,
    under_way: usize,
    bell: Arc<Bell>,
    /// Those that go on; its memory is used again and again.
    rung: Vec<usize>,
}

/// A place is used again and again. Who still rings for the work that was in it before has that of another one looked at, which does no harm.
struct Place<T, W> {
    work: Option<(BoxFuture<'static, T>, W)>,
    ringer: Arc<Ringer>,
    waker: Waker,
}

impl<T, W> Tasks<T, W> {
    /// None yet.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new() -> io::Result<Tasks<T, W>> {
        let bell = Bell { rope: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?, state: Mutex::default() };
        Ok(Tasks { places: Vec::new(), free: Vec::new(), under_way: 0, bell: Arc::new(bell), rung: Vec::new() })
    }

    /// Something happens to it when the thread sleeps and work goes on. It needs no reading: to be told of each change is enough.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.rope.as_fd()
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.under_way == 0
    }

    /// Begins, and says what comes of it if nothing has to be waited for.
    pub fn begin(&mut self, mut work: BoxFuture<'static, T>, whose: W) -> Option<T> {
        let number = self.free.pop().unwrap_or_else(|| {
            let number = self.places.len();
            let ringer = Arc::new(Ringer { number, has_rung: AtomicBool::new(false), bell: self.bell.clone() });
            self.places.push(Place { work: None, waker: ringer.clone().into(), ringer });
            number
        });
        let place = &mut self.places[number];
        match work.as_mut().poll(&mut Context::from_waker(&place.waker)) {
            Poll::Ready(outcome) => {
                self.free.push(number);
                Some(outcome)
            }
            Poll::Pending => {
                place.work = Some((work, whose));
                self.under_way += 1;
                None
            }
        }
    }

    /// Whether the thread may sleep, because no work goes on. If so the bell wakes it until it says that it is awake.
    pub fn may_sleep(&self) -> bool {
        let mut state = self.bell.state();
        state.asleep = state.rung.is_empty() && self.rung.is_empty();
        state.asleep
    }

    /// The thread is awake.
    pub fn awake(&self) {
        self.bell.state().asleep = false;
    }

    /// The outcome of the next work that goes on and ends, and what it is for.
    pub fn next_done(&mut self) -> Option<(T, W)> {
        loop {
            let number = match self.rung.pop() {
                Some(number) => number,
                None => {
                    std::mem::swap(&mut self.bell.state().rung, &mut self.rung);
                    // Who has rung first goes on first.
                    self.rung.reverse();
                    self.rung.pop()?
                }
            };
            let Place { work, ringer, waker } = &mut self.places[number];
            // Before it is looked at: what happens from then on rings again.
            ringer.has_rung.store(false, Ordering::SeqCst);
            let Some((future, _)) = work else { continue };
            if let Poll::Ready(outcome) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                let whose = work.take().map(|(_, whose)| whose);
                self.free.push(number);
                self.under_way -= 1;
                return whose.map(|whose| (outcome, whose));
            }
        }
    }
}

/// Who has rung, and how a thread that sleeps hears of it.
struct Bell {
    rope: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rung: Vec<usize>,
    asleep: bool,
}

impl Bell {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rings for one place.
struct Ringer {
    number: usize,
    has_rung: AtomicBool,
    bell: Arc<Bell>,
}

impl Wake for Ringer {
    fn wake(self: Arc<Ringer>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Ringer>) {
        if self.has_rung.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.bell.state();
        state.rung.push(self.number);
        // Once is enough until it is awake.
        if std::mem::take(&mut state.asleep)
            && let Err(error) = rustix::io::write(&self.bell.rope, &1_u64.to_ne_bytes())
        {
            warn!(%error, "a thread that answers DNS questions could not be woken");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::channel::oneshot;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::thread;

    fn tasks() -> Tasks<u32, &'static str> {
        Tasks::new().unwrap()
    }

    fn wait_for_the_bell(tasks: &Tasks<u32, &'static str>) {
        let mut fds = [PollFd::new(&tasks.bell.rope, PollFlags::IN)];
        let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(poll(&mut fds, Some(&patience)).unwrap(), 1, "nobody rings");
    }

    #[test]
    fn what_need_not_be_waited_for_is_said_at_once_and_the_rest_when_it_is_there() {
        let mut tasks = tasks();
        assert_eq!(tasks.begin(async { 1 }.boxed(), "at once"), Some(1));
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel::<u32>()).unzip();
        for (receiver, whose) in receivers.into_iter().zip(["first", "second", "third"]) {
            assert_eq!(tasks.begin(receiver.map(Result::unwrap).boxed(), whose), None);
        }
        assert!(tasks.next_done().is_none() && !tasks.is_empty());
        for (sender, value) in senders.into_iter().zip([10, 20, 30]) {
            sender.send(value).unwrap();
        }
        assert!(!tasks.may_sleep());
        assert_eq!(tasks.next_done(), Some((10, "first")));
        assert!(!tasks.may_sleep(), "others have rung and were not looked at yet");
        let done: Vec<_> = std::iter::from_fn(|| tasks.next_done()).collect();
        assert_eq!(done, [(20, "second"), (30, "third")]);
        assert!(tasks.is_empty() && tasks.may_sleep());
        assert_eq!(tasks.places.len(), 3, "places are used again");
    }

    #[test]
    fn a_thread_that_sleeps_is_woken_by_another_one() {
        let mut tasks = tasks();
        for round in 0..1000 {
            let (sender, receiver) = oneshot::channel::<u32>();
            assert_eq!(tasks.begin(receiver.map(Result::unwrap).boxed(), ""), None);
            let other = thread::spawn(move || sender.send(round).unwrap());
            if tasks.may_sleep() {
                wait_for_the_bell(&tasks);
                tasks.awake();
                let mut count = [0; 8];
                rustix::io::read(&tasks.bell.rope, &mut count).unwrap();
            }
            assert_eq!(tasks.next_done(), Some((round, "")));
            other.join().unwrap();
        }
    }

    #[test]
    fn work_that_rings_while_it_is_looked_at_is_looked_at_again() {
        let mut tasks = tasks();
        let mut left = 5;
        let work = futures::future::poll_fn(move |context| {
            left -= 1;
            context.waker().wake_by_ref();
            if left == 0 { Poll::Ready(7) } else { Poll::Pending }
        });
        assert_eq!(tasks.begin(work.boxed(), "eager"), None);
        assert_eq!(tasks.next_done(), Some((7, "eager")));
        assert_eq!(tasks.next_done(), None, "who rings for work that is done does no harm");
    }
}
