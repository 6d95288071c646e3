//! Starts: on an empty node, on one where everything is in place, and without the API server.

use super::kernel::Notices;
use super::peers::{Peers, STEP, Start, Waypost, wait};
use super::report::{Row, Unit};
use super::{Bench, ROUNDS};
use crate::agent::http_get;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use std::fs;
use std::process::Command;
use std::time::Instant;

const PEERS: &str = "kube-proxy + CoreDNS";

/// First starts and restarts, in turns.
pub fn rows(bench: &Bench, size: u32) -> Vec<Row> {
    let large = size >= 50_000;
    let (mut first, mut again) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut writes = 0;
    for round in 1..=ROUNDS {
        let stage = bench.stage(&format!("start-waypost-{size}-{round}"));
        let (waypost, start) = Waypost::start(&stage, None);
        first[0].push(start);
        super::check::in_step(bench, &stage);
        waypost.stop();
        let notices = Notices::listen(stage.node.namespace());
        let (waypost, start) = Waypost::start(&stage, None);
        again[0].push(start);
        writes += notices.count_writes();
        drop((waypost, stage));

        let stage = bench.stage(&format!("start-peers-{size}-{round}"));
        let (peers, start) = Peers::start(&stage);
        first[1].push(start);
        super::check::kube_proxy_has(&stage, size);
        peers.stop();
        // Nobody listens here: it would slow down what it writes.
        let (_peers, start) = Peers::start(&stage);
        again[1].push(start);
    }
    let lists = bench.runtime().block_on(list_time(bench));
    let of = |starts: &[Vec<Start>; 2], value: fn(&Start) -> f64| {
        [&starts[0], &starts[1]].map(|starts| starts.iter().map(value).collect::<Vec<_>>())
    };
    let seconds = |name, what| Row::new(name, what, size, Unit::Seconds);
    let bytes = |name, what| Row::new(name, what, size, Unit::Bytes);
    let lists_note = format!("the API server's own time for these lists, read by nobody: {lists:.2} s");
    let restarts = ROUNDS;
    let writes_note = format!("{lists_note}; objects that Waypost wrote to the kernel in {restarts} restarts: {writes}");
    let memory = if large { 200e6 } else { 50e6 };
    vec![
        seconds("first-commit", "all listed → all rules in the kernel")
            .beside("kube-proxy", of(&first, |start| start.commit))
            .goal(if large { 2.0 } else { 0.3 }, (size >= 10_000).then_some(40.0))
            .note("each program's own word; kube-proxy's is the time of its first full syncs"),
        seconds("first-start", "exec → programmed and answering")
            .beside(PEERS, of(&first, |start| start.seconds))
            .goal(if large { 3.0 } else { 0.6 }, None)
            .note(&lists_note),
        seconds("restart", "nothing changed: exec → in step")
            .beside(PEERS, of(&again, |start| start.seconds))
            .goal(0.5 + lists, None)
            .note(writes_note),
        bytes("memory-first", "peak RSS of a first start, both jobs")
            .beside(PEERS, of(&first, |start| start.memory))
            .goal(memory, None),
        bytes("memory-restart", "peak RSS of a restart, both jobs")
            .beside(PEERS, of(&again, |start| start.memory))
            .goal(memory, None),
        bytes("wire", "bytes from and to the API server for a first start")
            .beside(PEERS, of(&first, |start| start.wire))
            .goal(None, 1.0)
            .note("Waypost reads JSON, not compressed; kube-proxy and CoreDNS read protobuf"),
    ]
}

/// How long the API server takes to write the lists that an agent reads, when nobody looks at what is in them.
async fn list_time(bench: &Bench) -> f64 {
    let began = Instant::now();
    for path in [Service::url_path(&(), None), EndpointSlice::url_path(&(), None)] {
        let request = http::Request::get(path).body(Vec::new()).expect("a valid request");
        bench.cluster.client().request_text(request).await.expect("the API server lists");
    }
    began.elapsed().as_secs_f64()
}

/// A node that comes up while the API server is away: from the last known state. No peer can do that.
pub fn without_api_server(bench: &Bench, size: u32) -> Row {
    let mut took = Vec::new();
    for round in 1..=ROUNDS {
        let stage = bench.stage(&format!("offline-{size}-{round}"));
        let state = bench.cluster.directory().join(format!("state-{size}-{round}"));
        let node = stage.node.namespace();
        let (waypost, _) = Waypost::start(&stage, Some(&state));
        wait("the last known state is on disk", STEP, || {
            state.is_dir() && fs::read_dir(&state).is_ok_and(|mut files| files.next().is_some())
        });
        waypost.stop();
        crate::processes::output(node, Command::new("nft").args(["flush", "ruleset"]));
        stage.relay.cut();
        let (_waypost, start) = Waypost::start(&stage, Some(&state));
        took.push(start.seconds);
        let (_, page) = http_get(node, "127.0.0.1:10256", "/readyz").expect("it says that it is ready");
        assert!(page.contains("with the last known state"), "{page}");
        super::check::in_step(bench, &stage);
    }
    let what = "without the API server, after a reboot: exec → programmed and answering";
    let row = Row::new("offline-start", what, size, Unit::Seconds);
    row.beside("none can:", [took, Vec::new()]).goal(if size >= 50_000 { 0.5 } else { 0.1 }, None)
}
