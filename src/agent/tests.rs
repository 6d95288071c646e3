//! The agent's task between a scripted source and an in-memory kernel: what happens in which order.

use super::data_path::DataPath;
use super::follow::{Follow, Reports};
use super::last_state::LastState;
use super::layouts::layout;
use super::metrics::ProxyMetrics;
use super::stale_flows::StaleFlows;
use super::watchdog::GuardedSwitch;
use crate::admin::{ServiceHealth, Status};
use crate::config::{Config, RunArgs, Surroundings, load};
use crate::dns::answer::{Code, Question, Verdict, answer};
use crate::dns::name::DomainName;
use crate::dns::pulse::Pulses;
use crate::dns::records::Records;
use crate::model::{
    Demand, Endpoint, Family, Kind, Node, ObjectKey, Policy, Protocol, Service, ServiceKind, ServiceOptions, ServicePort, Slice,
    SlicePort, Update,
};
use crate::nft::{Batch, Committer, Kernel, Layout, Memory, NftError, Reading, Usable};
use crate::notices::{
    ADDRESS_CONFLICT, KERNEL_REFUSED, LAST_STATE_REFUSED, LAST_STATE_SERVED, Notice, Notices, Subject, TABLE_OUT_OF_DATE,
};
use crate::proxy::{Chain, Element};
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
    let Wired { updates, ready, status, task, stop, proxy_metrics, dns_metrics, service_health } =
        wire(kernel, records.clone(), notices, state, &[]);
    Agent {
        updates,
        ready,
        records,
        memory,
        served,
        status,
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
    let (updates, received) = mpsc::channel(64);
    let (stop, stopped) = watch::channel(());
    let follow = Follow::new(
        &config,
        Some(data_path),
        Some((records, dns_metrics, watch::channel(Some(Pulses::default())).1, watch::channel(Demand::default()).1)),
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
    Wired { updates, ready, status, task, stop, proxy_metrics, dns_metrics: dns_registry, service_health }
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
        self.memory.lock().unwrap().elements(Family::V4).contains(&element)
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
    listing(Kind::Namespace, vec![Update::Namespace("shop".into())])
}

fn web() -> Update {
    Update::Service(Box::new(Service {
        key: ObjectKey::new("shop", "web"),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 30080 }],
        internal_policy: Policy::Cluster,
        external_policy: Policy::Cluster,
        affinity_seconds: None,
        health_check_node_port: 0,
        proxied: true,
        created: 0,
        options: ServiceOptions::default(),
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
        endpoints: Box::new([endpoint]),
        headless: false,
        weight: 1,
        triggered: None,
    }))
}

fn routed() -> Element {
    let dest = crate::proxy::Dest { address: "10.96.0.1".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
    Element::Service(dest, Chain::Pick(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_programmed_or_published_before_every_first_listing() {
    let agent = start(None);
    agent.send(listing(Kind::Service, vec![web()])).await;
    agent.send(namespaces()).await;
    agent.send(node()).await;
    agent.send([Update::ListBegin(Kind::Slice), slice()]).await;
    agent.until("all updates are taken in", |agent| agent.updates.capacity() == agent.updates.max_capacity()).await;
    assert!(agent.served.lock().unwrap().is_empty(), "no commit yet");
    assert_eq!(code(&agent.records, "web.shop.svc.cluster.local").0, Code::ServFail);
    assert!(!*agent.ready.borrow());
    agent.send([Update::ListEnd(Kind::Slice)]).await;
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert!(agent.holds(routed()));
    assert!(is_served(&agent.records, "web.shop.svc.cluster.local"));
    assert!(agent.status.pending().iter().all(|pending| pending.contains("DNS")), "{:?}", agent.status.pending());
}

#[tokio::test(flavor = "multi_thread")]
async fn services_do_not_wait_for_namespaces_but_missing_names_do() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), node()] {
        agent.send(updates).await;
    }
    agent.until("the rules are there", |agent| agent.holds(routed())).await;
    agent.until("the name is served", |agent| is_served(&agent.records, "web.shop.svc.cluster.local")).await;
    assert_eq!(code(&agent.records, "other.shop.svc.cluster.local").0, Code::ServFail);
    assert!(!*agent.ready.borrow());
    agent.send(namespaces()).await;
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert_eq!(code(&agent.records, "other.shop.svc.cluster.local").0, Code::NxDomain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_timed_until_its_names_are_served_unless_it_is_older_than_the_agent() {
    let agent = start(None);
    let triggered = |at, address: &str| match slice() {
        Update::Slice(slice) => {
            let endpoints = Box::new([Endpoint::at(address.parse().unwrap())]);
            Update::Slice(Box::new(Slice { triggered: Some(at), endpoints, ..*slice }))
        }
        other => other,
    };
    let counted = |agent: &Agent| {
        let families = agent.dns_metrics.gather();
        let timed = families.iter().filter(|family| family.name() == "coredns_kubernetes_dns_programming_duration_seconds");
        let metrics: Vec<_> = timed.flat_map(|family| family.get_metric()).collect();
        metrics
            .iter()
            .map(|metric| (metric.get_label()[0].value().to_string(), metric.get_histogram().get_sample_count()))
            .collect::<Vec<_>>()
    };
    let old = triggered(std::time::SystemTime::UNIX_EPOCH, "10.244.0.2");
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![old]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert_eq!(counted(&agent), Vec::<(String, u64)>::new());
    agent.send([triggered(std::time::SystemTime::now(), "10.244.0.3")]).await;
    agent.until("the change is timed", |agent| counted(agent) == [("cluster_ip".to_string(), 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_appears_after_its_rules_and_disappears_before_them() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![]), listing(Kind::Slice, vec![]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    agent.served.lock().unwrap().clear();

    agent.send([web(), slice()]).await;
    agent.until("the name is served", |agent| is_served(&agent.records, "web.shop.svc.cluster.local")).await;
    agent.until("the rules are there", |agent| agent.holds(routed())).await;
    let first = agent.served.lock().unwrap().first().copied();
    assert_eq!(first, Some((Family::V4, false)), "the name was not served yet when its rules were committed");

    agent.served.lock().unwrap().clear();
    agent.send([Update::ServiceGone(ObjectKey::new("shop", "web"))]).await;
    agent.until("the rules are gone", |agent| !agent.holds(routed())).await;
    assert_eq!(agent.served.lock().unwrap().first(), Some(&(Family::V4, false)), "the name was gone when its rules were removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_kernel_does_not_freeze_names() {
    let (gate, waits) = std::sync::mpsc::channel();
    let agent = start(Some(waits));
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.until("the name is served all the same", |agent| is_served(&agent.records, "web.shop.svc.cluster.local")).await;
    assert!(!agent.holds(routed()) && !*agent.ready.borrow());
    drop(gate);
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert!(agent.holds(routed()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_counts_though_more_has_gathered_meanwhile() {
    let (gate, waits) = std::sync::mpsc::channel();
    let agent = start(Some(waits));
    for updates in [listing(Kind::Service, vec![]), listing(Kind::Slice, vec![]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.until("the first commit is asked for", |agent| agent.updates.capacity() == agent.updates.max_capacity()).await;
    agent.send([web(), slice()]).await;
    agent.until("more has gathered", |agent| agent.updates.capacity() == agent.updates.max_capacity()).await;
    Family::BOTH.iter().for_each(|_| gate.send(()).unwrap());
    let waits_for_commit = |agent: &Agent| agent.status.pending().iter().any(|pending| pending.contains("commit"));
    agent.until("the first commit counts", |agent| !waits_for_commit(agent)).await;
    assert!(!agent.holds(routed()), "the second commit is still under way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_in_which_nothing_changes_does_not_look_stuck() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![]), listing(Kind::Slice, vec![]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    let time = |agent: &Agent, what: &str, family| {
        agent.metric(&format!("kubeproxy_sync_proxy_rules_last_{what}"), family).get_gauge().get_value()
    };
    let first = time(&agent, "queued_timestamp_seconds", Family::V6);
    agent.send([web(), slice()]).await;
    agent.until("another commit is asked for", |agent| time(agent, "queued_timestamp_seconds", Family::V6) > first).await;
    for family in Family::BOTH {
        let is_done = |agent: &Agent| time(agent, "timestamp_seconds", family) >= time(agent, "queued_timestamp_seconds", family);
        agent.until("the last commit is later than the last request for one", is_done).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_listing_after_an_outage_does_not_mention_is_removed() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    agent.send(listing(Kind::Service, vec![])).await;
    agent.until("the rules are gone", |agent| !agent.holds(routed())).await;
    assert_eq!(code(&agent.records, "web.shop.svc.cluster.local"), (Code::NxDomain, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_refuses_is_told_of_its_service_and_the_rest_is_programmed() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    *agent.refused.lock().unwrap() = Some(routed());
    let Update::Service(mut web) = web() else { panic!("it is a service") };
    web.external_ips = vec!["198.51.100.1".parse().unwrap()];
    agent.send([Update::Service(web)]).await;
    let external = crate::proxy::Dest { address: "198.51.100.1".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
    agent.until("its other address is there", |agent| agent.holds(Element::Service(external, Chain::Outside))).await;
    let notice = agent.told.lock().await.recv().await.unwrap();
    assert_eq!((notice.reason, &notice.about), (&KERNEL_REFUSED, &Subject::Service(ObjectKey::new("shop", "web"))));
    assert!(notice.note.contains("10.96.0.1:80/tcp") && notice.note.contains("the test says so"), "{}", notice.note);
    assert!(!agent.holds(routed()));
}

const SYNC_FAILURES: &str = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total";
const CLEANUP_FAILURES: &str = "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total";

#[tokio::test(flavor = "multi_thread")]
async fn a_family_that_the_kernel_lacks_is_told_and_the_other_one_is_served() {
    let agent = start_with(None, None, Some(Family::V6));
    let Update::Service(mut web) = web() else { panic!("it is a service") };
    web.health_check_node_port = 32000;
    let key = web.key.clone();
    for updates in [listing(Kind::Service, vec![Update::Service(web)]), listing(Kind::Slice, vec![slice()]), namespaces(), node()]
    {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert!(agent.holds(routed()) && is_served(&agent.records, "web.shop.svc.cluster.local"));
    assert!(agent.service_health.check(&key).is_some(), "load balancers are told");
    let waits_for_commit = |agent: &Agent| agent.status.pending().iter().any(|pending| pending.contains("commit"));
    assert!(!waits_for_commit(&agent), "{:?}", agent.status.pending());
    assert_eq!(agent.status.remarks().len(), 1);
    assert!(agent.status.remarks()[0].contains("IPv6") && agent.status.remarks()[0].contains("the kernel lacks it"));
    let notice = agent.told.lock().await.recv().await.unwrap();
    assert_eq!((notice.reason, &notice.about), (&TABLE_OUT_OF_DATE, &Subject::Node));
    let said = ["the IPv6 table of node-1", "the kernel lacks it", "IPv4 is served"];
    assert!(said.iter().all(|part| notice.note.contains(part)), "{}", notice.note);
    assert!(agent.counted(SYNC_FAILURES, Family::V6) >= 2);
    assert_eq!(agent.counted(SYNC_FAILURES, Family::V4), 0);
    // What changes later is not held up by it: names come with the commit, and not by the deadline for a kernel that hangs.
    agent.send([Update::ServiceGone(key.clone())]).await;
    agent.until("the rules are gone", |agent| !agent.holds(routed())).await;
    agent.until("the health check is gone", |agent| agent.service_health.check(&key).is_none()).await;
    *agent.lacks.lock().unwrap() = None;
    agent.until("the family is back", |agent| agent.status.remarks().is_empty()).await;
    assert!(agent.told.lock().await.try_recv().is_err(), "it was told once");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_family_an_agent_is_not_ready() {
    let agent = start_with(None, None, Some(Family::V6));
    // The other one is refused as a whole: not even its skeleton can be made.
    agent.memory.lock().unwrap().refuses_rebuild = true;
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.until("both have failed twice", |agent| agent.status.remarks().len() == 2).await;
    assert!(!*agent.ready.borrow());
    assert_eq!(agent.status.pending().iter().filter(|pending| pending.contains("commit")).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_the_kernel_refuses_is_counted_as_a_failed_clean_up() {
    let agent = start(None);
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert_eq!(agent.counted(CLEANUP_FAILURES, Family::V4), 0);
    *agent.refused.lock().unwrap() = Some(routed());
    agent.send([Update::ServiceGone(ObjectKey::new("shop", "web"))]).await;
    agent.until("it is counted", |agent| agent.counted(CLEANUP_FAILURES, Family::V4) == 1).await;
    assert_eq!(agent.counted(CLEANUP_FAILURES, Family::V6), 0);
    assert!(agent.holds(routed()));
    let notice = agent.told.lock().await.recv().await.unwrap();
    assert!(notice.note.contains("the removal of 10.96.0.1:80/tcp"), "{}", notice.note);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loser_of_an_address_is_told_who_has_it() {
    let agent = start(None);
    let Update::Service(mut thief) = web() else { panic!("it is a service") };
    (thief.key, thief.created) = (ObjectKey::new("shop", "thief"), 7);
    let services = vec![web(), Update::Service(thief)];
    for updates in [listing(Kind::Service, services), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    let notice = agent.told.lock().await.recv().await.unwrap();
    assert_eq!((notice.reason, &notice.about), (&ADDRESS_CONFLICT, &Subject::Service(ObjectKey::new("shop", "thief"))));
    assert!(notice.note.contains("10.96.0.1:80/tcp") && notice.note.contains("shop/web"), "{}", notice.note);
    assert!(agent.holds(routed()));
}

/// A folder for the last known state, which goes with this value.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("waypost-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_knew_is_served_by_the_next_one_until_the_api_server_is_there() {
    let folder = Folder::new("last-state");
    let agent = start_with(None, Some(&folder.0), None);
    for updates in [listing(Kind::Service, vec![web()]), listing(Kind::Slice, vec![slice()]), namespaces(), node()] {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert_eq!(agent.status.last_state_age(), None);
    agent.end().await;

    let agent = start_with(None, Some(&folder.0), None);
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert!(agent.holds(routed()) && is_served(&agent.records, "web.shop.svc.cluster.local"));
    assert_eq!(code(&agent.records, "other.shop.svc.cluster.local").0, Code::NxDomain, "namespaces are remembered too");
    assert!(agent.status.last_state_age().is_some() && agent.status.pending().iter().all(|pending| pending.contains("DNS")));
    assert_eq!(agent.told.lock().await.recv().await.unwrap().reason, &LAST_STATE_SERVED);

    for updates in [listing(Kind::Slice, vec![]), namespaces(), node()] {
        agent.send(updates).await;
    }
    assert!(agent.status.last_state_age().is_some(), "services are still to come");
    agent.send(listing(Kind::Service, vec![])).await;
    agent.until("the remembered state is gone", |agent| !agent.holds(routed())).await;
    assert_eq!(agent.status.last_state_age(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_is_reported_and_not_served() {
    let folder = Folder::new("damaged-state");
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::write(folder.0.join("snapshot"), "WAYPOST\0 and nonsense").unwrap();
    let agent = start_with(None, Some(&folder.0), None);
    let notice = agent.told.lock().await.recv().await.unwrap();
    assert_eq!((notice.reason, &notice.about), (&LAST_STATE_REFUSED, &Subject::Node));
    assert!(notice.note.contains("snapshot") && notice.note.contains("version"), "{}", notice.note);
    assert!(!*agent.ready.borrow());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newly_ready_endpoint_gets_its_share_in_steps() {
    let agent = start(None);
    let Update::Service(mut slow) = web() else { panic!("it is a service") };
    slow.options.slow_start = Some(3);
    for updates in
        [listing(Kind::Service, vec![Update::Service(slow)]), listing(Kind::Slice, vec![slice()]), namespaces(), node()]
    {
        agent.send(updates).await;
    }
    agent.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert!(agent.holds(routed()), "at the agent's start everything counts as warmed up");
    let Update::Slice(mut more) = slice() else { panic!("it is a slice") };
    more.endpoints = ["10.244.0.2", "10.244.0.3"].map(|address| Endpoint::at(address.parse().unwrap())).into();
    agent.send([Update::Slice(more)]).await;
    let dest = crate::proxy::Dest { address: "10.96.0.1".parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
    agent.until("both have their share", |agent| agent.holds(Element::Service(dest, Chain::Pick(2)))).await;
    let added: Vec<Element> = agent.memory.lock().unwrap().commits.iter().flat_map(|batch| batch.elements.add.clone()).collect();
    assert!(added.contains(&Element::Service(dest, Chain::Pick(11))), "it began with one slot of eleven");
    let between = (12..20).any(|slots| added.contains(&Element::Service(dest, Chain::Pick(slots))));
    assert!(between, "and grew from there");
}
