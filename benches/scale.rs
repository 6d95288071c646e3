//! What a node's agent costs in a cluster of any size, without a cluster: the real store, plan, names, tables and last known state, fed with made-up
//! objects, then with a rolling update. `cargo bench --bench scale -- SERVICES ENDPOINTS [kernel]`; without `kernel` the tables are committed to the
//! in-memory kernel of the tests. docs/scale.md uses its numbers.

mod objects;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use objects::{address, key, service, slices};
use std::error::Error;
use std::time::{Duration, Instant, SystemTime};
use waypost::dns::records::Records;
use waypost::model::{Endpoint, Family, Interner, Kind, Update};
use waypost::nft::{Committer, Kernel, Layout, Memory, Netlink};
use waypost::proxy::{Context, Delta, DetectLocal, Planner};
use waypost::snapshot;
use waypost::store::Store;

/// The agent's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// So many endpoints are replaced one by one, and as many come on top.
const CHANGES: u32 = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    // cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let number = |at: usize, default| arguments.get(at).map_or(Ok(default), |text| text.parse::<u32>());
    let (services, endpoints) = (number(0, 10_000)?, number(1, 10)?);
    let _ = nix::sys::prctl::set_thp_disable(true);
    println!("{services} services with {endpoints} endpoints each");
    if arguments.iter().any(|argument| argument == "kernel") {
        waypost::lab::enter()?;
        simulate(Netlink::open()?, services, endpoints)
    } else {
        simulate(Memory::default(), services, endpoints)
    }
}

fn simulate(kernel: impl Kernel, services: u32, endpoints: u32) -> Result<(), Box<dyn Error>> {
    let mut step = Step::begin();
    let mut names = Interner::default();
    let mut store = Store::default();
    [Kind::Service, Kind::Slice, Kind::Namespace].into_iter().for_each(|kind| store.apply(Update::ListBegin(kind)));
    store.apply(Update::Namespace("shop".into(), None));
    for number in 0..services {
        store.apply(Update::Service(Box::new(service(&mut names, number))));
        slices(&mut names, number, endpoints).for_each(|slice| store.apply(Update::Slice(Box::new(slice))));
    }
    [Kind::Service, Kind::Slice, Kind::Namespace].into_iter().for_each(|kind| store.apply(Update::ListEnd(kind)));
    step.done("objects in the store");

    let context = Context { node_name: "node-1".into(), ..Context::default() };
    let mut planner = Planner::default();
    let mut delta = Delta::default();
    for key in store.take_dirty().services {
        planner.update(&key, store.service(&key), &store.slices(&key), &context, &mut delta);
    }
    step.done("planned");
    let layouts = Family::BOTH.map(|family| Layout {
        family,
        masquerade_mark: 0x4000,
        masquerade_all: false,
        tracked_dns: false,
        detect_local: DetectLocal::Networks,
    });
    let mut committer = Committer::new(kernel, layouts);
    commit(&mut committer, delta)?;
    step.done("first commit");
    let records = Records::new("cluster.local", 30);
    for number in 0..services {
        let key = key(&mut names, number);
        records.publish(&key, store.service(&key), &store.slices(&key));
    }
    step.done("names published");
    let bytes = snapshot::encode(&store, SystemTime::now());
    step.done(&format!("last known state encoded ({:.1} MB)", bytes.len() as f64 / 1e6));
    let remembered: Vec<_> = snapshot::decode(&bytes)?.updates().collect();
    step.done(&format!("and decoded ({} objects)", remembered.len()));
    drop((bytes, remembered));

    for (what, more) in [("one endpoint replaced", false), ("one endpoint more", true)] {
        let (mut planning, mut committing) = (Vec::new(), Vec::new());
        for change in 0..CHANGES {
            // Spread over all services by a step that shares no factor with their number.
            let number = (u64::from(change) * 7919 % u64::from(services)) as u32;
            let mut slice = slices(&mut names, number, endpoints).next().ok_or("a service has endpoints")?;
            let mut all = slice.endpoints.to_vec();
            let newcomer = Endpoint::at(address(0x0bc0_0000 + change));
            if more {
                all.push(newcomer)
            } else {
                all[0] = newcomer
            }
            slice.endpoints = all.into();
            let began = Instant::now();
            store.apply(Update::Slice(Box::new(slice)));
            let mut delta = Delta::default();
            for key in store.take_dirty().services {
                planner.update(&key, store.service(&key), &store.slices(&key), &context, &mut delta);
            }
            planning.push(began.elapsed());
            let began = Instant::now();
            commit(&mut committer, delta)?;
            committing.push(began.elapsed());
        }
        println!("{what}: planned {}; committed {}", spread(planning), spread(committing));
    }
    step.done("changes");
    Ok(())
}

fn commit(committer: &mut Committer<impl Kernel>, delta: Delta) -> Result<(), Box<dyn Error>> {
    for outcome in committer.commit(delta).families {
        if let Some(error) = outcome.error {
            return Err(error.into());
        }
        if let Some(rejected) = outcome.rejected.first() {
            return Err(format!("{:?}: {}", rejected.what, rejected.reason).into());
        }
    }
    Ok(())
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    format!("p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Time, of it on a processor, and memory in RAM, from step to step.
struct Step(Instant, Duration);

impl Step {
    fn begin() -> Step {
        Step(Instant::now(), on_processor())
    }

    fn done(&mut self, what: &str) {
        let (took, worked) = (self.0.elapsed(), on_processor() - self.1);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let megabytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|kilobytes| kilobytes.parse::<f64>().ok()).unwrap_or_default() / 1e3
        };
        println!(
            "{what}: {took:.1?}, {worked:.1?} of it on a processor; {:.1} MB, at most {:.1} MB so far",
            megabytes("RssAnon:"),
            megabytes("VmHWM:")
        );
        (self.0, self.1) = (Instant::now(), on_processor());
    }
}

/// What the kernel has counted for this process, its own work for it included.
fn on_processor() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel counts it");
    let of = |time: TimeVal| Duration::new(time.tv_sec().unsigned_abs(), time.tv_usec().unsigned_abs() as u32 * 1000);
    of(usage.user_time()) + of(usage.system_time())
}
