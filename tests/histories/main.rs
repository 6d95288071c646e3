//! Random histories of objects through the whole agent, in a real kernel: whatever it went through, the tables end as those of a fresh start, and
//! whoever looks at them meanwhile finds nothing that leads nowhere. `src/agent/histories.rs` has many more of them, in an in-memory kernel.

#[path = "../begin/mod.rs"]
mod begin;
mod objects;
mod refused;

use libtest_mimic::{Arguments, Failed, Trial};
use objects::{Flags, Objects, SETTINGS, Step, any_history, targets};
use proptest::test_runner::{Config as ProptestConfig, TestCaseError, TestRunner};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use waypost::admin::Registries;
use waypost::agent::{self, Running, layouts::layout};
use waypost::config::{Config, RunArgs, Surroundings, load};
use waypost::lab::{Namespace, Node, Pod};
use waypost::model::{Family, Protocol, Update};
use waypost::nft::{Batch, Kernel, Layout, Netlink, NftError, Reading, Usable, leads_somewhere, without_slots};
use waypost::notices::Notices;
use waypost::proxy::{Dest, Element};

const CASES: u32 = 16;
const PATIENCE: Duration = Duration::from_secs(30);
/// The name of the threads that write to the kernel.
const DATA_PATH: &str = "data-path";
/// How many agents there are.
static AGENTS: AtomicUsize = AtomicUsize::new(0);

fn main() {
    let arguments = begin::in_a_user_namespace();
    let tests = vec![
        Trial::test("every_history_of_objects_ends_as_a_fresh_start_in_the_kernel_and_no_batch_leaves_it_broken", histories),
        Trial::test("what_the_kernel_refuses_of_one_service_is_told_and_disturbs_no_other", refused::one_service),
        Trial::test(
            "what_the_kernel_refuses_in_another_layout_is_left_out_and_the_old_table_stays_until_then",
            refused::another_layout,
        ),
    ];
    // Whoever ends an agent counts the threads of all.
    libtest_mimic::run(&Arguments { test_threads: Some(1), ..arguments }, tests).exit();
}

fn histories() -> Result<(), Failed> {
    let config = ProptestConfig { cases: CASES, max_shrink_iters: 10, failure_persistence: None, ..ProptestConfig::default() };
    let looks = Arc::new(AtomicUsize::new(0));
    let outcome = TestRunner::new(config).run(&any_history(false, 60), |steps| live(steps, &looks));
    println!("    {CASES} histories, looked at after {} batches", looks.load(Ordering::Relaxed));
    outcome.map_err(|error| error.to_string().into())
}

fn live(steps: Vec<Step>, looks: &Arc<AtomicUsize>) -> Result<(), TestCaseError> {
    let place = Place::new();
    let broken = Arc::new(Mutex::new(None));
    let mut objects = Objects::default();
    let mut flags = SETTINGS[0];
    let start = |objects: &Objects, backwards: bool, flags: Flags| {
        let (looks, broken) = (looks.clone(), broken.clone());
        let agent = Agent::start(&place, Notices::logged(), flags, |kernel| Checked { kernel, looks, broken });
        agent.send(objects.listings(backwards));
        agent
    };
    let mut agent = start(&objects, false, flags);
    for step in steps {
        match step {
            Step::Seen(change) => agent.send(vec![objects.change(change)]),
            Step::Missed(changes, backwards) => {
                changes.into_iter().for_each(|change| drop(objects.change(change)));
                agent.send(objects.listings(backwards));
            }
            Step::Connect(service, client) => targets(service).for_each(|target| place.connect(target, client)),
            Step::Pause => std::thread::sleep(Duration::from_millis(5)),
            Step::Restart(flushed, settings) => {
                agent.kill();
                if let Some(v4) = flushed {
                    let family = if v4 { "ip" } else { "ip6" };
                    // There may be none yet.
                    place.node.namespace().output(Command::new("nft").args(["delete", "table", family, "waypost"])).unwrap();
                }
                flags = SETTINGS[settings];
                agent = start(&objects, flushed.is_some(), flags);
            }
        }
    }
    let fresh = fresh_start(&objects, flags);
    proptest::prop_assert!(fresh.is_ok(), "{:?}", fresh);
    let began = Instant::now();
    let mut held = held(place.node.namespace(), flags, &objects);
    while held != fresh && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
        held = self::held(place.node.namespace(), flags, &objects);
    }
    agent.kill();
    proptest::prop_assert_eq!(held, fresh);
    proptest::prop_assert_eq!(broken.lock().unwrap().take(), None);
    Ok(())
}

/// What an agent that begins with these objects makes of an empty kernel.
fn fresh_start(objects: &Objects, flags: Flags) -> Result<Vec<Element>, String> {
    let place = Place::new();
    let beginner = Agent::start(&place, Notices::logged(), flags, |kernel| kernel);
    beginner.send(objects.listings(false));
    beginner.runtime.block_on(async { tokio::time::timeout(PATIENCE, beginner.running.ready()).await }).expect("it is ready");
    let held = held(place.node.namespace(), flags, objects);
    beginner.kill();
    held
}

/// The real kernel, looked over after each batch.
struct Checked {
    kernel: Netlink,
    looks: Arc<AtomicUsize>,
    broken: Arc<Mutex<Option<String>>>,
}

impl Kernel for Checked {
    fn read(&mut self, layout: &Layout) -> Result<Reading, NftError> {
        self.kernel.read(layout)
    }

    fn commit(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        let result = self.kernel.commit(layout, batch);
        let wrong = match self.kernel.read(layout) {
            Ok(Reading::Ours(contents)) => leads_somewhere(contents.elements.iter()).err(),
            // Somebody has just removed it.
            Ok(Reading::Absent) => None,
            other => Some(format!("{other:?}")),
        };
        self.looks.fetch_add(1, Ordering::Relaxed);
        wrong.map(|wrong| self.broken.lock().unwrap().get_or_insert(format!("{}: {wrong}", layout.family)).len());
        result
    }

    fn would_take(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        self.kernel.would_take(layout, batch)
    }

    fn forget(&mut self, layout: &Layout, usable: &[Usable]) -> Result<usize, NftError> {
        self.kernel.forget(layout, usable)
    }

    fn batch_limit(&self) -> usize {
        // So that many changes need several batches.
        40
    }

    fn generation(&mut self) -> Option<u32> {
        self.kernel.generation()
    }
}

/// Both tables, without what is a matter of history; an error while one has not the layout that it should have.
fn held(node: &Namespace, flags: Flags, objects: &Objects) -> Result<Vec<Element>, String> {
    let read = || {
        let mut kernel = Netlink::open().map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        for family in Family::BOTH {
            match kernel.read(&layout(&config(flags).proxy, objects.node(), family)).map_err(|error| error.to_string())? {
                Reading::Ours(contents) => all.extend(contents.elements),
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(without_slots(all))
    };
    node.run(read).unwrap()
}

fn config(flags: Flags) -> Config {
    let surroundings = Surroundings { host_name: Some("node-1".into()), ..Surroundings::default() };
    load(&RunArgs::of(&[flags, &[("socket", "")]].concat()), &surroundings).expect("the configuration is a good one").0
}

/// A node, a pod whose connections go through it, and a gateway that swallows them.
struct Place {
    node: Node,
    client: Pod,
    _outside: Pod,
}

impl Place {
    fn new() -> Place {
        let parse = |texts: &[String]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let node = Node::new(&parse(&["192.0.2.10".into(), "2001:db8::10".into()])).unwrap();
        let addresses: Vec<String> = (1..5).flat_map(|n| [format!("10.244.9.{n}"), format!("fd00:244::9:{n}")]).collect();
        let client = node.pod("client", &parse(&addresses)).unwrap();
        let outside = node.host("outside", &parse(&["203.0.113.9".into(), "2001:db8:9::9".into()])).unwrap();
        node.set_gateway(&outside).unwrap();
        Place { node, client, _outside: outside }
    }

    /// Nobody answers: the first packet is all that the tables see.
    fn connect(&self, to: Dest, client: u8) {
        let same_family = self.client.addresses().iter().filter(|address| address.is_ipv4() == to.address.is_ipv4());
        let source = *same_family.clone().nth(usize::from(client) - 1).expect("a client has a number");
        let target = SocketAddr::new(to.address, to.port);
        let attempt = || match to.protocol {
            Protocol::Udp => drop(UdpSocket::bind((source, 0)).unwrap().send_to(b"?", target)),
            Protocol::Tcp => drop(TcpStream::connect_timeout(&target, Duration::from_millis(1))),
            Protocol::Sctp => {}
        };
        self.client.namespace().run(attempt).unwrap();
    }
}

/// A whole agent in this process.
struct Agent {
    runtime: Runtime,
    running: Running,
    updates: mpsc::Sender<Update>,
}

impl Agent {
    fn start<K: Kernel + Send + 'static>(
        place: &Place,
        notices: Notices,
        flags: Flags,
        through: impl FnOnce(Netlink) -> K + Send,
    ) -> Agent {
        let start = || {
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let (updates, received) = mpsc::channel(64);
            let config = config(flags);
            let registries = Registries::new(config.role).unwrap();
            let started = agent::start_through(config, registries, received, notices, None, through);
            let running = runtime.block_on(started).expect("it starts");
            Agent { runtime, running, updates }
        };
        AGENTS.fetch_add(1, Ordering::Relaxed);
        place.node.namespace().run(start).unwrap()
    }

    fn send(&self, updates: Vec<Update>) {
        for update in updates {
            self.updates.blocking_send(update).expect("it takes updates in");
        }
    }

    /// Ends it without a word. What is on its way into the kernel gets there, as what a killed process has sent.
    fn kill(self) {
        let Agent { runtime, running, updates } = self;
        drop((running, updates));
        runtime.shutdown_timeout(PATIENCE);
        let began = Instant::now();
        let others = AGENTS.fetch_sub(1, Ordering::Relaxed) - 1;
        while threads().filter(|name| name.trim() == DATA_PATH).count() > others {
            assert!(began.elapsed() < PATIENCE, "the thread that commits goes on");
            std::thread::yield_now();
        }
    }
}

fn threads() -> impl Iterator<Item = String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc is there").flatten();
    // A thread may have ended meanwhile.
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
}
