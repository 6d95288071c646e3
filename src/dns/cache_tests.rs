use super::*;
use proptest::prelude::*;

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn config() -> CacheConfig {
    CacheConfig { entries: 3, negative_entries: 3, bytes: 1 << 20, prefetch: 2, ..CacheConfig::default() }
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes(), 1, false, false)
}

fn answer(text: &str) -> Arc<[u8]> {
    text.as_bytes().into()
}

#[test]
fn the_flags_and_the_type_are_part_of_the_key() {
    let keys = [(1, false, false), (28, false, false), (1, true, false), (1, false, true)];
    let keys: std::collections::HashSet<_> = keys.map(|(rtype, dnssec, checking)| Key::new(b"a", rtype, dnssec, checking)).into();
    assert_eq!(keys.len(), 4);
}

#[test]
fn lifetimes_are_those_of_the_records_within_the_limits() {
    let cache = Cache::new(&CacheConfig {
        positive_ttl: 30,
        negative_ttl: 20,
        min_ttl: 5,
        min_negative_ttl: 5,
        failure_ttl: 7,
        ..config()
    });
    assert_eq!([0, 12, 300].map(|ttl| cache.lifetime(Kind::Positive, ttl)), [5, 12, 30]);
    assert_eq!([0, 12, 300].map(|ttl| cache.lifetime(Kind::Negative, ttl)), [5, 12, 20]);
    assert_eq!(cache.lifetime(Kind::Failure, 300), 7);
    let off = Cache::new(&CacheConfig { positive_ttl: 0, ..config() });
    assert_eq!(off.lifetime(Kind::Positive, 300), 0, "the cap wins over the floor");
}

#[test]
fn an_answer_counts_its_time_down_then_turns_stale_then_is_nothing() {
    let (cache, start) = (Cache::new(&CacheConfig { serve_stale: seconds(100), prefetch: 0, ..config() }), Instant::now());
    cache.put(&key("a"), Kind::Positive, answer("1"), 30, start);
    let at = |age| cache.get(&key("a"), start + age);
    let fresh = |ttl| Found::Fresh { answer: answer("1"), kind: Kind::Positive, ttl, refresh: false };
    assert_eq!(at(seconds(0)), fresh(30));
    assert_eq!(at(Duration::from_millis(12_999)), fresh(18));
    assert_eq!(at(Duration::from_millis(29_999)), fresh(1));
    assert_eq!(at(seconds(30)), Found::Stale { answer: answer("1"), kind: Kind::Positive, refresh: Refresh::First });
    assert!(matches!(at(seconds(129)), Found::Stale { .. }));
    assert_eq!(at(seconds(130)), Found::Nothing);
}

#[test]
fn a_failure_is_never_stale_and_never_takes_the_place_of_an_answer() {
    let (cache, start) = (Cache::new(&config()), Instant::now());
    cache.put(&key("a"), Kind::Failure, answer("!"), 5, start);
    assert!(matches!(cache.get(&key("a"), start + seconds(4)), Found::Fresh { kind: Kind::Failure, ttl: 1, .. }));
    assert_eq!(cache.get(&key("a"), start + seconds(5)), Found::Nothing);

    for kind in [Kind::Positive, Kind::Negative] {
        cache.put(&key("b"), kind, answer("1"), 30, start);
        cache.put(&key("b"), Kind::Failure, answer("!"), 5, start + seconds(31));
        let found = cache.get(&key("b"), start + seconds(32));
        assert_eq!(found, Found::Stale { answer: answer("1"), kind, refresh: Refresh::Later }, "{kind:?}");
        cache.put(&key("b"), Kind::Failure, answer("!"), 5, start + seconds(30 + 3600));
        assert!(matches!(cache.get(&key("b"), start + seconds(30 + 3601)), Found::Fresh { kind: Kind::Failure, .. }));
    }
}

#[test]
fn a_name_that_comes_to_exist_is_no_longer_denied_and_the_other_way_round() {
    let (cache, now) = (Cache::new(&config()), Instant::now());
    for kind in [Kind::Negative, Kind::Positive, Kind::Negative] {
        cache.put(&key("a"), kind, answer("1"), 30, now);
        assert!(matches!(cache.get(&key("a"), now), Found::Fresh { kind: found, .. } if found == kind));
        assert_eq!(cache.entries().iter().sum::<usize>(), 1);
    }
}

#[test]
fn a_popular_name_is_asked_again_once_before_it_expires() {
    let (cache, start) = (Cache::new(&config()), Instant::now());
    let refreshes = |name: &str, age| matches!(cache.get(&key(name), start + seconds(age)), Found::Fresh { refresh: true, .. });
    for name in ["popular", "rare"] {
        cache.put(&key(name), Kind::Positive, answer("1"), 30, start);
    }
    assert!(!refreshes("popular", 20), "there is time yet");
    assert!(refreshes("popular", 27) && !refreshes("popular", 28), "a tenth of the time is left: asked again once");
    assert!(!refreshes("rare", 29), "asked for once only");
    cache.failed(&key("popular"), start + seconds(28));
    assert!(!refreshes("popular", 29), "not at once after a failure");
    cache.put(&key("popular"), Kind::Positive, answer("2"), 30, start + seconds(29));
    assert!(refreshes("popular", 29 + 28), "it is as popular as it was");

    cache.put(&key("forgotten"), Kind::Positive, answer("1"), 300, start);
    assert!(!refreshes("forgotten", 1) && !refreshes("forgotten", 280), "a pause ends its popularity");
}

#[test]
fn only_the_answer_that_was_served_too_late_for_a_refresh_is_not_asked_for_again() {
    let (cache, start) = (Cache::new(&CacheConfig { prefetch: 1, ..config() }), Instant::now());
    let (old, new) = (answer("1"), answer("2"));
    cache.put(&key("a"), Kind::Positive, old.clone(), 30, start);
    cache.put(&key("a"), Kind::Positive, new.clone(), 30, start + seconds(40));
    cache.late(&key("a"), &old, start + seconds(69));
    assert!(matches!(cache.get(&key("a"), start + seconds(69)), Found::Fresh { refresh: true, .. }));
    cache.late(&key("a"), &new, start + seconds(71));
    assert!(matches!(cache.get(&key("a"), start + seconds(71)), Found::Stale { refresh: Refresh::Later, .. }));
}

#[test]
fn what_is_stale_waits_for_the_upstreams_only_until_they_have_failed() {
    let (cache, start) = (Cache::new(&config()), Instant::now());
    cache.put(&key("a"), Kind::Positive, answer("1"), 30, start);
    let refresh = |age| match cache.get(&key("a"), start + seconds(age)) {
        Found::Stale { refresh, .. } => refresh,
        found => panic!("{found:?}"),
    };
    assert_eq!([refresh(40), refresh(40)], [Refresh::First; 2]);
    cache.failed(&key("a"), start + seconds(42));
    assert_eq!(refresh(43), Refresh::Later);
    assert_eq!(
        [refresh(47), refresh(47)],
        [Refresh::Meanwhile, Refresh::Later],
        "asked again by one of them, while all are served"
    );
    cache.failed(&key("a"), start + seconds(48));
    assert_eq!([refresh(52), refresh(53)], [Refresh::Later, Refresh::Meanwhile]);
}

#[test]
fn what_nobody_asks_for_goes_first() {
    let (cache, now) = (Cache::new(&config()), Instant::now());
    for name in ["a", "b", "c"] {
        assert_eq!(cache.put(&key(name), Kind::Positive, answer("1"), 30, now), 0);
    }
    cache.get(&key("a"), now);
    cache.get(&key("c"), now);
    assert_eq!(cache.put(&key("d"), Kind::Positive, answer("1"), 30, now), 1);
    let kept = ["a", "b", "c", "d"].map(|name| cache.get(&key(name), now) != Found::Nothing);
    assert_eq!(kept, [true, false, true, true]);
    cache.put(&key("no"), Kind::Negative, answer("1"), 30, now);
    assert_eq!(cache.entries(), [3, 1], "denials cost no name that exists");
}

#[test]
fn an_answer_that_is_too_large_is_not_kept() {
    let (cache, now) = (Cache::new(&CacheConfig { bytes: 2000, ..config() }), Instant::now());
    cache.put(&key("a"), Kind::Positive, answer("1"), 30, now);
    cache.put(&key("a"), Kind::Positive, vec![0; 1000].into(), 30, now);
    assert_eq!((cache.get(&key("a"), now), cache.bytes()), (Found::Nothing, 0), "nor is what it replaces");
}

#[derive(Clone, Debug)]
enum Step {
    Put { name: u8, kind: Kind, length: usize, ttl: u32 },
    Get { name: u8 },
    Failed { name: u8 },
    Wait { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(Kind::Positive), Just(Kind::Negative), Just(Kind::Failure)];
    prop_oneof![
        4 => (0..12_u8, kind, 0..900_usize, 0..40_u32).prop_map(|(name, kind, length, ttl)| Step::Put { name, kind, length, ttl }),
        4 => (0..12_u8).prop_map(|name| Step::Get { name }),
        1 => (0..12_u8).prop_map(|name| Step::Failed { name }),
        2 => (0..30_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    /// Whatever happens: the bounds hold, the books are right, and what is found is what was put last, for no longer than it may be.
    #[test]
    fn the_bounds_hold_and_only_the_newest_answer_is_found(steps in prop::collection::vec(step(), 0..200)) {
        let config = CacheConfig { entries: 5, negative_entries: 5, bytes: 6000, serve_stale: seconds(20), prefetch: 2, ..CacheConfig::default() };
        let (cache, mut now) = (Cache::new(&config), Instant::now());
        // By name: what may be found, when it was put, and for how long; a failure does not take an answer's place.
        let mut newest: HashMap<u8, (Kind, usize, Instant, u32)> = HashMap::new();
        for step in steps {
            match step {
                Step::Put { name, kind, length, ttl } => {
                    cache.put(&Key::new(&[name], 1, false, false), kind, vec![name; length].into(), ttl, now);
                    let shadowed = newest.get(&name).is_some_and(|(kept, _, put, life)| {
                        *kept != Kind::Failure && now - *put < seconds((*life).into()) + config.serve_stale
                    });
                    // The shadowed answer may have been evicted meanwhile, so that either may be found.
                    if kind != Kind::Failure || !shadowed {
                        newest.insert(name, (kind, length, now, ttl));
                    }
                }
                Step::Get { name } => {
                    let found = cache.get(&Key::new(&[name], 1, false, false), now);
                    let (answer, kind, fresh) = match found {
                        Found::Nothing => continue,
                        Found::Fresh { answer, kind, ttl, .. } => (answer, kind, Some(ttl)),
                        Found::Stale { answer, kind, .. } => (answer, kind, None),
                    };
                    prop_assert!(answer.iter().all(|byte| *byte == name));
                    let (expected, length, put, life) = newest[&name];
                    let age = (now - put).as_secs();
                    if kind == expected {
                        prop_assert_eq!(answer.len(), length);
                        match fresh {
                            Some(ttl) => prop_assert_eq!(u64::from(ttl) + age, u64::from(life)),
                            None => prop_assert!(age >= life.into() && age < u64::from(life) + 20 && kind != Kind::Failure),
                        }
                    } else {
                        prop_assert_eq!(kind, Kind::Failure, "a failure that came after an evicted answer");
                    }
                }
                Step::Failed { name } => cache.failed(&Key::new(&[name], 1, false, false), now),
                Step::Wait { seconds: wait } => now += seconds(wait),
            }
            prop_assert!(cache.entries().iter().all(|entries| *entries <= config.entries));
            prop_assert!(cache.bytes() <= config.bytes);
            for half in [&cache.positive, &cache.negative] {
                let half = lock(half);
                prop_assert_eq!(half.bytes, half.slots.iter().map(|(key, entry)| entry.weight(key)).sum::<usize>());
                prop_assert_eq!(half.index.len(), half.slots.len());
                prop_assert!(half.slots.iter().enumerate().all(|(at, (key, _))| half.index[key] == at));
            }
        }
    }
}

#[test]
fn what_needs_no_thought_is_found_by_its_bytes_and_counted_and_the_rest_is_left_as_it_is() {
    let config = CacheConfig { prefetch: 3, prefetch_last: 50, serve_stale: seconds(100), ..config() };
    let (cache, start) = (Cache::new(&config), Instant::now());
    cache.put(&key("a"), Kind::Negative, answer("1"), 30, start);
    let bytes = [b"a".as_slice(), &Key::tail(1, false, false)].concat();
    let plain = |age| cache.get_plain(&bytes, start + seconds(age));
    assert_eq!(plain(0), Some((answer("1"), Kind::Negative, 30)));
    assert_eq!(plain(10), Some((answer("1"), Kind::Negative, 20)));
    // The third time it is popular: somebody has to ask anew, and is told so once.
    assert_eq!(plain(20), None);
    assert_eq!(plain(20), None);
    let found = |refresh| Found::Fresh { answer: answer("1"), kind: Kind::Negative, ttl: 10, refresh };
    assert_eq!(cache.get(&key("a"), start + seconds(20)), found(true));
    assert_eq!(plain(20), Some((answer("1"), Kind::Negative, 10)));
    assert_eq!(cache.get(&key("a"), start + seconds(20)), found(false));
    assert_eq!(plain(30), None, "it has expired");
    assert_eq!(cache.get_plain(b"b", start), None);
}
