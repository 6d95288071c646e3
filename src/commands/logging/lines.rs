//! Log lines on their way to standard error, which may be a pipe that nobody reads at the moment: who logs never waits for it.
//!
//! A thread of its own writes them. What waits for it is bounded by bytes; a line that finds no room is lost, and counted.

use prometheus::{IntCounter, Registry};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// How many bytes may wait to be written. As much again may be in the writing thread's hands.
const ROOM: usize = 1 << 20;
/// Room for what must not be lost, behind all else.
const LAST_ROOM: usize = ROOM + (64 << 10);

/// The lines that wait. Clones are one; each call of `write` is one line.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    arrived: Condvar,
    /// Something has been written.
    written: Condvar,
    lost: IntCounter,
    /// The thread that writes.
    writer: OnceLock<ThreadId>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines that found no room since the waiting ones were last taken.
    turned_away: u64,
    /// What the writing thread itself says, which has no part in the room.
    note: Vec<u8>,
    /// Bytes since the start: let in, and done with.
    taken_in: u64,
    done: u64,
}

impl Lines {
    /// None yet, and nobody who writes them.
    ///
    /// # Errors
    /// Never, unless the name of the metric is wrong.
    pub fn new() -> Result<Lines, prometheus::Error> {
        let lost =
            IntCounter::new("waypost_log_lines_lost_total", "Log lines that were lost because standard error took no more")?;
        let (arrived, written) = (Condvar::new(), Condvar::new());
        Ok(Lines(Arc::new(Shared { state: Mutex::default(), arrived, written, lost, writer: OnceLock::new() })))
    }

    /// Shows how many were lost.
    ///
    /// # Errors
    /// When it is shown there already.
    pub fn show(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.0.lost.clone()))
    }

    /// Starts the thread that writes them. `wait` returns when `out`, which just took nothing, may take something again. `lost` is told how many lines have been
    /// lost since it last said so; what it logs stands in their place, whatever else is waiting.
    ///
    /// # Errors
    /// When there can be no such thread.
    pub fn write_to<W: Write + Send + 'static>(
        &self,
        out: W,
        wait: impl Fn(&W) + Send + 'static,
        lost: impl Fn(u64) + Send + 'static,
    ) -> io::Result<()> {
        let lines = self.clone();
        thread::Builder::new().name("log".into()).spawn(move || lines.work(out, wait, lost)).map(drop)
    }

    /// Adds a line that is worth more than those that wait: it has room where they find none.
    pub fn last(&self, line: &str) {
        self.add(line.as_bytes(), LAST_ROOM);
    }

    /// Waits until what has been added so far is written, or so much time has passed. Says which.
    pub fn flush(&self, limit: Duration) -> bool {
        let (mut state, end) = (self.state(), Instant::now() + limit);
        let until = state.taken_in;
        while state.done < until {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.0.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn add(&self, line: &[u8], room: usize) {
        let mut state = self.state();
        if state.waiting.len() + line.len() > room {
            state.turned_away += 1;
            self.0.lost.inc();
            return;
        }
        state.waiting.extend_from_slice(line);
        state.taken_in += line.len() as u64;
        drop(state);
        self.0.arrived.notify_one();
    }

    fn work<W: Write>(&self, mut out: W, wait: impl Fn(&W), lost: impl Fn(u64)) {
        self.0.writer.get_or_init(|| thread::current().id());
        let mut put = |text: &[u8]| unwritten(&mut out, &wait, text);
        let mut untold = 0;
        loop {
            let (text, turned_away) = self.take();
            // Those of which nothing could be said the last time came before this text, those that found no room behind it.
            untold = self.tell(&mut put, &lost, untold);
            let failed = put(&text);
            self.0.lost.inc_by(failed);
            untold = self.tell(&mut put, &lost, untold + turned_away + failed);
            self.state().done += text.len() as u64;
            self.0.written.notify_all();
        }
    }

    /// Says that so many lines were lost. Returns how many are still to be told of: all of them where that could not be written. Where the filter leaves
    /// the warning out, nothing is written, and only the metric has their number.
    fn tell(&self, put: &mut impl FnMut(&[u8]) -> u64, lost: &impl Fn(u64), untold: u64) -> u64 {
        if untold == 0 {
            return 0;
        }
        lost(untold);
        let note = std::mem::take(&mut self.state().note);
        if put(&note) == 0 { 0 } else { untold }
    }

    /// Waits for lines, and takes all of them, with the number of those that have found no room since.
    fn take(&self) -> (Vec<u8>, u64) {
        let mut state = self.state();
        while state.waiting.is_empty() {
            state = self.0.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (std::mem::take(&mut state.waiting), std::mem::take(&mut state.turned_away))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until a file that just took nothing may take something again, or tells of its error at the next write.
pub fn until_it_takes_more(file: &File) {
    // An interruption only makes the next write come early.
    let _ = poll(&mut [PollFd::new(file, PollFlags::OUT)], None);
}

/// Writes this, for as long as that takes, and returns how many lines could not be written, also in part.
fn unwritten<W: Write>(out: &mut W, wait: impl Fn(&W), mut text: &[u8]) -> u64 {
    while !text.is_empty() {
        match out.write(text) {
            Ok(0) => break,
            Ok(count) => text = &text[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares the pipe or terminal may have made it non-blocking for all.
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(out),
            Err(_) => break,
        }
    }
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0.writer.get() == Some(&thread::current().id()) {
            true => self.state().note.extend_from_slice(line),
            false => self.add(line, ROOM),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::sync::mpsc::{Receiver, Sender, channel};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A pipe that says what is written to it, each time before it waits to be read.
    struct Pipe {
        told: Sender<String>,
        read: Receiver<io::Result<usize>>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.told.send(String::from_utf8_lossy(bytes).into_owned()).unwrap();
            self.read.recv().unwrap_or(Ok(usize::MAX)).map(|most| most.min(bytes.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Lines into a pipe: what is written, and what lets the one who writes go on.
    fn piped() -> (Lines, Receiver<String>, Sender<io::Result<usize>>) {
        piped_with_others(|_| {})
    }

    /// The same with others, who log just before the number of the lost lines is said.
    fn piped_with_others(others: fn(&Lines)) -> (Lines, Receiver<String>, Sender<io::Result<usize>>) {
        let lines = Lines::new().unwrap();
        let ((told, written), (go_on, read)) = (channel(), channel());
        let notes = lines.clone();
        let lost = move |count| {
            thread::scope(|scope| scope.spawn(|| others(&notes)).join()).unwrap();
            log(&notes, &format!("{count} lost\n"));
        };
        lines.write_to(Pipe { told, read }, |_| {}, lost).unwrap();
        (lines, written, go_on)
    }

    fn log(lines: &Lines, text: &str) {
        assert_eq!(lines.clone().write(text.as_bytes()).unwrap(), text.len(), "a line is one write");
    }

    #[test]
    fn who_logs_does_not_wait_for_who_reads_and_what_found_no_room_is_counted_and_told_in_its_place() {
        let (lines, written, go_on) = piped_with_others(|lines| log(lines, &("z".repeat(ROOM - 1) + "\n")));
        log(&lines, "first\n");
        assert_eq!(written.recv_timeout(PATIENCE).unwrap(), "first\n");
        // The pipe is full from now on.
        let long = "x".repeat(ROOM / 4 - 1) + "\n";
        (0..6).for_each(|_| log(&lines, &long));
        lines.last("the end is near\n");
        assert_eq!(lines.0.lost.get(), 2);
        assert!(!lines.flush(Duration::ZERO), "nobody reads");
        go_on.send(Ok(usize::MAX)).unwrap();
        assert_eq!(written.recv_timeout(PATIENCE).unwrap(), long.repeat(4) + "the end is near\n");
        go_on.send(Ok(usize::MAX)).unwrap();
        assert_eq!(written.recv_timeout(PATIENCE).unwrap(), "2 lost\n", "though others have filled all room again");
        go_on.send(Ok(usize::MAX)).unwrap();
        assert!(written.recv_timeout(PATIENCE).unwrap().starts_with('z'));
        drop(go_on);
        assert!(lines.flush(PATIENCE));
        log(&lines, "last\n");
        assert!(lines.flush(PATIENCE));
        assert_eq!(written.try_recv().unwrap(), "last\n", "what is flushed is written");
        assert_eq!(lines.0.lost.get(), 2, "each is counted once");
    }

    #[test]
    fn even_what_must_not_be_lost_has_a_bound() {
        let (lines, written, _go_on) = piped();
        log(&lines, "first\n");
        written.recv_timeout(PATIENCE).unwrap();
        (0..=LAST_ROOM / 1024).for_each(|_| lines.last(&"y".repeat(1024)));
        assert_eq!(lines.0.lost.get(), 1);
        assert!(lines.state().waiting.len() <= LAST_ROOM);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_told_once_that_can_be_and_hold_nobody_up() {
        let (lines, written, go_on) = piped();
        let broken = || Err(ErrorKind::BrokenPipe.into());
        log(&lines, "one\ntwo\nthree\n");
        for (text, outcome) in [("one\ntwo\nthree\n", Ok(5)), ("wo\nthree\n", broken()), ("2 lost\n", broken())] {
            assert_eq!(written.recv_timeout(PATIENCE).unwrap(), text);
            go_on.send(outcome).unwrap();
        }
        assert!(lines.flush(PATIENCE), "there is nothing to wait for");
        assert_eq!(lines.0.lost.get(), 2, "the first one has been written");
        log(&lines, "four\n");
        drop(go_on);
        assert!(lines.flush(PATIENCE));
        assert_eq!(written.try_iter().collect::<Vec<_>>(), ["2 lost\n", "four\n"]);
    }

    #[test]
    fn a_write_that_is_interrupted_or_would_wait_goes_on_where_it_was() {
        let (lines, written, go_on) = piped();
        log(&lines, "one\ntwo\n");
        let [interrupted, full] = [ErrorKind::Interrupted, ErrorKind::WouldBlock].map(|kind| Err(kind.into()));
        for (text, outcome) in [("one\ntwo\n", full), ("one\ntwo\n", Ok(5)), ("wo\n", interrupted), ("wo\n", Ok(3))] {
            assert_eq!(written.recv_timeout(PATIENCE).unwrap(), text);
            go_on.send(outcome).unwrap();
        }
        assert!(lines.flush(PATIENCE));
        assert_eq!(lines.0.lost.get(), 0);
    }

    #[test]
    fn a_pipe_that_somebody_made_non_blocking_gets_all_of_it() {
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = File::from(OwnedFd::from(writer));
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let lines = Lines::new().unwrap();
        lines.write_to(writer, until_it_takes_more, |count| panic!("{count} lost")).unwrap();
        let text = ("x".repeat(99) + "\n").repeat(ROOM / 100);
        log(&lines, &text);
        assert!(!lines.flush(Duration::ZERO), "it is more than a pipe takes");
        let ((told, seen), mut read) = (channel(), vec![0; text.len()]);
        thread::spawn(move || told.send(reader.read_exact(&mut read).map(|()| read)));
        assert!(seen.recv_timeout(PATIENCE).expect("all of it comes").unwrap() == text.as_bytes());
        assert_eq!(lines.0.lost.get(), 0);
    }
}
