//! The thread that forgets stale flows.

use super::{Conntrack, Flow, Stale, Sysctl, Touched, sysctls};
use crate::model::Family;
use crate::nft::NftError;
use crate::proxy::Dest;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, exponential_buckets};
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A packet that was on its way during the commit may make a stale flow after the look: so there is a second one.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// After a look that failed.
const RETRY: Duration = Duration::from_secs(30);
/// A dump that was interrupted by changes is made again this often; what it showed has been used by then.
const ATTEMPTS: usize = 10;
/// For more destinations than this all UDP flows are looked at once; each look walks through the kernel's whole table.
const ONE_BY_ONE: usize = 8;
/// From so many on, flows of one destination and one server are deleted by one message that makes the kernel walk through its table.
const BY_FILTER: usize = 32;

/// The kernel's table of flows: [`Conntrack`], or one that a test plays.
pub trait Tracked {
    /// Hands every UDP flow of a family to `each`, or only those to one destination. False when a change interrupted it: then some may be missing.
    ///
    /// # Errors
    /// When the socket fails or the kernel refuses.
    fn each_udp_flow(&mut self, family: Family, to: Option<SocketAddr>, each: &mut dyn FnMut(Flow)) -> Result<bool, NftError>;

    /// Deletes this very flow; false when it was gone already.
    ///
    /// # Errors
    /// When the socket fails or the kernel refuses.
    fn delete(&mut self, flow: &Flow) -> Result<bool, NftError>;

    /// Deletes every UDP flow to this destination that leads to this server; false, and nothing done, when the kernel cannot do that.
    ///
    /// # Errors
    /// When the socket fails or the kernel refuses.
    fn delete_all(&mut self, to: SocketAddr, server: SocketAddr) -> Result<bool, NftError>;
}

/// What came of a look at the flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// How many stale flows were deleted.
    pub deleted: usize,
    /// Whether all flows were seen; otherwise changes interrupted every one of the looks.
    pub whole: bool,
}

/// What the clean-up moves; kube-proxy's names.
#[derive(Clone, Debug)]
pub struct ConntrackMetrics {
    duration: HistogramVec,
    deleted: IntCounterVec,
}

impl ConntrackMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a metric of one of these names is registered already.
    pub fn new(registry: &Registry) -> Result<ConntrackMetrics, prometheus::Error> {
        let buckets = exponential_buckets(0.001, 2.0, 15)?;
        let duration = HistogramOpts::new(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds",
            "How long it took to look for stale flows and to delete them",
        );
        let deleted = Opts::new("kubeproxy_conntrack_reconciler_deleted_entries_total", "Stale flows that were deleted");
        let metrics = ConntrackMetrics {
            duration: HistogramVec::new(duration.buckets(buckets), &["ip_family"])?,
            deleted: IntCounterVec::new(deleted, &["ip_family"])?,
        };
        for family in Family::BOTH {
            metrics.duration.with_label_values(&[&family.to_string()]);
            metrics.deleted.with_label_values(&[&family.to_string()]);
        }
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.deleted.clone()))?;
        Ok(metrics)
    }
}

/// The thread's handle. Looks may take a while on a busy node, so that they keep no commit waiting. When this is dropped, what was asked for is looked
/// at once and the thread ends: nobody comes after it.
#[derive(Debug)]
pub struct Cleaner {
    touched: Option<Sender<Touched>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        drop(self.touched.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that deletes stale flows has panicked");
        }
    }
}

impl Cleaner {
    /// Starts the thread, which begins with the kernel's settings.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn start(mut conntrack: Conntrack, sysctls: Vec<Sysctl>, metrics: ConntrackMetrics) -> io::Result<Cleaner> {
        let (touched, received) = channel();
        let work = move || {
            // Where nothing was tracked yet the files come with the first rules.
            let mut later = set_sysctls(sysctls, false);
            keep_clean(&received, |touched| {
                set_sysctls(std::mem::take(&mut later), true);
                look(&mut conntrack, touched, &metrics)
            });
        };
        let thread = thread::Builder::new().name("conntrack".into()).spawn(work)?;
        Ok(Cleaner { touched: Some(touched), thread: Some(thread) })
    }

    /// A handle whose wishes a test receives.
    #[cfg(test)]
    pub(crate) fn told(touched: Sender<Touched>) -> Cleaner {
        Cleaner { touched: Some(touched), thread: None }
    }

    /// Asks for a look at the flows to these destinations. The first call, whatever it asks for, says that the first rules are in place.
    pub fn look(&self, touched: Touched) {
        if self.touched.as_ref().is_none_or(|sender| sender.send(touched).is_err()) {
            tracing::error!("the thread that deletes stale flows is gone; restart the agent");
        }
    }
}

/// Makes the kernel's settings what is wanted, and says once what it could not. Returns those whose files are not there, unless this is the last time.
fn set_sysctls(wanted: Vec<Sysctl>, last: bool) -> Vec<Sysctl> {
    let unset = sysctls::set(&sysctls::folder(), &wanted);
    let (missing, refused): (Vec<_>, Vec<_>) =
        unset.into_iter().partition(|unset| unset.why.kind() == io::ErrorKind::NotFound && !last);
    if !refused.is_empty() {
        let unset = refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        tracing::warn!(%unset, "cannot set how the kernel tracks connections; see docs/conntrack.md, and `waypost check`");
    }
    missing.into_iter().map(|unset| unset.sysctl).collect()
}

/// Looks whenever something was touched, and once more a little later, however much is touched meanwhile. `look` says whether it succeeded.
fn keep_clean(received: &Receiver<Touched>, mut look: impl FnMut(&Touched) -> bool) {
    // What is due for its second look at that time, and what was touched since this time was set: its turn comes after that.
    let (mut again, mut later) = (Touched::new(), Touched::new());
    let mut again_at: Option<Instant> = None;
    loop {
        let wait = again_at.map(|at| at.saturating_duration_since(Instant::now()));
        let first = match wait {
            None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
            // Even when messages keep coming.
            Some(Duration::ZERO) => Err(RecvTimeoutError::Timeout),
            Some(wait) => received.recv_timeout(wait),
        };
        match first {
            Ok(mut touched) => {
                touched.extend(received.try_iter().flatten());
                look(&touched);
                again.retain(|dest, _| !touched.contains_key(dest));
                if again_at.is_none() { &mut again } else { &mut later }.extend(touched);
                again_at.get_or_insert_with(|| Instant::now() + SECOND_LOOK);
            }
            Err(RecvTimeoutError::Timeout) => {
                let mut pause = SECOND_LOOK;
                if again.is_empty() || look(&again) {
                    again.clear();
                } else {
                    pause = RETRY;
                }
                again.append(&mut later);
                again_at = (!again.is_empty()).then(|| Instant::now() + pause);
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn look(conntrack: &mut impl Tracked, touched: &Touched, metrics: &ConntrackMetrics) -> bool {
    let mut succeeded = true;
    for family in Family::BOTH {
        let touched: Touched =
            touched.iter().filter(|(dest, _)| dest.family() == family).map(|(dest, serving)| (*dest, serving.clone())).collect();
        if touched.is_empty() {
            continue;
        }
        let start = Instant::now();
        match reconcile(conntrack, family, &touched) {
            Ok(Reconciled { deleted, whole }) => {
                if deleted > 0 {
                    tracing::info!(%family, deleted, "deleted UDP flows that led to no serving endpoint");
                }
                if !whole {
                    tracing::info!(%family, "the table of tracked flows changed during each look at it; some may have been missed. Looking again");
                    succeeded = false;
                }
                metrics.deleted.with_label_values(&[&family.to_string()]).inc_by(deleted as u64);
            }
            Err(error) => {
                tracing::warn!(%family, %error, "cannot look for stale UDP flows; clients may keep an endpoint that is gone. Trying again");
                succeeded = false;
            }
        }
        metrics.duration.with_label_values(&[&family.to_string()]).observe(start.elapsed().as_secs_f64());
    }
    succeeded
}

/// Deletes the stale ones among the flows to these destinations, all of one family. A look that was interrupted is repeated, after what it showed has
/// been deleted.
///
/// # Errors
/// When the kernel cannot be asked, or refuses.
pub fn reconcile(conntrack: &mut impl Tracked, family: Family, touched: &Touched) -> Result<Reconciled, NftError> {
    let mut done = Reconciled::default();
    for _ in 0..ATTEMPTS {
        let mut stale = Stale::default();
        let mut whole = true;
        let judge = &mut |flow| stale.judge(flow, touched);
        if touched.len() > ONE_BY_ONE {
            whole = conntrack.each_udp_flow(family, None, judge)?;
        } else {
            for Dest { address, port, .. } in touched.keys() {
                whole &= conntrack.each_udp_flow(family, Some(SocketAddr::new(*address, *port)), &mut *judge)?;
            }
        }
        done.deleted += delete(conntrack, stale)?;
        done.whole = whole;
        if whole {
            break;
        }
    }
    Ok(done)
}

fn delete(conntrack: &mut impl Tracked, stale: Stale) -> Result<usize, NftError> {
    let mut deleted = 0;
    for ((to, server), flows) in stale.0 {
        if flows.len() >= BY_FILTER && conntrack.delete_all(to, server)? {
            deleted += flows.len();
            continue;
        }
        for flow in flows {
            deleted += usize::from(conntrack.delete(&flow)?);
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    /// A table of flows whose dumps show a part only, and say so, until all but the last are done.
    struct Restless {
        flows: Vec<Flow>,
        interrupted: usize,
        looks: usize,
    }

    impl Restless {
        /// So many flows to an endpoint that is gone.
        fn stale(count: u32, interrupted: usize) -> Restless {
            let flow = |id| Flow {
                client: SocketAddr::new([10, 244, 0, 9].into(), 4000 + id as u16),
                to: "10.96.0.1:53".parse().unwrap(),
                server: "10.244.0.77:53".parse().unwrap(),
                id,
            };
            Restless { flows: (0..count).map(flow).collect(), interrupted, looks: 0 }
        }
    }

    impl Tracked for Restless {
        fn each_udp_flow(&mut self, _: Family, _: Option<SocketAddr>, each: &mut dyn FnMut(Flow)) -> Result<bool, NftError> {
            self.looks += 1;
            let whole = self.looks > self.interrupted;
            let shown = if whole { self.flows.len() } else { 1 };
            self.flows.iter().take(shown).for_each(|flow| each(*flow));
            Ok(whole)
        }

        fn delete(&mut self, flow: &Flow) -> Result<bool, NftError> {
            let before = self.flows.len();
            self.flows.retain(|one| one != flow);
            Ok(self.flows.len() < before)
        }

        fn delete_all(&mut self, _: SocketAddr, _: SocketAddr) -> Result<bool, NftError> {
            Ok(false)
        }
    }

    #[test]
    fn a_look_that_is_interrupted_is_repeated_until_it_shows_everything() {
        let nobody = Touched::from([(*touched(53).keys().next().unwrap(), Some(Default::default()))]);
        let mut kernel = Restless::stale(20, 3);
        let done = reconcile(&mut kernel, Family::V4, &nobody).unwrap();
        assert_eq!(done, Reconciled { deleted: 20, whole: true });
        assert_eq!((kernel.looks, kernel.flows.len()), (4, 0), "what the first looks showed is gone already");
    }

    #[test]
    fn looks_that_are_interrupted_for_ever_end_and_are_due_again() {
        let nobody = Touched::from([(*touched(53).keys().next().unwrap(), Some(Default::default()))]);
        let mut kernel = Restless::stale(20, usize::MAX);
        let metrics = ConntrackMetrics::new(&Registry::new()).unwrap();
        assert!(!look(&mut kernel, &nobody, &metrics), "it did not succeed");
        assert_eq!((kernel.looks, kernel.flows.len()), (ATTEMPTS, 20 - ATTEMPTS), "what was shown is used");
    }

    /// A table that does not change by itself, and what was asked of it.
    #[derive(Default)]
    struct Quiet {
        flows: Vec<Flow>,
        /// Whether the kernel deletes by a filter.
        filters: bool,
        looks: Vec<(Family, Option<SocketAddr>)>,
        one_by_one: usize,
        by_filter: Vec<(SocketAddr, SocketAddr)>,
    }

    impl Tracked for Quiet {
        fn each_udp_flow(
            &mut self,
            family: Family,
            to: Option<SocketAddr>,
            each: &mut dyn FnMut(Flow),
        ) -> Result<bool, NftError> {
            self.looks.push((family, to));
            self.flows.iter().filter(|flow| to.is_none_or(|to| flow.to == to)).for_each(|flow| each(*flow));
            Ok(true)
        }

        fn delete(&mut self, flow: &Flow) -> Result<bool, NftError> {
            self.one_by_one += 1;
            let before = self.flows.len();
            self.flows.retain(|one| one != flow);
            Ok(self.flows.len() < before)
        }

        fn delete_all(&mut self, to: SocketAddr, server: SocketAddr) -> Result<bool, NftError> {
            if self.filters {
                self.by_filter.push((to, server));
                self.flows.retain(|flow| (flow.to, flow.server) != (to, server));
            }
            Ok(self.filters)
        }
    }

    /// So many flows to this destination that lead to this server.
    fn flows(to: &str, server: &str, count: usize) -> impl Iterator<Item = Flow> {
        let (to, server) = (to.parse().unwrap(), server.parse().unwrap());
        (0..count).map(move |id| Flow {
            client: SocketAddr::new([10, 244, 0, 9].into(), 4000 + id as u16),
            to,
            server,
            id: id as u32,
        })
    }

    #[test]
    fn stale_flows_go_and_no_others_many_of_one_server_by_one_message_where_the_kernel_can() {
        const TO: &str = "10.96.0.1:53";
        let serving = || flows(TO, "10.244.0.2:53", 2 * BY_FILTER).chain(flows("10.96.0.9:53", "10.244.0.77:53", 2 * BY_FILTER));
        let touched: Touched = touched(53).into_keys().map(|dest| (dest, Some([backend("10.244.0.2:53")].into()))).collect();
        for filters in [true, false] {
            let stale = flows(TO, "10.244.0.77:53", BY_FILTER).chain(flows(TO, "10.244.0.78:53", BY_FILTER - 1));
            let mut kernel = Quiet { flows: stale.chain(serving()).collect(), filters, ..Quiet::default() };
            let done = reconcile(&mut kernel, Family::V4, &touched).unwrap();
            assert_eq!(done, Reconciled { deleted: 2 * BY_FILTER - 1, whole: true });
            assert_eq!(kernel.flows, serving().collect::<Vec<_>>());
            let many = (TO.parse().unwrap(), "10.244.0.77:53".parse().unwrap());
            match filters {
                true => assert_eq!((kernel.by_filter, kernel.one_by_one), (vec![many], BY_FILTER - 1)),
                false => assert_eq!((kernel.by_filter, kernel.one_by_one), (vec![], 2 * BY_FILTER - 1)),
            }
        }
    }

    #[test]
    fn a_few_destinations_are_asked_about_one_by_one_more_at_once_and_each_family_about_its_own() {
        let metrics = ConntrackMetrics::new(&Registry::new()).unwrap();
        let v6 = Dest { address: "fd00:96::1".parse().unwrap(), protocol: Protocol::Udp, port: 53 };
        let looks = |count: u16| {
            let touched = (1..=count).flat_map(touched).chain([(v6, None)]).collect();
            let mut kernel = Quiet::default();
            assert!(look(&mut kernel, &touched, &metrics));
            kernel.looks
        };
        let of_v4 = |port| (Family::V4, Some(SocketAddr::new([10, 96, 0, 1].into(), port)));
        let of_v6 = (Family::V6, Some(SocketAddr::new(v6.address, 53)));
        assert_eq!(looks(ONE_BY_ONE as u16), (1..=ONE_BY_ONE as u16).map(of_v4).chain([of_v6]).collect::<Vec<_>>());
        assert_eq!(looks(ONE_BY_ONE as u16 + 1), [(Family::V4, None), of_v6]);
        assert_eq!(looks(0), [of_v6]);
    }

    #[test]
    fn a_flow_that_was_gone_already_is_not_counted() {
        let mut kernel = Quiet::default();
        let flow = flows("10.96.0.1:53", "10.244.0.77:53", 1).next().unwrap();
        let stale = Stale([((flow.to, flow.server), vec![flow])].into());
        assert_eq!(delete(&mut kernel, stale).unwrap(), 0);
    }

    fn backend(text: &str) -> crate::proxy::Backend {
        let server: SocketAddr = text.parse().unwrap();
        crate::proxy::Backend { address: server.ip(), port: server.port() }
    }

    fn touched(port: u16) -> Touched {
        Touched::from([(Dest { address: [10, 96, 0, 1].into(), protocol: Protocol::Udp, port }, None)])
    }

    #[test]
    fn what_gathers_is_looked_at_together_and_everything_twice() {
        let (sender, received) = channel();
        sender.send(touched(1)).unwrap();
        sender.send(touched(2)).unwrap();
        let mut looks = Vec::new();
        let mut sender = Some(sender);
        keep_clean(&received, |touched| {
            looks.push(touched.keys().map(|dest| dest.port).collect::<Vec<_>>());
            if looks.len() == 2 {
                sender = None;
            }
            true
        });
        assert_eq!(looks, [[1, 2], [1, 2]]);
    }

    #[test]
    fn messages_that_keep_coming_do_not_put_off_the_second_look() {
        let (sender, received) = channel();
        sender.send(touched(1)).unwrap();
        let (mut sender, mut looks, start) = (Some(sender), 0, Instant::now());
        keep_clean(&received, |seen| {
            looks += usize::from(seen.contains_key(touched(1).keys().next().unwrap()));
            match &sender {
                Some(still) if looks < 2 && start.elapsed() < RETRY => still.send(touched(2)).unwrap(),
                _ => sender = None,
            }
            true
        });
        assert_eq!(looks, 2);
    }
}
