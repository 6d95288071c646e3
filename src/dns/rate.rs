//! Response rate limiting: how many answers over UDP a client gets in a second.
//!
//! Whoever forges a victim's address makes a server send its answers there. So each client (a prefix of its address) has a bucket of answers that
//! fills up again with time. Beyond it nothing is said, but for every so many questions, which get an empty, truncated reply: a real client asks
//! again over TCP, where no address can be forged, and a victim gets no more than it would have been sent anyway (BIND's and Knot's "slip").

use crate::config::RateConfig;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Buckets. Clients that meet in one share it, seldom: nobody can choose with whom, because the hash has a key.
const BUCKETS: usize = 1 << 16;
/// Parts of an answer in which a bucket is filled: one millisecond brings as many as there are answers in a second.
const PART: u64 = 1000;
const MINUTE: u32 = 60_000;

/// What a question deserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An answer.
    Answer,
    /// An empty, truncated reply.
    Truncate,
    /// Nothing.
    Silence,
}

/// The buckets of all clients. Any number of threads may ask at once.
#[derive(Debug)]
pub struct RateLimit {
    config: RateConfig,
    hasher: RandomState,
    /// When it was last looked at (milliseconds, upper half), and the parts of answers that are left.
    buckets: Box<[AtomicU64]>,
    beyond: AtomicU32,
}

impl RateLimit {
    /// Full buckets for everybody.
    pub fn new(config: &RateConfig) -> RateLimit {
        let full = u64::from(config.per_second) * PART;
        let buckets = (0..BUCKETS).map(|_| AtomicU64::new(full)).collect();
        RateLimit { config: config.clone(), hasher: RandomState::new(), buckets, beyond: AtomicU32::new(0) }
    }

    /// Counts a question of this client; `now` is in milliseconds since any moment that stays the same.
    pub fn ask(&self, client: IpAddr, now: u32) -> Verdict {
        let bucket = &self.buckets[self.hasher.hash_one(self.prefix(client)) as usize % BUCKETS];
        let per_second = u64::from(self.config.per_second);
        let take = |bucket: u64| {
            let last = (bucket >> 32) as u32;
            // Another thread may have looked at its clock a moment later than this one.
            let passed = if last.wrapping_sub(now) < MINUTE { 0 } else { u64::from(now.wrapping_sub(last)) };
            let left = ((bucket & u64::from(u32::MAX)) + passed * per_second).min(per_second * PART);
            left.checked_sub(PART).map(|left| u64::from(now) << 32 | left)
        };
        match bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Verdict::Answer,
            Err(_) if self.config.slip == 0 => Verdict::Silence,
            Err(_) => match self.beyond.fetch_add(1, Ordering::Relaxed) % self.config.slip {
                0 => Verdict::Truncate,
                _ => Verdict::Silence,
            },
        }
    }

    fn prefix(&self, client: IpAddr) -> u128 {
        let (v4, v6) = self.config.prefixes;
        match client.to_canonical() {
            IpAddr::V4(address) => u128::from(u32::from(address)).checked_shr(32 - u32::from(v4)).unwrap_or(0),
            // No IPv4 address is as long.
            IpAddr::V6(address) => u128::from(address).checked_shr(128 - u32::from(v6)).unwrap_or(0) | 1 << 127,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_second: u32, slip: u32, prefixes: (u8, u8)) -> RateLimit {
        RateLimit::new(&RateConfig { per_second, slip, prefixes })
    }

    fn asked(limit: &RateLimit, client: &str, times: usize, now: u32) -> (usize, usize, usize) {
        let client = client.parse().unwrap();
        let verdicts: Vec<Verdict> = (0..times).map(|_| limit.ask(client, now)).collect();
        let count = |verdict| verdicts.iter().filter(|one| **one == verdict).count();
        (count(Verdict::Answer), count(Verdict::Truncate), count(Verdict::Silence))
    }

    #[test]
    fn a_client_gets_its_answers_of_a_second_and_every_second_one_beyond_is_sent_to_tcp() {
        let limit = limit(10, 2, (32, 128));
        assert_eq!(asked(&limit, "10.0.0.1", 20, 0), (10, 5, 5));
        assert_eq!(asked(&limit, "10.0.0.1", 20, 500), (5, 8, 7), "half a second brings half of them");
        assert_eq!(asked(&limit, "10.0.0.1", 20, 60_000).0, 10, "a pause brings no more than those of a second");
    }

    #[test]
    fn without_slip_there_is_silence() {
        assert_eq!(asked(&limit(1, 0, (32, 128)), "2001:db8::1", 5, 7), (1, 0, 4));
    }

    #[test]
    fn clients_are_told_apart_by_their_prefixes() {
        let limit = limit(3, 0, (24, 64));
        assert_eq!(asked(&limit, "10.0.0.1", 3, 0).0, 3);
        assert_eq!(asked(&limit, "10.0.0.200", 3, 0).0, 0, "one network");
        assert_eq!(asked(&limit, "::ffff:10.0.0.9", 3, 0).0, 0, "the same network, written otherwise");
        assert_eq!(asked(&limit, "2001:db8::1", 3, 0).0, 3);
        assert_eq!(asked(&limit, "2001:db8::ffff:1", 3, 0).0, 0);
    }

    #[test]
    fn the_clock_may_go_round_and_threads_may_disagree_about_it() {
        let limit = limit(10, 0, (32, 128));
        assert_eq!(asked(&limit, "10.0.0.1", 20, u32::MAX - 100).0, 10);
        assert_eq!(asked(&limit, "10.0.0.1", 20, 399).0, 5, "half a second later");
        assert_eq!(asked(&limit, "10.0.0.1", 20, 390).0, 0, "a look at an earlier time brings nothing");
    }
}
