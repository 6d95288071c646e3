//! The agent's task between a scripted source and an in-memory kernel: what happens in which order.

mod kernel;
mod last_state;
mod node;
mod order;
mod times;

use super::data_path::DataPath;
use super::follow::{Follow, Reports};
use super::last_state::LastState;
use super::layouts::layout;
use super::metrics::ProxyMetrics;
use super::stale_flows::StaleFlows;
use super::watchdog::GuardedSwitch;
use crate::admin::{ServiceHealth, Status};
use crate::config::{Config, RunArgs, Surroundings, load};
use crate::dns::answer::{Code, Question, Verdict, answer, answer_as};
use crate::dns::chain::{Chain as DnsChain, Plan};
use crate::dns::name::DomainName;
use crate::dns::pulse::Pulses;
use crate::dns::records::Records;
use crate::dns::shape::Shape;
use crate::model::{
    Endpoint, Family, Kind, Node, ObjectKey, Protocol, Service, ServiceKind, ServicePort, Slice, SlicePort, Update,
};
use crate::nft::{Batch, Committer, Kernel, Layout, Memory, NftError, Reading, Usable};
use crate::notices::{Notice, Notices};
use crate::proxy::{Chain, Dest, Element};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// An in-memory kernel that notes, at each commit, which of the watched names were served at that moment.
struct Watched {
    memory: Arc<Mutex<Memory>>,
    records: Arc<Records>,
    served: Arc<Mutex<Vec<(Family, bool)>>>,
    /// Commits wait until this sender is dropped.
    gate: Option<std::sync::mpsc::Receiver<()>>,
    /// Batches with this element are refused.
    refused: Arc<Mutex<Option<Element>>>,
    /// This family's table cannot be had.
    lacks: Arc<Mutex<Option<Family>>>,
}

impl Kernel for Watched {
    fn read(&mut self, layout: &Layout) -> Result<Reading, NftError> {
        if *self.lacks.lock().unwrap() == Some(layout.family) {
            return Err(NftError::Rejected(vec!["the kernel lacks it".into()]));
        }
        self.memory.lock().unwrap().read(layout)
    }

    fn commit(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        self.served.lock().unwrap().push((layout.family, is_served(&self.records, "web.shop.svc.cluster.local")));
        self.would_take(layout, batch)?;
        self.memory.lock().unwrap().commit(layout, batch)
    }

    fn would_take(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError> {
        let touches = |element: Element| batch.elements.add.contains(&element) || batch.elements.remove.contains(&element);
        if self.refused.lock().unwrap().is_some_and(touches) {
            return Err(NftError::Rejected(vec!["the test says so".into()]));
        }
        self.memory.lock().unwrap().would_take(layout, batch)
    }

    fn forget(&mut self, layout: &Layout, usable: &[Usable]) -> Result<usize, NftError> {
        self.memory.lock().unwrap().forget(layout, usable)
    }

    fn batch_limit(&self) -> usize {
        usize::MAX
    }
}

fn code(records: &Records, name: &str) -> (Code, usize) {
    let name = DomainName::parse(name).unwrap();
    match answer(records, Question { name: name.as_wire(), rtype: 1 }, 0) {
        Verdict::Answer(answer) => (answer.code, answer.answers.len()),
        other => panic!("{other:?}"),
    }
}

/// The same, shown in this shape.
fn code_as(records: &Records, shape: &Shape, name: &str) -> (Code, usize) {
    let name = DomainName::parse(name).unwrap();
    match answer_as(records, shape, Question { name: name.as_wire(), rtype: 1 }, None) {
        Verdict::Answer(answer) => (answer.code, answer.answers.len()),
        other => panic!("{other:?}"),
    }
}

fn is_served(records: &Records, name: &str) -> bool {
    code(records, name).1 > 0
}

struct Agent {
    updates: mpsc::Sender<Update>,
    ready: watch::Receiver<bool>,
    records: Arc<Records>,
    memory: Arc<Mutex<Memory>>,
    served: Arc<Mutex<Vec<(Family, bool)>>>,
    status: Status,
    /// How DNS would answer, which asks for what it needs to know.
    chain: DnsChain,
    refused: Arc<Mutex<Option<Element>>>,
    lacks: Arc<Mutex<Option<Family>>>,
    told: tokio::sync::Mutex<mpsc::Receiver<Notice>>,
    task: JoinHandle<Option<GuardedSwitch>>,
    stop: watch::Sender<()>,
    proxy_metrics: prometheus::Registry,
    dns_metrics: prometheus::Registry,
    service_health: ServiceHealth,
}

fn start(gate: Option<std::sync::mpsc::Receiver<()>>) -> Agent {
    start_with(gate, None, None)
}

fn start_with(gate: Option<std::sync::mpsc::Receiver<()>>, state: Option<&Path>, lacks: Option<Family>) -> Agent {
    let records = Arc::new(Records::new("cluster.local", 30));
    let memory = Arc::new(Mutex::new(Memory::default()));
    let served = Arc::new(Mutex::new(Vec::new()));
    let refused = Arc::new(Mutex::new(None));
    let lacks = Arc::new(Mutex::new(lacks));
    let kernel = Watched {
        memory: memory.clone(),
        records: records.clone(),
        served: served.clone(),
        gate,
        refused: refused.clone(),
        lacks: lacks.clone(),
    };
    let (notices, told) = Notices::sent();
    let Wired { updates, ready, status, chain, task, stop, proxy_metrics, dns_metrics, service_health } =
        wire(kernel, records.clone(), notices, state, &[]);
    Agent {
        updates,
        ready,
        records,
        memory,
        served,
        status,
        chain,
        refused,
        lacks,
        told: told.into(),
        task,
        stop,
        proxy_metrics,
        dns_metrics,
        service_health,
    }
}

/// The ends of an agent's task.
pub(super) struct Wired {
    pub updates: mpsc::Sender<Update>,
    pub ready: watch::Receiver<bool>,
    pub status: Status,
    pub chain: DnsChain,
    pub task: JoinHandle<Option<GuardedSwitch>>,
    /// Ends the task when it is dropped.
    pub stop: watch::Sender<()>,
    pub proxy_metrics: prometheus::Registry,
    pub dns_metrics: prometheus::Registry,
    pub service_health: ServiceHealth,
}

/// The configuration with these settings.
pub(super) fn config(flags: &[(&str, &str)]) -> Config {
    let surroundings = Surroundings { host_name: Some("node-1".into()), ..Surroundings::default() };
    load(&RunArgs::of(flags), &surroundings).unwrap().0
}

/// Starts the agent's task on this kernel.
pub(super) fn wire(
    kernel: impl Kernel + Send + 'static,
    records: Arc<Records>,
    notices: Notices,
    state: Option<&Path>,
    flags: &[(&str, &str)],
) -> Wired {
    let config = config(flags);
    let layouts = Family::BOTH.map(|family| layout(&config.proxy, None, family));
    let proxy_metrics = prometheus::Registry::new();
    let metrics = ProxyMetrics::new(&proxy_metrics).unwrap();
    let service_health = ServiceHealth::new();
    let data_path = DataPath::start(Committer::new(kernel, layouts), metrics, None).unwrap();
    let status = Status::new(&config);
    let (ready_sender, ready) = watch::channel(false);
    let dns_registry = prometheus::Registry::new();
    let dns_metrics = Arc::new(crate::dns::metrics::Metrics::new(&dns_registry).unwrap());
    let chain = DnsChain::new(Plan::nothing());
    let (updates, received) = mpsc::channel(64);
    let (stop, stopped) = watch::channel(());
    let follow = Follow::new(
        &config,
        Some(data_path),
        Some((records, dns_metrics, watch::channel(Some(Pulses::default())).1, chain.clone())),
        Reports {
            home: watch::channel(false).0,
            status: status.clone(),
            ready: ready_sender,
            service_health: service_health.clone(),
            localhost_ports: None,
            stale_flows: StaleFlows::default(),
            last_state: state.map(|folder| LastState::open(folder, status.clone(), notices.clone())),
            notices,
        },
        watch::channel(()).1,
        mpsc::channel(1).1,
    );
    let task = tokio::spawn(follow.run(received, stopped));
    Wired { updates, ready, status, chain, task, stop, proxy_metrics, dns_metrics: dns_registry, service_health }
}

impl Agent {
    async fn send(&self, updates: impl IntoIterator<Item = Update>) {
        for update in updates {
            self.updates.send(update).await.unwrap();
        }
    }

    async fn end(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }

    /// Waits for a state of the world that other threads bring about.
    async fn until(&self, what: &str, holds: impl Fn(&Agent) -> bool) {
        let patience = std::time::Instant::now();
        while !holds(self) {
            assert!(patience.elapsed().as_secs() < 20, "still not: {what}");
            tokio::task::yield_now().await;
        }
    }

    /// A counter of the service proxy.
    fn counted(&self, name: &str, family: Family) -> u64 {
        self.metric(name, family).get_counter().get_value() as u64
    }

    fn metric(&self, name: &str, family: Family) -> prometheus::proto::Metric {
        let families = self.proxy_metrics.gather();
        let metric = families.iter().find(|metric| metric.name() == name).expect("there is such a metric");
        let of_family = |one: &&prometheus::proto::Metric| one.get_label()[0].value() == family.to_string();
        metric.get_metric().iter().find(of_family).expect("it has the family").clone()
    }

    fn holds(&self, element: Element) -> bool {
        self.holds_in(Family::V4, element)
    }

    fn holds_in(&self, family: Family, element: Element) -> bool {
        self.memory.lock().unwrap().elements(family).contains(&element)
    }
}

fn listing(kind: Kind, updates: Vec<Update>) -> Vec<Update> {
    [vec![Update::ListBegin(kind)], updates, vec![Update::ListEnd(kind)]].concat()
}

fn node() -> Vec<Update> {
    let node = Node { addresses: vec!["192.0.2.10".parse().unwrap()], eligible: true, ..Node::default() };
    [listing(Kind::Node, vec![Update::Node(node)]), listing(Kind::ServiceCidr, vec![])].concat()
}

fn namespaces() -> Vec<Update> {
    listing(Kind::Namespace, vec![Update::Namespace("shop".into(), None)])
}

fn web() -> Update {
    Update::Service(Box::new(Service {
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 30080 }],
        ..Service::of_kind(ObjectKey::new("shop", "web"), ServiceKind::ClusterIp)
    }))
}

fn slice() -> Update {
    let address: IpAddr = "10.244.0.2".parse().unwrap();
    let endpoint = Endpoint::at(address);
    Update::Slice(Box::new(Slice {
        key: ObjectKey::new("shop", "web-1"),
        service: ObjectKey::new("shop", "web"),
        family: Family::V4,
        ports: Box::new([SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }]),
        endpoints: [endpoint].into(),
        headless: false,
        weight: 1,
        triggered: None,
        details: None,
    }))
}

fn routed() -> Element {
    let dest = Dest { address: "10.96.0.1".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
    Element::Service(dest, Chain::Pick(1))
}
