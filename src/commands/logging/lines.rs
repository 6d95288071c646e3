//! Log lines on their way to standard error, which may be a pipe that nobody reads at the moment: who logs never waits for it.
//!
//! A thread of its own writes them. What waits for it is bounded by bytes; a line that finds no room is lost, and counted.

use prometheus::{IntCounter, Registry};
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
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
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines that found no room since the waiting ones were last taken.
    turned_away: u64,
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
        Ok(Lines(Arc::new(Shared { state: Mutex::default(), arrived: Condvar::new(), written: Condvar::new(), lost })))
    }

    /// Shows how many were lost.
    ///
    /// # Errors
    /// When it is shown there already.
    pub fn show(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.0.lost.clone()))
    }

    /// Starts the thread that writes them. `lost` is told how many lines have been lost since it was last told, between those before and after them.
    ///
    /// # Errors
    /// When there can be no such thread.
    pub fn write_to(&self, out: impl Write + Send + 'static, lost: impl Fn(u64) + Send + 'static) -> io::Result<()> {
        let lines = self.clone();
        thread::Builder::new().name("log".into()).spawn(move || lines.work(out, lost)).map(drop)
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

    fn work(&self, mut out: impl Write, lost: impl Fn(u64)) {
        loop {
            let (text, turned_away) = self.take();
            if turned_away > 0 {
                // Before the text is written: there is room now, and nothing has come after what was lost.
                lost(turned_away);
            }
            // Nobody can be told of an error in a line: it would be lost as well.
            if out.write_all(&text).and_then(|()| out.flush()).is_err() {
                self.0.lost.inc_by(text.iter().filter(|byte| **byte == b'\n').count() as u64);
            }
            self.state().done += text.len() as u64;
            self.0.written.notify_all();
        }
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

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add(line, ROOM);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A pipe that says what is written to it, each time before it waits to be read.
    struct Pipe {
        told: Sender<String>,
        read: Receiver<io::Result<()>>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.told.send(String::from_utf8_lossy(bytes).into_owned()).unwrap();
            self.read.recv().unwrap_or(Ok(())).map(|()| bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Lines into a pipe: what is written, and what lets the one who writes go on.
    fn piped() -> (Lines, Receiver<String>, Sender<io::Result<()>>) {
        let lines = Lines::new().unwrap();
        let ((told, written), (go_on, read)) = (channel(), channel());
        let notes = lines.clone();
        lines.write_to(Pipe { told, read }, move |count| notes.last(&format!("{count} lost\n"))).unwrap();
        (lines, written, go_on)
    }

    fn log(lines: &Lines, text: &str) {
        assert_eq!(lines.clone().write(text.as_bytes()).unwrap(), text.len(), "a line is one write");
    }

    #[test]
    fn who_logs_does_not_wait_for_who_reads_and_what_found_no_room_is_counted_and_told_in_its_place() {
        let (lines, written, go_on) = piped();
        log(&lines, "first\n");
        assert_eq!(written.recv_timeout(PATIENCE).unwrap(), "first\n");
        // The pipe is full from now on.
        let long = "x".repeat(ROOM / 4 - 1) + "\n";
        (0..6).for_each(|_| log(&lines, &long));
        lines.last("the end is near\n");
        assert_eq!(lines.0.lost.get(), 2);
        assert!(!lines.flush(Duration::ZERO), "nobody reads");
        go_on.send(Ok(())).unwrap();
        assert_eq!(written.recv_timeout(PATIENCE).unwrap(), long.repeat(4) + "the end is near\n");
        log(&lines, "more\n");
        go_on.send(Ok(())).unwrap();
        assert_eq!(written.recv_timeout(PATIENCE).unwrap(), "2 lost\nmore\n");
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
    fn lines_that_cannot_be_written_are_counted_and_hold_nobody_up() {
        let (lines, written, go_on) = piped();
        log(&lines, "one\ntwo\n");
        written.recv_timeout(PATIENCE).unwrap();
        go_on.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        assert!(lines.flush(PATIENCE), "there is nothing to wait for");
        assert_eq!(lines.0.lost.get(), 2);
        log(&lines, "three\n");
        assert_eq!(written.recv_timeout(PATIENCE).unwrap(), "three\n");
    }
}
