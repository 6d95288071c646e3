//! The hot paths one by one: `cargo bench --bench hot` (criterion's options behind `--`). `make bench` measures the whole of them, beside the peers.

mod objects;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use objects::{address, key, service, slices};
use serde_json::json;
use std::hint::black_box;
use std::time::SystemTime;
use waypost::dns::fast::Composer;
use waypost::dns::records::Records;
use waypost::model::{Endpoint, Family, Interner, Slice, Update};
use waypost::nft::{Committer, Layout, Memory};
use waypost::proxy::{Context, Delta, DetectLocal, Planner};
use waypost::snapshot;
use waypost::source::objects::EndpointSlice;
use waypost::store::Store;

/// The agent's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVICES: u32 = 1000;
const ENDPOINTS: u32 = 10;

criterion_group!(hot, questions, a_changed_slice, an_object_of_the_api_server, the_last_known_state);
criterion_main!(hot);

fn cluster() -> Store {
    let mut names = Interner::default();
    let mut store = Store::default();
    store.apply(Update::Namespace("shop".into(), None));
    for number in 0..SERVICES {
        store.apply(Update::Service(Box::new(service(&mut names, number))));
        slices(&mut names, number, ENDPOINTS).for_each(|slice| store.apply(Update::Slice(Box::new(slice))));
    }
    store
}

/// From a datagram to the bytes of its reply.
fn questions(criterion: &mut Criterion) {
    let (store, mut names, records) = (cluster(), Interner::default(), Records::new("cluster.local", 30));
    records.set_namespace(&"shop".into(), true, None);
    for number in 0..SERVICES {
        let key = key(&mut names, number);
        records.publish(&key, store.service(&key), &store.slices(&key));
    }
    records.set_synced();
    let mut group = criterion.benchmark_group("question");
    for (what, name, rtype) in [
        ("the address of a service", "service-7.shop.svc.cluster.local", 1),
        ("its ports", "_http._tcp.service-7.shop.svc.cluster.local", 33),
        ("a missing name of the search path", "www.example.com.shop.svc.cluster.local", 1),
        ("the name of an address", "7.0.96.10.in-addr.arpa", 12),
    ] {
        let (question, mut composer) = (question(name, rtype), Composer::new(7));
        assert!(composer.answer(&records.view(), &question).is_some(), "{name} is answered by the fast path");
        group.bench_function(what, |bencher| {
            bencher.iter(|| composer.answer(&records.view(), black_box(&question)).map(|reply| reply.bytes.len()));
        });
    }
}

/// From a slice of the API server to the elements in the (in-memory) kernel.
fn a_changed_slice(criterion: &mut Criterion) {
    let (mut store, mut names, mut planner) = (cluster(), Interner::default(), Planner::default());
    let context = Context { node_name: "node-1".into(), ..Context::default() };
    let mut plan = |store: &mut Store| {
        let mut delta = Delta::default();
        for key in store.take_dirty().services {
            planner.update(&key, store.service(&key), &store.slices(&key), &context, &mut delta);
        }
        delta
    };
    let layout = |family| Layout {
        family,
        masquerade_mark: 0x4000,
        masquerade_all: false,
        detect_local: DetectLocal::Networks,
        tracked_dns: false,
    };
    let mut committer = Committer::new(Memory::default(), Family::BOTH.map(layout));
    committer.commit(plan(&mut store));
    let before = slices(&mut names, 7, ENDPOINTS).next().expect("a service has a slice");
    let mut after = before.clone();
    std::sync::Arc::make_mut(&mut after.endpoints)[0] = Endpoint::at(address(0x0bc0_0000));
    let mut turn = false;
    let mut next = || -> Slice {
        turn = !turn;
        if turn { after.clone() } else { before.clone() }
    };
    let mut group = criterion.benchmark_group("an endpoint replaced");
    group.bench_function("planned and committed", |bencher| {
        bencher.iter_batched(
            &mut next,
            |slice| {
                store.apply(Update::Slice(Box::new(slice)));
                let committed = committer.commit(plan(&mut store));
                assert_eq!(committed.families.len(), 1);
            },
            BatchSize::SmallInput,
        );
    });
}

/// The JSON of an EndpointSlice, with all that the agent has no use for.
fn an_object_of_the_api_server(criterion: &mut Criterion) {
    let endpoint = |number: u32| {
        json!({
            "addresses": [address(0x0a80_0000 + number)],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": "node-1",
            "targetRef": { "kind": "Pod", "namespace": "shop", "name": format!("service-7-{number}"), "uid": "8c3f4a1e-0000-4000-8000-000000000000" },
        })
    };
    let slice = json!({
        "metadata": {
            "name": "service-7-abcde", "namespace": "shop", "uid": "8c3f4a1e-0000-4000-8000-000000000001", "resourceVersion": "4711",
            "labels": { "kubernetes.io/service-name": "service-7", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" },
            "managedFields": [{ "manager": "kube-controller-manager", "operation": "Update", "fieldsV1": { "f:addressType": {}, "f:endpoints": {}, "f:ports": {} } }],
        },
        "addressType": "IPv4",
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    });
    let text = slice.to_string();
    criterion.bench_function("an EndpointSlice decoded", |bencher| {
        bencher.iter(|| serde_json::from_str::<EndpointSlice>(black_box(&text)).expect("it is one"));
    });
}

/// 1,000 services with 10 endpoints each, as they are kept on disk.
fn the_last_known_state(criterion: &mut Criterion) {
    let store = cluster();
    let bytes = snapshot::encode(&store, SystemTime::now());
    let mut group = criterion.benchmark_group("the last known state");
    group.bench_function("encoded", |bencher| bencher.iter(|| snapshot::encode(&store, SystemTime::UNIX_EPOCH).len()));
    group.bench_function("decoded", |bencher| {
        bencher.iter(|| snapshot::decode(black_box(&bytes)).expect("it is what was written").kinds.len());
    });
}

fn question(name: &str, rtype: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&rtype.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}
