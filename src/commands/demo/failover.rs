//! The part of the tour where a pod dies.

use super::cluster::Cluster;
use super::screen::{Screen, counted, short};
use super::traffic::endpoints;
use crate::lab::{Namespace, Outcome, connect_here};
use crate::model::{Family, ObjectKey, Protocol, ServiceKind};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The traffic has moved when so many connections in a row reached living pods: with two pods, chance alone would need a thousandth
/// of a billionth's luck.
const IN_A_ROW: usize = 40;

const PATIENCE: Duration = Duration::from_secs(5);

/// So many connections are tried at a time: one that is stuck with the dying pod must not hide the others.
const CLIENTS: usize = 8;

/// On one machine an answer takes a fraction of a millisecond. A client that waits longer sees later that others get through.
const PER_CONNECTION: Duration = Duration::from_millis(25);

/// What a client saw of one connection.
struct Sample {
    begun: Instant,
    ended: Instant,
    outcome: Outcome,
}

/// Lets one pod of a service die and come back, under a stream of connections.
pub fn show(cluster: &mut Cluster, screen: &mut Screen) -> anyhow::Result<()> {
    let Some((service, target, victim)) = scene(cluster) else { return Ok(()) };
    screen.heading("A pod dies", &format!("while the client connects to {service} at {target} without a pause"));
    let client = cluster.client.namespace().clone();
    let (samples, done) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    thread::scope(|scope| {
        let samplers: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| sample(&client, target, &samples, &done))).collect();
        let played = play(cluster, screen, &victim, &samples);
        done.store(true, Ordering::Relaxed);
        let ends = samplers.into_iter().map(|sampler| sampler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ends.fold(played, anyhow::Result::and)
    })
}

/// A service with at least two pods, its address, and one of the pods.
fn scene(cluster: &Cluster) -> Option<(ObjectKey, SocketAddr, ObjectKey)> {
    let pod_at = |address| cluster.plan.pods.values().find(|pod| pod.addresses.contains(&address)).map(|pod| pod.key.clone());
    for service in cluster.services().filter(|service| service.kind == ServiceKind::ClusterIp && service.proxied) {
        for port in service.ports.iter().filter(|port| port.protocol == Protocol::Tcp && service.affinity_seconds.is_none()) {
            for family in Family::BOTH {
                let pods: Option<Vec<_>> =
                    endpoints(cluster, service, port, family).iter().map(|endpoint| pod_at(endpoint.ip())).collect();
                if let (Some(address), Some([_, victim, ..])) = (service.cluster_ip(family), pods.as_deref()) {
                    return Some((service.key.clone(), SocketAddr::new(address, port.port), victim.clone()));
                }
            }
        }
    }
    None
}

fn sample(client: &Namespace, target: SocketAddr, samples: &Mutex<Vec<Sample>>, done: &AtomicBool) -> anyhow::Result<()> {
    client.run(|| {
        while !done.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let outcome = connect_here(Protocol::Tcp, target, PER_CONNECTION);
            lock(samples).push(Sample { begun, ended: Instant::now(), outcome });
        }
    })?;
    Ok(())
}

fn play(cluster: &mut Cluster, screen: &mut Screen, victim: &ObjectKey, samples: &Mutex<Vec<Sample>>) -> anyhow::Result<()> {
    let name = victim.name.to_string();
    let by_victim = |sample: &Sample| sample.outcome.by() == Some(&name);
    let used = wait_for(samples, |samples| samples.iter().any(by_victim));
    let killed = Instant::now();
    let told = cluster.kill(victim)?;
    let alive = |sample: &Sample| sample.outcome.by().is_some() && !by_victim(sample);
    let moved = used && wait_for(samples, |samples| moved_at(samples, told, alive).is_some());
    let after = moved_at(&lock(samples), told, alive).map_or(PATIENCE, |moved| moved - told);
    let (failed, all) = {
        let samples = lock(samples);
        let since = samples.iter().filter(|sample| sample.begun > killed);
        (since.filter(|sample| !alive(sample)).count(), samples.len())
    };
    let line = format!(
        "{name} is dead: its connections go to the other pods {} after its endpoint was withdrawn  {}",
        screen.strong(&short(after)),
        screen.faint(&format!("{failed} of {} met it dying", counted(all, "connection"))),
    );
    screen.check(moved, &line, || {
        "connections still fail or reach it; see --shell, then: nft list map ip waypost endpoints".into()
    });

    let told = cluster.revive(victim)?;
    let back =
        |samples: &[Sample]| samples.iter().find(|sample| sample.begun > told && by_victim(sample)).map(|sample| sample.ended);
    let returned = wait_for(samples, |samples| back(samples).is_some());
    let after = back(&lock(samples)).map_or(PATIENCE, |back| back - told);
    let line = format!(
        "{name} is back: it answered its first connection {} after its endpoint was published",
        screen.strong(&short(after))
    );
    screen.check(returned, &line, || "it gets no connections; see --shell, then: nft list map ip waypost endpoints".into());
    Ok(())
}

/// When the first of those connections was begun after which all reached living pods; `None` until there are enough of them.
fn moved_at(samples: &[Sample], told: Instant, alive: impl Fn(&Sample) -> bool) -> Option<Instant> {
    let mut since: Vec<_> = samples.iter().filter(|sample| sample.begun > told).collect();
    since.sort_by_key(|sample| sample.begun);
    let good = since.iter().rev().take_while(|sample| alive(sample)).count();
    (good >= IN_A_ROW).then(|| since[since.len() - good].begun)
}

/// Waits until the samples satisfy the condition; false when that takes too long.
fn wait_for(samples: &Mutex<Vec<Sample>>, condition: impl Fn(&[Sample]) -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if condition(&lock(samples)) {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

fn lock(samples: &Mutex<Vec<Sample>>) -> std::sync::MutexGuard<'_, Vec<Sample>> {
    samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
