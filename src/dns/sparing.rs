//! Warnings that one client could cause by the thousand: a few of them in a second, and how many others there were.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Warnings in a second.
pub const MOST: u32 = 10;

/// How often something has been said. Any number of threads may ask at once.
#[derive(Debug)]
pub struct Sparing {
    since: Instant,
    /// The second (upper half), counted from the start, and how often it happened in it.
    seen: AtomicU64,
}

impl Default for Sparing {
    fn default() -> Sparing {
        Sparing { since: Instant::now(), seen: AtomicU64::new(0) }
    }
}

impl Sparing {
    /// It happens once more. Whether that may be said, and if so, how often it has happened unsaid since the last time.
    pub fn may_say(&self) -> Option<u32> {
        self.may_say_in(self.since.elapsed().as_secs() as u32)
    }

    fn may_say_in(&self, second: u32) -> Option<u32> {
        let count = |seen: u64| match ((seen >> 32) as u32, seen as u32) {
            // Another thread may have looked at the clock a moment later.
            (last, times) if last >= second => u64::from(last) << 32 | u64::from(times.saturating_add(1)),
            _ => u64::from(second) << 32 | 1,
        };
        let before =
            self.seen.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| Some(count(seen))).unwrap_or_else(|seen| seen);
        let times = before as u32;
        match count(before) as u32 {
            1 => Some(times.saturating_sub(MOST)),
            now => (now <= MOST).then_some(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_said_in_a_second_and_the_next_one_tells_of_the_others() {
        let sparing = Sparing::default();
        let said = |second, times: u32| (0..times).filter_map(|_| sparing.may_say_in(second)).collect::<Vec<_>>();
        assert_eq!(said(0, 3), [0; 3]);
        assert_eq!(said(0, 100), [0; MOST as usize - 3]);
        assert_eq!(said(7, 2), [103 - MOST, 0], "93 of the others were not said");
        assert_eq!(said(6, 1), [0], "a clock that was read a moment earlier begins no second anew");
        assert_eq!(said(8, MOST), [0; MOST as usize], "none was left unsaid");
        assert_eq!(said(9, 1), [0]);
    }
}
