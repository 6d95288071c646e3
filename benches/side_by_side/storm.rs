//! Endpoints that change hundreds of times a second: how far behind the kernel is, what it costs, and what becomes of DNS meanwhile.

use super::changes::{Kind, PEERS, Pair, address_of_change, catch_up, change};
use super::kernel::Notices;
use super::paced::{PACED, PATIENCE, ask_at_a_pace, lost};
use super::peers::Server;
use super::report::{Row, Spread, Unit, percentile};
use super::responders::FLOOR;
use super::servers::question;
use super::{Bench, NAMESPACE, ROUNDS};
use crate::processes::Process;
use crate::stage::Stage;
use std::collections::HashMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// So many changes a second, for so long, three times over.
const RATE: u32 = 500;
const WINDOW: Duration = Duration::from_secs(20);
const WINDOWS: usize = 3;
/// A peer that falls behind gets this long after the last change.
const GRACE: Duration = Duration::from_secs(30);
/// Before the first question is asked, so many changes a second are under way for so long.
const LEAD: Duration = Duration::from_secs(1);
/// So many questions a second are asked meanwhile: as many as are answered on a machine where API server, etcd and the client have the same processors.
const RATES: [u32; 5] = [20_000, 10_000, 5_000, 2_000, 1_000];
/// Where the node is, and the responder that only turns datagrams round.
const NODE_ADDRESS: &str = "192.0.2.10";
const FLOOR_PORT: u16 = 5399;
/// A share of answers that may be lost without a word about the 99th percentile.
const FEW: f64 = 0.002;

/// A storm of changes: how far behind the kernel is, and what it costs.
pub fn rows(bench: &Bench, size: u32, pair: &mut Pair<'_>) -> Vec<Row> {
    pair.theirs.1.freeze(true);
    let ours = storm_on(bench, size, &pair.ours.0, &mut pair.ours.1);
    pair.theirs.1.freeze(false);
    let theirs = storm_on(bench, size, &pair.theirs.0, &mut pair.theirs.1);
    let note = |storm: &Storm| format!("{:.0} changes a second written, {} never seen", storm.rate, storm.lost);
    let note = format!("here {}; there {}", note(&ours), note(&theirs));
    let what = "500 endpoints a second change: API write → kernel, p99";
    let what_cpu = "500 endpoints a second change: processor time";
    let lag = Row::new("storm-p99", what, size, Unit::Seconds).beside("kube-proxy", [ours.lags, theirs.lags]);
    let cost = Row::new("storm-cpu", what_cpu, size, Unit::Share).beside(PEERS, [ours.shares, theirs.shares]);
    vec![lag.goal(0.050, None).note(note.clone()), cost.goal(0.5, None).note(note)]
}

struct Storm {
    /// Of each window: the 99th percentile, and the share of a core.
    lags: Vec<f64>,
    shares: Vec<f64>,
    rate: f64,
    lost: usize,
}

fn storm_on(bench: &Bench, size: u32, stage: &Stage<'_>, server: &mut dyn Server) -> Storm {
    let mut notices = Notices::listen(stage.node.namespace());
    catch_up(bench, &mut notices, size);
    let mut storm = Storm { lags: Vec::new(), shares: Vec::new(), rate: 0.0, lost: 0 };
    let mut seen = HashMap::new();
    let mut windows = Vec::new();
    for _ in 0..WINDOWS {
        let (began, before) = (Instant::now(), server.processor_time());
        let writer = Writer::start(bench, size, WINDOW);
        while began.elapsed() < WINDOW {
            notices.wait(Instant::now() + Duration::from_millis(100));
            notices.take_seen(&mut seen);
        }
        storm.shares.push((server.processor_time() - before) / began.elapsed().as_secs_f64());
        windows.push(writer.stop(bench.runtime()));
    }
    let end = Instant::now() + GRACE;
    let missing = |seen: &HashMap<_, _>| windows.iter().flatten().any(|(address, _)| !seen.contains_key(address));
    while missing(&seen) && notices.wait(end) {
        notices.take_seen(&mut seen);
    }
    for window in &windows {
        // Whoever overwrites a change before the kernel has it hides it: slices are changed in turn, seconds apart.
        let lag =
            |(address, sent): &(Ipv4Addr, Instant)| seen.get(address).copied().unwrap_or_else(Instant::now).duration_since(*sent);
        storm.lags.push(percentile(&window.iter().map(|change| lag(change).as_secs_f64()).collect::<Vec<_>>(), 0.99));
    }
    let all = windows.iter().map(Vec::len).sum::<usize>();
    storm.rate = all as f64 / (WINDOW.as_secs_f64() * WINDOWS as f64);
    storm.lost = windows.iter().flatten().filter(|(address, _)| !seen.contains_key(address)).count();
    storm
}

/// Changes slices at a steady rate.
struct Writer {
    task: JoinHandle<Vec<(Ipv4Addr, Instant)>>,
}

impl Writer {
    fn start(bench: &Bench, size: u32, window: Duration) -> Writer {
        let (client, first) = (bench.cluster.client(), bench.next_change().0);
        let count = RATE * window.as_secs() as u32;
        bench.skip_changes(count);
        let write = async move {
            let mut clock = interval(Duration::from_secs(1) / RATE);
            clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let end = Instant::now() + window;
            let (mut sent, mut under_way) = (Vec::new(), tokio::task::JoinSet::new());
            for number in first + 1..first + count {
                clock.tick().await;
                // Bounded: an API server that cannot keep up gets fewer, and the report says how many.
                while under_way.len() >= 32 {
                    under_way.join_next().await;
                }
                if Instant::now() > end {
                    break;
                }
                let address = address_of_change(number);
                sent.push((address, Instant::now()));
                under_way.spawn(change(client.clone(), format!("many-{}", number % size), Kind::Replaced, address));
            }
            under_way.join_all().await;
            sent
        };
        Writer { task: bench.runtime().spawn(write) }
    }

    fn stop(self, runtime: &Handle) -> Vec<(Ipv4Addr, Instant)> {
        runtime.block_on(self.task).expect("it does not panic")
    }
}

/// Answers at a steady rate while endpoints change, beside those of the same server while none do, and of CoreDNS.
pub fn questions(bench: &Bench, size: u32, pair: &mut Pair<'_>) -> Vec<Row> {
    let names: Vec<_> = (0..size).map(|number| question(&format!("many-{number}.{NAMESPACE}.svc.cluster.local"), 1)).collect();
    let asked = |stage: &Stage<'_>, address: (&str, u16), rate: u32| {
        let asked = stage.client.namespace().run(|| {
            let client = UdpSocket::bind("0.0.0.0:0").expect("there is a free port");
            client.connect(address).expect("there is a route to the server");
            ask_at_a_pace(&client, &names, rate)
        });
        asked.expect("the pod's namespace is there")
    };
    let while_changing = |stage: &Stage<'_>, address: (&str, u16), rate: u32| {
        let writer = Writer::start(bench, size, LEAD + PACED);
        std::thread::sleep(LEAD);
        let changing = asked(stage, address, rate);
        writer.stop(bench.runtime());
        changing
    };
    // Without changes, and with them.
    let both = |stage: &Stage<'_>, address: &str, rate: u32| {
        catch_up(bench, &mut Notices::listen(stage.node.namespace()), size);
        [asked(stage, (address, 53), rate), while_changing(stage, (address, 53), rate)]
    };
    pair.theirs.1.freeze(true);
    let (stage, address) = (&pair.ours.0, pair.ours.1.dns_address());
    let is_answered = |rate: &u32| both(stage, address, *rate).iter().all(|latencies| lost(latencies) <= FEW);
    let rate = RATES.into_iter().find(is_answered).unwrap_or(RATES[RATES.len() - 1]);
    // On the same node, with the same changes: what the other programs on the processors cost, whoever answers.
    let mut command = Command::new(std::env::current_exe().expect("this program has a file"));
    command.args([FLOOR, &format!("0.0.0.0:{FLOOR_PORT}")]);
    let floor = Process::start(stage.node.namespace(), bench.cluster.directory(), "floor", &mut command);
    let of_floor = || percentile(&while_changing(stage, (NODE_ADDRESS, FLOOR_PORT), rate), 0.99);
    let crowded: Vec<f64> = (0..ROUNDS).map(|_| of_floor()).collect();
    drop(floor);
    pair.theirs.1.freeze(false);
    let [ours, theirs] = pair.in_turns(ROUNDS, |stage, server| {
        both(stage, server.dns_address(), rate).map(|latencies| (percentile(&latencies, 0.99), lost(&latencies)))
    });
    let of = |rounds: &[[(f64, f64); 2]], index: usize| rounds.iter().map(|round| round[index].0).collect::<Vec<f64>>();
    let lost = |rounds: &[[(f64, f64); 2]]| 100.0 * rounds.iter().flatten().map(|(_, lost)| *lost).fold(0.0, f64::max);
    let factor = theirs.iter().map(|[quiet, changing]| changing.0 / quiet.0).collect::<Vec<_>>();
    let factor = Spread::of(&factor).map_or(0.0, |all| all.median);
    let row =
        || Row::new("dns-changes-p99", "DNS at a steady rate while 500 endpoints a second change: p99", size, Unit::Seconds);
    let alone = row().beside("itself without changes", [of(&ours, 1), of(&ours, 0)]);
    // Where answers are lost without changes as well, a ratio says nothing.
    let alone = alone.goal(PATIENCE.as_secs_f64() / 2.0, 1.0 / 1.2);
    let note = format!(
        "{rate} questions a second, the most that this agent answers beside API server, etcd and client; at most {:.2} % lost here and {:.2} % \
         there in a round, which count as {PATIENCE:?}; CoreDNS takes {factor:.1} times as long as without changes",
        lost(&ours),
        lost(&theirs)
    );
    let crowd = row().beside("a responder that knows nothing", [of(&ours, 1), crowded]);
    vec![alone, crowd, row().beside("CoreDNS", [of(&ours, 1), of(&theirs, 1)]).note(note)]
}
