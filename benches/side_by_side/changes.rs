//! What follows a change of an object: how long until the kernel has it, until a new service answers, and what many changes cost.

use super::kernel::Notices;
use super::peers::{Peers, Server, Waypost};
use super::report::{Row, Unit, percentile};
use super::{Bench, NAMESPACE, ROUNDS};
use crate::scale;
use crate::stage::Stage;
use kube::Api;
use kube::Client;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub const PEERS: &str = "kube-proxy + CoreDNS";
/// At most so many changes one after the other, and no new one after this long: kube-proxy takes seconds for each.
const CHANGES: usize = 200;
const ROUND: Duration = Duration::from_secs(5);
/// kube-proxy takes a minute and more for its largest tables.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a connection is waited for before it is tried anew: packets to nowhere are dropped.
const ATTEMPT: Duration = Duration::from_millis(1);
/// The pod that stands behind new services, and its port.
const SERVER: &str = "server";
const PORT: u16 = 8080;

/// A change of a slice: what is patched, with an address that nothing else has.
#[derive(Clone, Copy)]
pub enum Kind {
    /// The address of the first endpoint.
    Replaced,
    /// One endpoint more.
    Added,
}

/// Every change has an address of its own in this network, by which it is recognised in the kernel.
pub fn address_of_change(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 192, 0, 0)) + number)
}

/// Whether an address is one of those.
pub fn is_of_a_change(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 10 && second >= 192
}

/// Both programs on nodes of their own; the peers are stopped while this agent is measured.
pub struct Pair<'a> {
    pub ours: (Stage<'a>, Waypost),
    pub theirs: (Stage<'a>, Peers),
}

impl<'a> Pair<'a> {
    pub fn start(bench: &'a Bench, purpose: &str) -> Pair<'a> {
        let stage = |whose: &str| bench.stage(&format!("{purpose}-{whose}"));
        let (ours, theirs) = (stage("waypost"), stage("peers"));
        let (waypost, peers) = (Waypost::start(&ours, None).0, Peers::start(&theirs).0);
        Pair { ours: (ours, waypost), theirs: (theirs, peers) }
    }

    /// Measures one after the other, as often as there are rounds.
    pub fn in_turns<T>(&mut self, rounds: usize, mut measure: impl FnMut(&mut Stage<'a>, &mut dyn Server) -> T) -> [Vec<T>; 2] {
        let mut values = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            self.theirs.1.freeze(true);
            values[0].push(measure(&mut self.ours.0, &mut self.ours.1));
            self.theirs.1.freeze(false);
            values[1].push(measure(&mut self.theirs.0, &mut self.theirs.1));
        }
        values
    }
}

/// Endpoints that change, one at a time.
pub fn endpoints(bench: &Bench, size: u32, pair: &mut Pair<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, names, what) in [
        (Kind::Replaced, ["endpoint-p50", "endpoint-p99"], "one endpoint replaced: API write → kernel"),
        (Kind::Added, ["endpoint-count-p50", "endpoint-count-p99"], "one endpoint more: API write → kernel"),
    ] {
        let [ours, theirs] = pair.in_turns(ROUNDS, |stage, _| one_by_one(bench, stage, kind, size));
        for (name, share) in names.into_iter().zip([0.5, 0.99]) {
            let of = |rounds: &[Vec<f64>]| rounds.iter().map(|round| percentile(round, share)).collect();
            let note = format!(
                "{} changes here, {} there",
                ours.iter().map(Vec::len).sum::<usize>(),
                theirs.iter().map(Vec::len).sum::<usize>()
            );
            let row = Row::new(name, what, size, Unit::Seconds).beside("kube-proxy", [of(&ours), of(&theirs)]);
            rows.push(row.goal((share > 0.9).then_some(0.010), None).note(note));
        }
    }
    rows
}

fn one_by_one(bench: &Bench, stage: &Stage<'_>, kind: Kind, size: u32) -> Vec<f64> {
    let mut notices = Notices::listen(stage.node.namespace());
    catch_up(bench, &mut notices, size);
    let began = Instant::now();
    let mut took = Vec::new();
    while took.len() < CHANGES && (took.is_empty() || began.elapsed() < ROUND) {
        took.push(timed_change(bench, &mut notices, kind, size));
    }
    took
}

/// What a program missed while it was stopped, or while another one was measured, is not its slowness.
pub fn catch_up(bench: &Bench, notices: &mut Notices, size: u32) {
    timed_change(bench, notices, Kind::Replaced, size);
}

fn timed_change(bench: &Bench, notices: &mut Notices, kind: Kind, size: u32) -> f64 {
    let (number, address) = bench.next_change();
    let sent = Instant::now();
    let written = bench.runtime().spawn(change(bench.cluster.client(), format!("many-{}", number % size), kind, address));
    let seen = notices.await_addresses(vec![address], sent + PATIENCE);
    bench.runtime().block_on(written).expect("it does not panic");
    let seen = seen.get(&address).unwrap_or_else(|| panic!("the change has not come within {PATIENCE:?}"));
    seen.duration_since(sent).as_secs_f64()
}

pub async fn change(client: Client, slice: String, kind: Kind, address: Ipv4Addr) {
    let patch = match kind {
        Kind::Replaced => json!([{ "op": "replace", "path": "/endpoints/0/addresses/0", "value": address }]),
        Kind::Added => {
            json!([{ "op": "add", "path": "/endpoints/-", "value": { "addresses": [address], "conditions": { "ready": true } } }])
        }
    };
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{slice}");
    let request = http::Request::patch(path).header("Content-Type", "application/json-patch+json");
    let request = request.body(patch.to_string().into_bytes()).expect("a valid request");
    client.request_text(request).await.expect("the API server takes the change");
}

/// Services that come, until a pod resolves their names and reaches them.
pub fn services(bench: &Bench, size: u32, pair: &mut Pair<'_>) -> Row {
    for stage in [&mut pair.ours.0, &mut pair.theirs.0] {
        stage.add_pod("server", SERVER);
    }
    let mut all = [0, 0];
    let mut written = Vec::new();
    let [ours, theirs] = pair.in_turns(ROUNDS, |stage, server| {
        let mut notices = Notices::listen(stage.node.namespace());
        catch_up(bench, &mut notices, size);
        drop(notices);
        let began = Instant::now();
        let mut took = Vec::new();
        while took.len() < CHANGES / 4 && (took.is_empty() || began.elapsed() < ROUND) {
            let (write, everything) = timed_service(bench, stage, server.dns_address());
            written.push(write);
            took.push(everything);
        }
        all[usize::from(server.dns_address() != crate::stage::DNS_ADDRESS)] += took.len();
        percentile(&took, 0.99)
    });
    let what = "one service added: API write → resolvable and reachable, p99";
    let [half, most] = [0.5, 0.99].map(|share| percentile(&written, share) * 1e3);
    let note = format!(
        "{} services here, {} there; the API server takes {half:.1} ms (p50) and {most:.1} ms (p99) to answer the write itself",
        all[0], all[1]
    );
    Row::new("service-p99", what, size, Unit::Seconds).beside(PEERS, [ours, theirs]).goal(0.015, None).note(note)
}

/// How long the API server took for the write, and how long it took until a pod reached the service; in seconds, both from the
/// beginning of the write.
fn timed_service(bench: &Bench, stage: &Stage<'_>, dns: &str) -> (f64, f64) {
    let name = format!("new-{}", bench.next_change().0);
    let endpoint = stage.pod_address(SERVER);
    let slice = json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [endpoint], "conditions": { "ready": true } }],
        "ports": [{ "name": "http", "port": PORT, "protocol": "TCP" }],
    });
    let service = json!({
        "metadata": { "name": name },
        "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": PORT }] },
    });
    let client = bench.cluster.client();
    let slices: Api<k8s_openapi::api::discovery::v1::EndpointSlice> = Api::namespaced(client.clone(), &stage.name);
    let services: Api<k8s_openapi::api::core::v1::Service> = Api::namespaced(client, &stage.name);
    let object = |value: Value| serde_json::from_value(value).expect("an object");
    bench.runtime().block_on(slices.create(&PostParams::default(), &object(slice))).expect("the API server takes the slice");
    let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(service).expect("an object");
    let sent = Instant::now();
    let made =
        bench.runtime().block_on(services.create(&PostParams::default(), &service)).expect("the API server takes the service");
    let written = sent.elapsed().as_secs_f64();
    let address: IpAddr =
        made.spec.and_then(|spec| spec.cluster_ip).and_then(|address| address.parse().ok()).expect("an address");
    let full_name = stage.dns_name(&name);
    let took = stage.client.namespace().run(|| {
        let resolver = super::asker::Asker::new(dns);
        until(sent, || resolver.resolves(&full_name, address));
        until(sent, || TcpStream::connect_timeout(&SocketAddr::new(address, 80), ATTEMPT).is_ok());
        sent.elapsed().as_secs_f64()
    });
    bench.runtime().block_on(async {
        let now = DeleteParams::default();
        let _ = tokio::join!(services.delete(&name, &now), slices.delete(&name, &now));
    });
    (written, took.expect("the pod's namespace is there"))
}

fn until(sent: Instant, mut done: impl FnMut() -> bool) {
    while !done() {
        assert!(sent.elapsed() < PATIENCE, "the new service does not answer within {PATIENCE:?}");
    }
}

/// One endpoint of a service that has thousands.
pub fn wide(bench: &Bench, size: u32, pair: &mut Pair<'_>) -> Row {
    let endpoints = bench.runtime().block_on(scale::make_wide(bench.cluster.client(), NAMESPACE));
    let [ours, theirs] = pair.in_turns(ROUNDS, |stage, _| {
        let mut notices = Notices::listen(stage.node.namespace());
        catch_up(bench, &mut notices, size);
        let (_, address) = bench.next_change();
        let sent = Instant::now();
        let written = bench.runtime().spawn(change(bench.cluster.client(), "wide-0".into(), Kind::Replaced, address));
        let seen = notices.await_addresses(vec![address], sent + PATIENCE);
        bench.runtime().block_on(written).expect("it does not panic");
        seen.get(&address).expect("the change comes").duration_since(sent).as_secs_f64()
    });
    bench.runtime().block_on(scale::drop_wide(bench.cluster.client(), NAMESPACE));
    let what = "one endpoint of a service with 5,000 replaced: API write → kernel";
    let row = Row::new("wide", what, size, Unit::Seconds).beside("kube-proxy", [ours, theirs]);
    row.goal(0.010, None).note(format!("{endpoints} endpoints"))
}

impl Bench {
    pub fn next_change(&self) -> (u32, Ipv4Addr) {
        let number = self.changes.get();
        self.skip_changes(1);
        (number, address_of_change(number))
    }

    pub fn skip_changes(&self, count: u32) {
        self.changes.set(self.changes.get() + count);
    }
}
