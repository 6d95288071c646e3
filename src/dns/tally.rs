//! What one thread has answered at once on one port, or for the connections of one: counted without sharing anything, and summed up when somebody asks.

use super::fast::Composed;
use super::metrics::{SIZES, TIMES, TYPES, type_index};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The codes of such answers, by their numbers.
const CODES: [&str; 4] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN"];
/// The place of the last one among them.
const NX_DOMAIN: usize = 3;

/// The tallies of all threads. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Tallies(Arc<Mutex<Vec<Kept>>>);

#[derive(Debug)]
struct Kept {
    labels: [(&'static str, Arc<str>); 3],
    transport: &'static str,
    family: &'static str,
    /// `kubernetes` or `cache`.
    origin: &'static str,
    tally: Arc<Tally>,
}

/// A metric, with what the tallies know of it.
struct Beside<C> {
    metric: C,
    tallies: Tallies,
}

impl Tallies {
    /// One more: for a server with these labels, clients of this family that come so, and answers by this part.
    pub fn join(
        &self,
        labels: [(&'static str, Arc<str>); 3],
        transport: &'static str,
        family: &'static str,
        origin: &'static str,
    ) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        self.kept().push(Kept { labels, transport, family, origin, tally: tally.clone() });
        tally
    }

    /// What shows this metric and the tallies as one.
    pub fn beside<C: Collector + Clone + 'static>(&self, metric: &C) -> Box<dyn Collector> {
        Box::new(Beside { metric: metric.clone(), tallies: self.clone() })
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Collector> Collector for Beside<C> {
    fn desc(&self) -> Vec<&Desc> {
        self.metric.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metrics = self.metric.collect();
        for Kept { labels, transport, family, origin, tally } in self.tallies.kept().iter() {
            let labels = labels.each_ref().map(|(name, value)| (*name, &**value));
            metrics.iter_mut().for_each(|metric| tally.add_to(metric, &labels, [transport, family, origin]));
        }
        metrics
    }
}

/// Counts of one thread, or of several that never write at the same time.
#[derive(Debug, Default)]
pub struct Tally {
    types: [Count; TYPES.len()],
    codes: [Count; CODES.len()],
    dnssec: Count,
    durations: Histogram<{ TIMES.len() }>,
    request_sizes: Histogram<{ SIZES.len() }>,
    response_sizes: Histogram<{ SIZES.len() }>,
}

/// A counter with one writer: what is shared with readers needs no atomic addition.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, more: u64) {
        self.0.store(self.get().wrapping_add(more), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Histogram<const BUCKETS: usize> {
    buckets: [Count; BUCKETS],
    more: Count,
    sum: Count,
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| Count::default()), more: Count::default(), sum: Count::default() }
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    fn observe(&self, bounds: &[u64; BUCKETS], value: u64) {
        // Nearly everything is in the first few.
        let bucket = bounds.iter().position(|bound| value <= *bound);
        bucket.map_or(&self.more, |bucket| &self.buckets[bucket]).add(1);
        self.sum.add(value);
    }

    /// Adds the counts to those of the metric, whose unit is `units` of ours.
    fn add_to(&self, family: &mut MetricFamily, labels: &[(&str, &str)], bounds: &[u64; BUCKETS], units: f64) {
        if self.buckets.iter().chain([&self.more]).all(|bucket| bucket.get() == 0) {
            return;
        }
        let metric = metric(family, labels);
        let before = metric.get_histogram();
        let cumulative = |index: usize| before.get_bucket().get(index).map_or(0, proto::Bucket::cumulative_count);
        let mut histogram = proto::Histogram::default();
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BUCKETS);
        for (index, (bucket, bound)) in self.buckets.iter().zip(bounds).enumerate() {
            count += bucket.get();
            let mut sum = proto::Bucket::default();
            sum.set_upper_bound(*bound as f64 / units);
            sum.set_cumulative_count(cumulative(index) + count);
            buckets.push(sum);
        }
        histogram.set_sample_count(before.get_sample_count() + count + self.more.get());
        histogram.set_sample_sum(before.get_sample_sum() + self.sum.get() as f64 / units);
        histogram.set_bucket(buckets);
        metric.set_histogram(histogram);
    }
}

impl Tally {
    /// Counts an answer to a question of this size.
    pub(super) fn note(&self, answer: &Composed<'_>, request_bytes: usize, took: Duration) {
        self.types[type_index(answer.rtype)].add(1);
        self.codes[usize::from(answer.code) % CODES.len()].add(1);
        if answer.dnssec_ok {
            self.dnssec.add(1);
        }
        self.durations.observe(&TIMES, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        self.request_sizes.observe(&SIZES, request_bytes as u64);
        self.response_sizes.observe(&SIZES, answer.bytes.len() as u64);
    }

    /// Adds these counts to a metric of this name, if it is one of theirs. `labels` are those of the server, the others how clients came, and of which
    /// family their addresses are, and by which part they were answered.
    fn add_to(&self, metrics: &mut MetricFamily, labels: &[(&str, &str)], [transport, family, origin]: [&str; 3]) {
        let with_transport = [labels, &[("proto", transport)]].concat();
        match metrics.name() {
            "coredns_dns_requests_total" => {
                for (rtype, count) in TYPES.iter().zip(&self.types) {
                    add(metrics, &[&with_transport[..], &[("family", family), ("type", rtype)]].concat(), count);
                }
            }
            "coredns_dns_responses_total" => {
                for (code, count) in CODES.iter().zip(&self.codes) {
                    add(metrics, &[labels, &[("rcode", code), ("plugin", origin)]].concat(), count);
                }
            }
            "waypost_dns_saved_questions_total" if origin == "kubernetes" => {
                add(metrics, &[labels, &[("how", "memory")]].concat(), &self.codes[NX_DOMAIN])
            }
            "coredns_dns_do_requests_total" => add(metrics, labels, &self.dnssec),
            "coredns_dns_request_duration_seconds" => self.durations.add_to(metrics, labels, &TIMES, 1e9),
            "coredns_dns_request_size_bytes" => self.request_sizes.add_to(metrics, &with_transport, &SIZES, 1.0),
            "coredns_dns_response_size_bytes" => self.response_sizes.add_to(metrics, &with_transport, &SIZES, 1.0),
            _ => {}
        }
    }
}

/// Adds a count, if there is something to add: what never happened has no time series.
fn add(family: &mut MetricFamily, labels: &[(&str, &str)], count: &Count) {
    if count.get() > 0 {
        let metric = metric(family, labels);
        let mut counter = proto::Counter::default();
        counter.set_value(metric.get_counter().get_value() + count.get() as f64);
        metric.set_counter(counter);
    }
}

/// The metric with these labels, made if it is not there.
fn metric<'a>(family: &'a mut MetricFamily, labels: &[(&str, &str)]) -> &'a mut Metric {
    let has = |metric: &Metric, (name, value): &(&str, &str)| {
        metric.get_label().iter().any(|label| label.name() == *name && label.value() == *value)
    };
    let metrics = family.mut_metric();
    let place = match metrics.iter().position(|metric| labels.iter().all(|label| has(metric, label))) {
        Some(place) => place,
        None => {
            let mut pairs: Vec<LabelPair> = labels
                .iter()
                .map(|(name, value)| {
                    let mut pair = LabelPair::default();
                    pair.set_name((*name).to_string());
                    pair.set_value((*value).to_string());
                    pair
                })
                .collect();
            pairs.sort();
            metrics.push(Metric::from_label(pairs));
            metrics.len() - 1
        }
    };
    &mut metrics[place]
}

#[cfg(test)]
mod tests {
    use crate::dns::fast::Composed;
    use crate::dns::metrics::{Answered, Metrics, Place, Transport};
    use prometheus::{Encoder, Registry, TextEncoder};
    use std::time::{Duration, Instant};

    /// The page without comments.
    fn page(registry: &Registry) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        String::from_utf8(text)
            .unwrap()
            .lines()
            .filter(|line| line.starts_with("coredns_dns") || line.starts_with("waypost_dns_saved"))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    #[test]
    fn threads_and_everybody_else_count_as_one() {
        let (together, apart) = (Registry::new(), Registry::new());
        let (fast, plain) = (Metrics::new(&together).unwrap(), Metrics::new(&apart).unwrap());
        let place = Place { server: "dns://:53".into(), zone: ".".into(), zones: ".".into() };
        let (udp, tcp) = (Transport::Udp, Transport::Tcp);
        let tallies =
            [(udp, false), (tcp, false), (udp, true)].map(|(transport, ipv6)| fast.tally(&place, transport, ipv6, "kubernetes"));
        for number in 0..12_u16 {
            let is_tcp = number % 3 != 2 && number % 2 == 1;
            let (rtype, code, ipv6) = ([1, 28, 4711][usize::from(number % 3)], [0, 3][usize::from(number % 2)], number % 3 == 2);
            let (asked, bytes) = (40 + 30 * usize::from(number), vec![0; 100 * usize::from(number)]);
            let answered = Answered {
                place: &place,
                transport: if is_tcp { tcp } else { udp },
                ipv6,
                rtype,
                request_bytes: asked,
                response_bytes: bytes.len(),
                dnssec_ok: number % 4 == 0,
                code,
                origin: "kubernetes",
                started: Instant::now(),
            };
            plain.answered(&answered);
            match number {
                0 | 5 => fast.answered(&answered),
                _ => {
                    let tally = if ipv6 { &tallies[2] } else { &tallies[usize::from(number % 2)] };
                    let composed = Composed { bytes: &bytes, rtype, code: code as u8, dnssec_ok: answered.dnssec_ok };
                    tally.note(&composed, asked, Duration::from_micros(1));
                }
            }
        }
        // Nobody can foresee times, and a busy machine takes long ones.
        let is_time = |line: &&str| line.contains("seconds_sum") || line.contains("seconds_bucket") && !line.contains("+Inf");
        let without_times = |page: String| page.lines().filter(|line| !is_time(line)).map(str::to_string).collect::<Vec<_>>();
        let (together, apart) = (without_times(page(&together)), without_times(page(&apart)));
        assert_eq!(together, apart);
        assert!(together.iter().any(|line| line.contains("coredns_dns_request_duration_seconds_count") && line.ends_with(" 12")));
    }
}
