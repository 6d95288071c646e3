//! What a Corefile says about time, obeyed: the agent and the stock CoreDNS with the same Corefile get the same questions, one after the other, while seconds
//! go by and the upstream server of each answers, fails or is silent. Seen are the answers with their TTLs, and how often the upstream servers are asked.

use super::cluster::Cluster;
use super::corefile_server::Whose;
use super::dns_metrics::Page;
use super::dns_question::Said;
use super::dns_upstream::{ALWAYS, Mood, Upstream, ZONE};
use super::processes::{Process, eventually};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::thread;

/// The option for extended errors, and "Stale Answer" in it (RFC 8914).
const STALE_ANSWER: (u16, &[u8]) = (15, &[0, 3]);

/// Caches: the first label of their zones, and what they say besides that a second is long enough to be kept.
const CACHES: &[(&str, &str)] = &[
    (ALWAYS, "serve_stale 0s"),
    ("off", "serve_stale 0s"),
    ("plain", ""),
    ("immediate", "serve_stale"),
    ("hour", "serve_stale 1h immediate"),
    ("verify", "serve_stale 1h verify"),
    ("patient", "serve_stale 1h verify 0s"),
    ("hasty", "serve_stale 1h verify 100ms"),
    ("shown", "serve_stale 1h immediate 7s 1m"),
    ("checked", "serve_stale 1h verify 2s 7s 1m"),
    ("renewed", "serve_stale 1h verify 2s 7s 1s"),
    ("brief", "serve_stale 1s"),
    ("remembered", "servfail 30s"),
    ("forgiven", "serve_stale 0s\n servfail 0s"),
    ("lapsed", "serve_stale\n servfail 1s"),
    ("insistent", "prefetch 1 1m 90%\n servfail 9s"),
    ("floor", "success 9984 3600 10\n denial 9984 3600 10"),
    ("ceiling", "success 9984 20\n denial 9984 15"),
    ("low", "success 9984 3 10\n denial 9984 3 10"),
    ("same", "keepttl"),
    ("none", "disable success\n disable denial"),
    ("popular", "prefetch 2 1m 90%"),
    ("forgotten", "prefetch 2 1s 90%"),
    ("late", "prefetch 1 1m 90%"),
    (BY_TRANSPORT, "prefetch 1 1m 90%"),
];
/// The cache whose upstream server may be asked over TCP, which it does not speak.
const BY_TRANSPORT: &str = "transport";

/// What is done, in this order.
enum Step {
    /// The upstream servers are so from now on.
    Upstream(Mood),
    /// A second is over since all that stands before.
    Second,
    /// A question: its name below the zone, and what is said. `1/60` is the first answer of the upstream server with a TTL of 60, `1/..60` with one of at most 60,
    /// `NXDomain/15` a denial whose SOA has one of 15, and `stale` behind it says that the answer is marked as one.
    Ask(&'static str, Expected<&'static str>),
    /// How often the upstream server has been asked for a name by now.
    Asked(&'static str, Expected<u8>),
}

/// What is expected of CoreDNS, and of Waypost where that is something else for a reason that the documents list.
struct Expected<T> {
    theirs: T,
    ours: Option<(&'static str, T)>,
}

const fn ask(name: &'static str, said: &'static str) -> Step {
    Step::Ask(name, Expected { theirs: said, ours: None })
}

const fn ask_both(name: &'static str, theirs: &'static str, why: &'static str, ours: &'static str) -> Step {
    Step::Ask(name, Expected { theirs, ours: Some((why, ours)) })
}

const fn asked(name: &'static str, times: u8) -> Step {
    Step::Asked(name, Expected { theirs: times, ours: None })
}

const fn asked_both(name: &'static str, theirs: u8, why: &'static str, ours: u8) -> Step {
    Step::Asked(name, Expected { theirs, ours: Some((why, ours)) })
}

/// The first answer, beyond its time.
const fn ask_stale(name: &'static str) -> Step {
    ask_both(name, "1/0", STALE, "1/30 stale")
}

/// The same where the TTL is said.
const fn ask_stale_7(name: &'static str) -> Step {
    ask_both(name, "1/7", STALE, "1/7 stale")
}

const STALE: &str = "corefile-serve-stale";
const STALE_BY_DEFAULT: &str = "corefile-stale-by-default";
const TRANSPORT: &str = "corefile-prefetch-transport";
const FAILURES: &str = "corefile-failures";
const DENIAL: &str = "corefile-denial-ttl";

const STEPS: &[Step] = &[
    ask("a20-late.late", "1/20"),
    ask("a60-late.late", "1/60"),
    ask("a60-late.late", "1/..60"),
    asked("a60-late.late", 1),
    ask("a1-healthy.off", "1/1"),
    ask("a1-healthy.plain", "1/1"),
    ask("a1-healthy.immediate", "1/1"),
    ask("a1-healthy.hour", "1/1"),
    ask("a1-healthy.verify", "1/1"),
    ask("a1-healthy.patient", "1/1"),
    ask("a1-failing.off", "1/1"),
    ask("a1-failing.plain", "1/1"),
    ask("a1-failing.immediate", "1/1"),
    ask("x1-failing.immediate", "NXDomain/1"),
    ask("a1-failing.verify", "1/1"),
    ask("a1-failing.patient", "1/1"),
    ask("a1-failing.shown", "1/1"),
    ask("a1-failing.checked", "1/1"),
    ask("a1-failing.renewed", "1/1"),
    ask("a1-failing.brief", "1/1"),
    ask("a1-silent.hasty", "1/1"),
    ask("a1-silent.immediate", "1/1"),
    ask("a60-kept.ceiling", "1/20"),
    ask("x60-kept.ceiling", "NXDomain/15"),
    ask("a1-kept.low", "1/3"),
    ask("x60-kept.low", "NXDomain/3"),
    ask_both("m10-kept.off", "NXDomain/60", DENIAL, "NXDomain/10"),
    ask("a60-kept.off", "1/60"),
    ask("a60-kept.same", "1/60"),
    ask("a60-unkept.none", "1/60"),
    ask("a60-unkept.none", "2/60"),
    ask("x60-unkept.none", "NXDomain/60"),
    ask("x60-unkept.none", "NXDomain/60"),
    asked("x60-unkept.none", 2),
    ask("a9-asked.popular", "1/9"),
    ask("a9-asked.popular", "1/..9"),
    asked("a9-asked.popular", 1),
    ask("a9-asked.popular", "1/..9"),
    asked("a9-asked.popular", 2),
    ask("a9-asked.transport", "1/9"),
    ask("a9-asked.transport", "1/..9"),
    asked_both("a9-asked.transport", 1, TRANSPORT, 2),
    ask("a1-kept.floor", "1/10"),
    ask("x1-kept.floor", "NXDomain/10"),
    ask("e0-kept.floor", "NoError"),
    ask("a9-asked.forgotten", "1/9"),
    ask("a9-asked.forgotten", "1/..9"),
    Step::Second,
    ask("a9-asked.forgotten", "1/..8"),
    asked("a9-asked.forgotten", 1),
    ask("a1-kept.floor", "1/..9"),
    asked("a1-kept.floor", 1),
    ask("x1-kept.floor", "NXDomain/..9"),
    asked("x1-kept.floor", 1),
    ask("e0-kept.floor", "NoError"),
    asked("e0-kept.floor", 1),
    ask("a60-kept.off", "1/..59"),
    ask("a60-kept.same", "1/60"),
    asked("a60-kept.same", 1),
    ask("a1-healthy.off", "2/1"),
    ask("a1-healthy.plain", "2/1"),
    ask_stale("a1-healthy.immediate"),
    asked("a1-healthy.immediate", 2),
    ask_stale("a1-healthy.hour"),
    asked("a1-healthy.hour", 2),
    ask("a1-healthy.verify", "2/1"),
    ask("a1-healthy.patient", "2/1"),
    Step::Upstream(Mood::Fails),
    ask("a1-failing.off", "ServFail"),
    asked("a1-failing.off", 2),
    ask_both("a1-failing.plain", "ServFail", STALE_BY_DEFAULT, "1/30 stale"),
    ask_stale("a1-failing.immediate"),
    asked("a1-failing.immediate", 2),
    ask_stale("a1-failing.immediate"),
    asked_both("a1-failing.immediate", 3, STALE, 2),
    ask_both("x1-failing.immediate", "NXDomain/0", STALE, "NXDomain/30 stale"),
    asked("x1-failing.immediate", 2),
    ask_stale("a1-failing.verify"),
    asked("a1-failing.verify", 2),
    ask_stale("a1-failing.verify"),
    asked_both("a1-failing.verify", 3, STALE, 2),
    ask_stale("a1-failing.patient"),
    ask_stale_7("a1-failing.shown"),
    asked("a1-failing.shown", 2),
    ask_stale_7("a1-failing.shown"),
    ask_stale_7("a1-failing.checked"),
    asked("a1-failing.checked", 2),
    ask_stale_7("a1-failing.checked"),
    ask_stale_7("a1-failing.renewed"),
    asked("a1-failing.renewed", 2),
    ask("a60-new.remembered", "ServFail"),
    ask("a60-new.forgiven", "ServFail"),
    ask("a60-new.forgiven", "ServFail"),
    asked("a60-new.forgiven", 2),
    ask("a60-new.lapsed", "ServFail"),
    ask("a60-new.insistent", "ServFail"),
    ask("a60-new.insistent", "ServFail"),
    asked_both("a60-new.insistent", 2, FAILURES, 1),
    Step::Second,
    ask("a1-failing.brief", "ServFail"),
    asked("a1-failing.brief", 2),
    Step::Upstream(Mood::Answers),
    ask("a60-new.remembered", "ServFail"),
    asked("a60-new.remembered", 1),
    ask("a60-new.forgiven", "3/60"),
    asked("a60-new.forgiven", 3),
    ask_both("a60-new.lapsed", "ServFail", FAILURES, "2/60"),
    ask_stale_7("a1-failing.shown"),
    asked("a1-failing.shown", 2),
    ask_stale_7("a1-failing.checked"),
    asked("a1-failing.checked", 2),
    ask_both("a1-failing.renewed", "3/1", STALE, "1/7 stale"),
    asked("a1-failing.renewed", 3),
    Step::Second,
    ask("a20-late.late", "1/..18"),
    asked("a20-late.late", 2),
    Step::Upstream(Mood::IsSilent),
    ask_stale("a1-silent.hasty"),
    ask_stale("a1-silent.immediate"),
    ask("a60-silent.off", "ServFail"),
];

/// What is counted for each cache.
const COUNTED: [&str; 5] = ["requests", "hits", "misses", "prefetch", "served_stale"];
/// Caches for which Waypost counts other answers and refreshes because it gives and makes others: the steps say which.
const COUNT_OTHERWISE: [&str; 7] = ["immediate", "verify", "plain", "renewed", "lapsed", "insistent", ALWAYS];

/// The differences that the steps name.
pub fn differences() -> BTreeSet<&'static str> {
    let named = STEPS.iter().filter_map(|step| match step {
        Step::Ask(_, expected) => expected.ours.as_ref().map(|(why, _)| *why),
        Step::Asked(_, expected) => expected.ours.as_ref().map(|(why, _)| *why),
        Step::Upstream(_) | Step::Second => None,
    });
    named.collect()
}

pub fn as_corednss(cluster: &Cluster) {
    let [ours, theirs] = [Whose::Ours, Whose::Theirs].map(|whose| Server::start(cluster, whose));
    let wrong = thread::scope(|scope| {
        let of = [&ours, &theirs].map(|server| scope.spawn(|| server.steps()));
        of.into_iter().flat_map(|of| of.join().unwrap_or_else(|panic| resume_unwind(panic))).collect::<Vec<_>>()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let [ours, theirs] = [&ours, &theirs].map(|server| server.counted());
    assert_eq!(ours, theirs, "the caches count the same");
}

/// A server with these caches, and the server behind it.
struct Server<'a> {
    cluster: &'a Cluster,
    whose: Whose,
    upstream: Upstream,
    _process: Process,
}

impl<'a> Server<'a> {
    fn start(cluster: &'a Cluster, whose: Whose) -> Server<'a> {
        let upstream = Upstream::start(whose.upstream());
        let metrics = whose.prometheus();
        let blocks = CACHES.iter().map(|(zone, options)| {
            let cache = format!("cache {{\n success 9984 3600 1\n denial 9984 3600 1\n {options}\n }}");
            let forward =
                format!("forward . {} {{\n {}\n }}", whose.upstream(), if *zone == BY_TRANSPORT { "" } else { "prefer_udp" });
            format!("{zone}.{ZONE} {{\n {metrics}\n {cache}\n {forward}\n}}\n")
        });
        let process = whose.start(cluster, "corefile-times", &blocks.collect::<String>());
        let server = Server { cluster, whose, upstream, _process: process };
        let warm = format!("a1-warm.{ALWAYS}");
        eventually(&format!("{whose:?} answers"), || {
            let said = whose.try_ask(&warm).map_err(|error| error.to_string())?;
            if said.answers.is_empty() { Err(said.code) } else { Ok(()) }
        });
        server
    }

    /// Takes all steps, and returns what was not as expected.
    fn steps(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut asked_last = BTreeMap::new();
        for (number, step) in STEPS.iter().enumerate() {
            match step {
                Step::Upstream(mood) => self.upstream.is(*mood),
                Step::Second => self.second(number),
                Step::Ask(name, expected) => {
                    asked_last.remove(name);
                    let (said, expected) = (told(&self.whose.ask(name)), expected.of(self.whose));
                    if !is_as(&said, expected) {
                        wrong.push(format!("{:?}, step {number}: {name} is {said}, not {expected}", self.whose));
                    }
                }
                Step::Asked(name, expected) => {
                    let (full_name, expected) = (format!("{name}.{ZONE}"), *expected.of(self.whose));
                    asked_last.insert(name, expected);
                    eventually(&format!("{:?}, step {number}: {name} is asked {expected} times", self.whose), || {
                        match self.upstream.asked(&full_name) {
                            times if times < expected => Err(format!("asked {times} times")),
                            times => {
                                let problem =
                                    format!("{:?}, step {number}: {name} was asked {times} times, not {expected}", self.whose);
                                wrong.extend((times > expected).then_some(problem));
                                Ok(())
                            }
                        }
                    });
                }
            }
        }
        // Refreshes that nobody waits for come late: none was one too many.
        let superfluous = asked_last.into_iter().filter_map(|(name, expected)| {
            let times = self.upstream.asked(&format!("{name}.{ZONE}"));
            (times != expected).then(|| format!("{:?}, at the end: {name} was asked {times} times, not {expected}", self.whose))
        });
        wrong.extend(superfluous);
        wrong
    }

    /// Waits until a name that is asked for now and lives for a second has expired: so has then what was asked for before it.
    fn second(&self, number: usize) {
        let name = format!("a1-{number}.{ALWAYS}");
        self.whose.ask(&name);
        eventually("a second is over", || {
            let said = told(&self.whose.ask(&name));
            if said.starts_with("1/") { Err(said) } else { Ok(()) }
        });
    }

    /// What it has counted, by metric and cache.
    fn counted(&self) -> BTreeMap<String, f64> {
        let page = Page::of(self.cluster, &self.whose.metrics(), &self.whose.address());
        let caches = || CACHES.iter().map(|(zone, _)| *zone).filter(|zone| !COUNT_OTHERWISE.contains(zone));
        let of = |metric: &str, zone: &str| page.sum(&format!("coredns_cache_{metric}_total"), &format!("zones={zone}.{ZONE}."));
        COUNTED.iter().flat_map(|metric| caches().map(move |zone| (format!("{metric} {zone}"), of(metric, zone)))).collect()
    }
}

impl<T> Expected<T> {
    fn of(&self, whose: Whose) -> &T {
        self.ours.as_ref().filter(|_| whose == Whose::Ours).map_or(&self.theirs, |(_, ours)| ours)
    }
}

/// An answer in the form of the steps.
fn told(said: &Said) -> String {
    let word = |line: &String, number: usize| line.split(' ').nth(number).unwrap_or_default().to_string();
    let first = said.answers.first().or(said.authority.first());
    let what = said.answers.first().and_then(|line| Some(line.rsplit('.').next()?.to_string())).unwrap_or(said.code.clone());
    let ttl = first.map(|line| format!("/{}", word(line, 1))).unwrap_or_default();
    let (code, reason) = STALE_ANSWER;
    let options = said.opt.iter().flat_map(|opt| &opt.options);
    let stale = options.filter(|(option, data)| *option == code && data.starts_with(reason)).map(|_| " stale");
    format!("{what}{ttl}{}", stale.collect::<String>())
}

/// Whether this is what was expected.
fn is_as(said: &str, expected: &str) -> bool {
    match (expected.split_once("/.."), said.split_once('/')) {
        (Some((what, most)), Some((said, ttl))) => {
            let number = |text: &str| text.parse::<u32>().ok();
            what == said && number(ttl).zip(number(most)).is_some_and(|(ttl, most)| ttl <= most)
        }
        _ => said == expected,
    }
}
