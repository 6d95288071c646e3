//! The part of the tour where a pod dies.

use super::cluster::Cluster;
use super::screen::{Screen, short};
use super::traffic::endpoints;
use crate::lab::{Namespace, Outcome, connect_async};
use crate::model::{Family, ObjectKey, Protocol, ServiceKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// The traffic has moved when so many connections in a row, for each pod, reached living ones: that chance alone left the dead pod
/// out is less likely than one in a hundred million.
const IN_A_ROW: usize = 20;

const PATIENCE: Duration = Duration::from_secs(5);

/// Long enough for none to fail because the machine is busy.
const PER_CONNECTION: Duration = Duration::from_secs(1);

/// A new connection is begun so often, whatever became of the earlier ones: one that is stuck with the dying pod hides nothing.
const EVERY: Duration = Duration::from_millis(1);

/// What the client saw of one connection.
struct Sample {
    begun: Instant,
    /// When and how it ended, if it has.
    end: Option<(Instant, Outcome)>,
}

impl Sample {
    fn by(&self) -> Option<&str> {
        self.end.as_ref().and_then(|(_, outcome)| outcome.by())
    }
}

type Samples = Arc<Mutex<Vec<Sample>>>;

/// Lets one pod of a service die and come back, under a stream of connections.
pub fn show(cluster: &mut Cluster, screen: &mut Screen) -> anyhow::Result<()> {
    let Some(Scene { service, target, pods }) = scene(cluster) else { return Ok(()) };
    let (victim, in_a_row) = (&pods[1], pods.len() * IN_A_ROW);
    screen.heading("A pod dies", &format!("while the client connects to {service} at {target} without a pause"));
    let client = cluster.client.namespace().clone();
    let (samples, done) = (Samples::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(&client, target, &samples, &done));
        let played = play(cluster, screen, victim, in_a_row, &samples);
        done.store(true, Ordering::Relaxed);
        played.and(sampler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// A service port with at least two pods.
struct Scene {
    service: ObjectKey,
    target: SocketAddr,
    pods: Vec<ObjectKey>,
}

/// The one with the fewest pods: there each death is felt most.
fn scene(cluster: &Cluster) -> Option<Scene> {
    let pod_at = |address| cluster.plan.pods.values().find(|pod| pod.addresses.contains(&address)).map(|pod| pod.key.clone());
    let mut scenes = Vec::new();
    for service in cluster.services().filter(|service| service.kind == ServiceKind::ClusterIp && service.proxied) {
        for port in service.ports.iter().filter(|port| port.protocol == Protocol::Tcp && service.affinity_seconds.is_none()) {
            for family in Family::BOTH {
                let pods: Option<Vec<_>> = endpoints(cluster, service, port, family).iter().map(|end| pod_at(end.ip())).collect();
                if let (Some(address), Some(pods)) = (service.cluster_ip(family), pods.filter(|pods| pods.len() >= 2)) {
                    scenes.push(Scene { service: service.key.clone(), target: SocketAddr::new(address, port.port), pods });
                }
            }
        }
    }
    scenes.into_iter().min_by_key(|scene| scene.pods.len())
}

/// Connects again and again from the client's namespace until told that it is enough.
fn sample(client: &Namespace, target: SocketAddr, samples: &Samples, done: &AtomicBool) -> anyhow::Result<()> {
    client.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut tick = tokio::time::interval(EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !done.load(Ordering::Relaxed) {
                tick.tick().await;
                let index = {
                    let mut samples = lock(samples);
                    samples.push(Sample { begun: Instant::now(), end: None });
                    samples.len() - 1
                };
                let samples = samples.clone();
                tokio::spawn(async move {
                    let outcome = connect_async(target, PER_CONNECTION).await;
                    lock(&samples)[index].end = Some((Instant::now(), outcome));
                });
            }
        });
        Ok(())
    })?
}

fn play(
    cluster: &mut Cluster,
    screen: &mut Screen,
    victim: &ObjectKey,
    in_a_row: usize,
    samples: &Samples,
) -> anyhow::Result<()> {
    let name = victim.name.to_string();
    let by_victim = |sample: &Sample| sample.by() == Some(&name);
    let alive = |sample: &Sample| sample.by().is_some() && !by_victim(sample);
    let used = wait_for(samples, |samples| samples.iter().any(by_victim));
    let told = cluster.kill(victim)?;
    let moved = used && wait_for(samples, |samples| moved_at(samples, told, in_a_row, alive).is_some());
    let after = moved_at(&lock(samples), told, in_a_row, alive).map_or(PATIENCE, |moved| moved - told);
    let line = format!(
        "{name} dies: {} after its endpoint is withdrawn every connection goes to another pod",
        screen.strong(&short(after))
    );
    screen.check(moved, &line, || {
        "connections still fail or reach it; see --shell, then: nft list map ip waypost endpoints".into()
    });

    let told = cluster.revive(victim)?;
    let first = |samples: &[Sample]| {
        let mut since = samples.iter().filter(|sample| sample.begun > told && by_victim(sample));
        since.find_map(|sample| sample.end.as_ref().map(|(ended, _)| *ended))
    };
    let back = wait_for(samples, |samples| first(samples).is_some());
    let after = first(&lock(samples)).map_or(PATIENCE, |first| first - told);
    let line =
        format!("{name} comes back: {} after its endpoint is published it answers a connection", screen.strong(&short(after)));
    screen.check(back, &line, || "it gets no connections; see --shell, then: nft list map ip waypost endpoints".into());
    Ok(())
}

/// When the first of those connections was begun after which all reached living pods; `None` until there are enough of them.
fn moved_at(samples: &[Sample], told: Instant, in_a_row: usize, alive: impl Fn(&Sample) -> bool) -> Option<Instant> {
    let mut since: Vec<_> = samples.iter().filter(|sample| sample.begun > told).collect();
    // The last ones are always under way; one that is still under way before others have ended is stuck, and not good.
    let ended = since.iter().rposition(|sample| sample.end.is_some())? + 1;
    since.truncate(ended);
    let good = since.iter().rev().take_while(|sample| alive(sample)).count();
    (good >= in_a_row).then(|| since[since.len() - good].begun)
}

/// Waits until the samples satisfy the condition; false when that takes too long.
fn wait_for(samples: &Samples, condition: impl Fn(&[Sample]) -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if condition(&lock(samples)) {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

fn lock(samples: &Samples) -> MutexGuard<'_, Vec<Sample>> {
    samples.lock().unwrap_or_else(PoisonError::into_inner)
}
