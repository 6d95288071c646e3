//! Random histories of objects: whatever the agent went through, the kernel ends with what a fresh start makes of the same objects, and at no moment
//! does an element lead to a chain or slot that is not there.

#[path = "../../tests/histories/objects.rs"]
mod objects;

use super::layouts::layout;
use super::tests::{config, wire};
use crate::dns::records::Records;
use crate::model::{Family, Update};
use crate::nft::{Batch, Kernel, Layout, Memory, NftError, Reading, Usable, without_slots};
use crate::notices::Notices;
use crate::proxy::{Dest, DetectLocal, Element, Fate, Packet, Says, Walk};
use objects::{Flags, Objects, SETTINGS, Step, any_history, targets};
use proptest::prelude::*;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// An in-memory kernel that is looked over after each batch, and that takes nothing more from an agent that was killed.
struct Checked {
    memory: Arc<Mutex<Memory>>,
    killed: Arc<AtomicBool>,
    broken: Arc<Mutex<Option<String>>>,
}

impl Kernel for Checked {
    fn read(&mut self, layout: &Layout) -> Result<Reading, NftError> {
        self.memory.lock().unwrap().read(layout)
    }

    fn commit(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        let mut memory = self.memory.lock().unwrap();
        if self.killed.load(Ordering::SeqCst) {
            return Err(NftError::Unsettled);
        }
        let result = memory.commit(layout, batch);
        if let Err(why) = memory.check() {
            self.broken.lock().unwrap().get_or_insert(why);
        }
        result
    }

    fn would_take(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        self.memory.lock().unwrap().would_take(layout, batch)
    }

    fn forget(&mut self, layout: &Layout, usable: &[Usable]) -> Result<usize, NftError> {
        self.memory.lock().unwrap().forget(layout, usable)
    }

    fn batch_limit(&self) -> usize {
        self.memory.lock().unwrap().batch_limit()
    }
}

struct Agent {
    updates: mpsc::Sender<Update>,
    ready: watch::Receiver<bool>,
    killed: Arc<AtomicBool>,
    _stop: watch::Sender<()>,
}

impl Agent {
    async fn start(
        memory: &Arc<Mutex<Memory>>,
        broken: &Arc<Mutex<Option<String>>>,
        objects: &Objects,
        backwards: bool,
        flags: Flags,
    ) -> Agent {
        let killed = Arc::new(AtomicBool::new(false));
        let kernel = Checked { memory: memory.clone(), killed: killed.clone(), broken: broken.clone() };
        let wired = wire(kernel, Arc::new(Records::new("cluster.local", 30)), Notices::logged(), None, flags);
        let agent = Agent { updates: wired.updates, ready: wired.ready, killed, _stop: wired.stop };
        agent.send(objects.listings(backwards)).await;
        agent
    }

    async fn send(&self, updates: Vec<Update>) {
        for update in updates {
            self.updates.send(update).await.unwrap();
        }
    }
}

/// Both tables, without what is a matter of history; an error while one has not the layout that it should have.
fn held(memory: &Mutex<Memory>, flags: Flags, objects: &Objects) -> Result<Vec<Element>, String> {
    let (mut memory, proxy) = (memory.lock().unwrap(), config(flags).proxy);
    for layout in Family::BOTH.map(|family| layout(&proxy, objects.node(), family)) {
        match memory.read(&layout).map_err(|error| error.to_string())? {
            Reading::Ours(_) => {}
            other => return Err(format!("{}: {other:?}", layout.comment())),
        }
    }
    Ok(without_slots(Family::BOTH.iter().flat_map(|family| memory.elements(*family)).collect()))
}

/// A client inside connects: what is remembered, as the packet's way says.
fn connect(memory: &mut Memory, to: Dest, client: u8) {
    let family = to.family();
    let source: IpAddr = match family {
        Family::V4 => [10, 244, 9, client].into(),
        Family::V6 => format!("fd00:244::9:{client:x}").parse().unwrap(),
    };
    let packet = Packet { source, from_node: false, from_pod_interface: false, to, to_node: false };
    let walk = Walk::new(memory.elements(family), false, DetectLocal::Nothing).remembering(memory.clients(family));
    let trace = walk.trace(&packet);
    let Fate::Balanced(targets) = trace.fate else { return };
    let backend = targets[usize::from(client) % targets.len()].backend;
    for step in trace.steps {
        if let Says::Remembers(map) | Says::Remembered(map) = step.says {
            assert!(memory.remember(family, map, source, backend), "{map} is there");
        }
    }
}

async fn live(steps: Vec<Step>, limit: usize) -> Result<(), TestCaseError> {
    let memory = Arc::new(Mutex::new(Memory::with_limit(limit)));
    let broken = Arc::new(Mutex::new(None));
    let mut objects = Objects::default();
    let mut flags = SETTINGS[0];
    let mut agent = Agent::start(&memory, &broken, &objects, false, flags).await;
    for step in steps {
        match step {
            Step::Seen(change) => agent.send(vec![objects.change(change)]).await,
            Step::Missed(changes, backwards) => {
                changes.into_iter().for_each(|change| drop(objects.change(change)));
                agent.send(objects.listings(backwards)).await;
            }
            Step::Connect(service, client) => targets(service).for_each(|to| connect(&mut memory.lock().unwrap(), to, client)),
            Step::Pause => tokio::time::sleep(Duration::from_millis(4)).await,
            Step::Restart(flushed, settings) => {
                agent.killed.store(true, Ordering::SeqCst);
                if let Some(v4) = flushed {
                    memory.lock().unwrap().flush(if v4 { Family::V4 } else { Family::V6 });
                }
                flags = SETTINGS[settings];
                agent = Agent::start(&memory, &broken, &objects, flushed.is_some(), flags).await;
            }
        }
    }
    let fresh = Arc::new(Mutex::new(Memory::default()));
    let mut beginner = Agent::start(&fresh, &broken, &objects, false, flags).await;
    beginner.ready.wait_for(|ready| *ready).await.unwrap();
    let began = Instant::now();
    let taken_in = || agent.updates.capacity() == agent.updates.max_capacity();
    let wanted = held(&fresh, flags, &objects);
    prop_assert!(wanted.is_ok(), "{:?}", wanted);
    while !(taken_in() && held(&memory, flags, &objects) == wanted) && began.elapsed().as_secs() < 10 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    prop_assert_eq!(held(&memory, flags, &objects), wanted);
    prop_assert_eq!(broken.lock().unwrap().take(), None);
    Ok(())
}

fn run(steps: Vec<Step>, limit: usize) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(live(steps, limit))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn every_history_of_objects_ends_as_a_fresh_start_and_no_moment_of_it_is_broken(
        steps in any_history(false, 40),
        limit in prop_oneof![Just(0usize), 10usize..60],
    ) {
        run(steps, limit)?;
    }
}

proptest! {
    // Each may have to wait for its slowest endpoint.
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn so_does_every_history_with_services_that_start_slowly(steps in any_history(true, 40)) {
        run(steps, 0)?;
    }
}
