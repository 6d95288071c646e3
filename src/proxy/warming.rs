//! Slow start: a newly ready endpoint gets its share gradually.

use crate::model::{ObjectKey, Service, Slice};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// In so many steps a share grows, from the first of them to the whole.
const STEPS: u32 = 10;

/// The endpoints of a Service that get less than their share, and how many steps they have made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warming(BTreeMap<IpAddr, u32>);

impl Warming {
    /// Whether all get their share.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What an endpoint's weight is multiplied by.
    pub fn share(&self, endpoint: IpAddr) -> u32 {
        self.0.get(&endpoint).copied().unwrap_or(STEPS)
    }
}

/// Since when the endpoints of Services with a slow start have been ready.
#[derive(Debug, Default)]
pub struct SlowStart {
    services: HashMap<ObjectKey, Known>,
}

#[derive(Debug)]
struct Known {
    whole: Duration,
    /// Since when each has been ready, and the steps that it has made; `None` when it is warmed up.
    ready: BTreeMap<IpAddr, Option<(Instant, u32)>>,
}

impl SlowStart {
    /// Takes a Service as it is now into account. What is ready when it is seen for the first time (at the agent's start, or when the annotation
    /// comes) counts as warmed up: a restart of the agent must not shift traffic.
    pub fn see(&mut self, key: &ObjectKey, service: Option<&Service>, slices: &[&Slice], now: Instant) -> Warming {
        let Some(seconds) = service.and_then(|service| service.options.slow_start) else {
            self.services.remove(key);
            return Warming::default();
        };
        let whole = Duration::from_secs(seconds.into());
        let is_new = !self.services.contains_key(key);
        let known = self.services.entry(key.clone()).or_insert_with(|| Known { whole, ready: BTreeMap::new() });
        let endpoints = slices.iter().filter(|slice| !slice.headless).flat_map(|slice| slice.endpoints.iter());
        let ready: BTreeSet<IpAddr> =
            endpoints.filter(|endpoint| endpoint.ready && !endpoint.secondary).map(|endpoint| endpoint.address).collect();
        known.whole = whole;
        known.ready.retain(|address, _| ready.contains(address));
        for address in ready {
            known.ready.entry(address).or_insert((!is_new).then_some((now, 1)));
        }
        known.warming(now)
    }

    /// When the next endpoint makes a step.
    pub fn due(&self) -> Option<Instant> {
        self.services.values().filter_map(Known::due).min()
    }

    /// The Services whose endpoints have a step to make.
    pub fn whose_turn(&self, now: Instant) -> Vec<ObjectKey> {
        let is_due = |(_, known): &(&ObjectKey, &Known)| known.due().is_some_and(|due| due <= now);
        self.services.iter().filter(is_due).map(|(key, _)| key.clone()).collect()
    }
}

impl Known {
    /// The steps that each has made by now; who has made all is warmed up.
    fn warming(&mut self, now: Instant) -> Warming {
        let step = self.step();
        let mut warming = Warming::default();
        for (address, known) in &mut self.ready {
            let Some((start, made)) = known else { continue };
            while *made < STEPS && *start + step * *made <= now {
                *made += 1;
            }
            if *made == STEPS {
                *known = None;
            } else {
                warming.0.insert(*address, *made);
            }
        }
        warming
    }

    fn due(&self) -> Option<Instant> {
        self.ready.values().flatten().map(|(start, made)| *start + self.step() * *made).min()
    }

    /// The first step is made at once, the last one at the end.
    fn step(&self) -> Duration {
        self.whole / (STEPS - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Family, ServiceKind, ServiceOptions};

    fn key() -> ObjectKey {
        ObjectKey::new("shop", "web")
    }

    fn slice(numbers: &[u8]) -> Slice {
        Slice {
            key: ObjectKey::new("shop", "web-1"),
            service: key(),
            family: Family::V4,
            ports: Box::new([]),
            endpoints: numbers.iter().map(|number| Endpoint::at([10, 244, 0, *number].into())).collect(),
            headless: false,
            weight: 1,
            triggered: None,
            details: None,
        }
    }

    fn service(options: ServiceOptions) -> Service {
        Service { options, ..Service::of_kind(key(), ServiceKind::ClusterIp) }
    }

    fn see(slow_start: &mut SlowStart, numbers: &[u8], now: Instant) -> Vec<u32> {
        let options = ServiceOptions { slow_start: Some(9), ..ServiceOptions::default() };
        let service = service(options);
        let warming = slow_start.see(&key(), Some(&service), &[&slice(numbers)], now);
        numbers.iter().map(|number| warming.share([10, 244, 0, *number].into())).collect()
    }

    #[test]
    fn a_newly_ready_endpoint_gets_its_share_step_by_step() {
        let (mut slow_start, start) = (SlowStart::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(see(&mut slow_start, &[1, 2], start), [10, 10], "what was there before counts as warmed up");
        assert_eq!(slow_start.due(), None);
        assert_eq!(see(&mut slow_start, &[1, 2, 3], start), [10, 10, 1]);
        for seconds in 1..9 {
            assert_eq!(slow_start.due(), Some(after(seconds)));
            assert_eq!(slow_start.whose_turn(after(seconds)), [key()]);
            assert_eq!(see(&mut slow_start, &[1, 2, 3], after(seconds)), [10, 10, seconds as u32 + 1]);
        }
        assert_eq!(see(&mut slow_start, &[1, 2, 3], after(9)), [10, 10, 10]);
        assert_eq!((slow_start.due(), slow_start.whose_turn(after(99))), (None, vec![]));
    }

    #[test]
    fn an_endpoint_that_was_not_ready_in_between_begins_anew_and_a_late_look_catches_up() {
        let (mut slow_start, start) = (SlowStart::default(), Instant::now());
        see(&mut slow_start, &[1, 2], start);
        see(&mut slow_start, &[1], start);
        assert_eq!(see(&mut slow_start, &[1, 2], start), [10, 1]);
        assert_eq!(see(&mut slow_start, &[1, 2], start + Duration::from_secs(5)), [10, 6]);
        assert_eq!(slow_start.see(&key(), None, &[], start), Warming::default());
        assert_eq!(slow_start.due(), None, "a service that is gone has no turn");
    }
}
