use super::*;
use crate::model::{Details, Family, Policy, Protocol, ServiceKind, ServiceOptions, ServicePort, SliceDetails, SlicePort};
use crate::source::{manifests, translate::Translator};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

fn taken() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_764_000_000)
}

/// The cluster of DNS's battery, and a node.
fn cluster() -> Store {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dns/cluster");
    let updates = manifests::read(&folder).unwrap().updates(None, &mut Translator::default().reading(Details::ALL));
    let node = Node { addresses: vec!["192.0.2.10".parse().unwrap()], eligible: true, zone: Some("a".into()), ..Node::default() };
    let more = [
        Update::ListBegin(Kind::Node),
        Update::Node(node),
        Update::ListEnd(Kind::Node),
        Update::ServiceCidr("kubernetes".into(), Box::new(["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()])),
        Update::ListBegin(Kind::Pod),
        pod("web-0", "10.244.0.1"),
        pod("web-1", "10.244.0.2"),
        Update::ListEnd(Kind::Pod),
        Update::ListBegin(Kind::Import),
        Update::Import(Box::new(import())),
        Update::ListEnd(Kind::Import),
        Update::ListBegin(Kind::ImportedSlice),
        Update::ImportedSlice(Box::new(ImportedSlice { slice: slice(), cluster: "east".into() })),
        Update::ListEnd(Kind::ImportedSlice),
    ];
    updates.into_iter().chain(more).collect()
}

/// Everything that a store holds, in an order that does not depend on its hash tables.
fn contents(store: &Store) -> BTreeSet<String> {
    let services = store.service_keys().map(|key| format!("{:?}", store.service(key)));
    let slices = store.all_slices().map(|slice| format!("{slice:?}"));
    let others = [format!("{:?}", store.node()), format!("{:?}", store.named_service_cidrs().collect::<Vec<_>>())];
    let namespaces = store.namespaces().map(|name| format!("{name:?} {:?}", store.namespace_labels(name)));
    let imports = store.all_imports().map(|import| format!("{import:?}"));
    let imported = store.all_imported_slices().map(|slice| format!("{slice:?}"));
    let pods = store.pods().map(|pod| format!("{pod:?}"));
    services.chain(slices).chain(namespaces).chain(imports).chain(imported).chain(pods).chain(others).collect()
}

#[test]
fn what_is_read_back_is_what_was_written() {
    let store = cluster();
    let snapshot = decode(&encode(&store, taken())).unwrap();
    assert_eq!(snapshot.taken, taken());
    let again: Store = snapshot.updates().collect();
    assert_eq!(contents(&again), contents(&store));
    assert!(contents(&store).len() > 60);
    let always = [Kind::Service, Kind::Slice, Kind::Namespace, Kind::ServiceCidr, Kind::Node];
    for kind in always.iter().chain(Demand::KINDS) {
        assert!(again.is_listed(*kind), "{kind}");
    }
}

#[test]
fn what_was_not_watched_is_not_taken_for_none_at_all() {
    let again: Store = decode(&encode(&Store::default(), taken())).unwrap().updates().collect();
    assert!(Demand::KINDS.iter().all(|kind| !again.is_listed(*kind)));
}

fn labels() -> Option<Arc<Marks>> {
    Some(Arc::new([("app".into(), "web".into())].into_iter().collect()))
}

fn pod(name: &str, address: &str) -> Update {
    Update::Pod(ObjectKey::new("shop", name), [address.parse().unwrap()].into(), labels())
}

fn import() -> Import {
    Import {
        key: ObjectKey::new("shop", "web"),
        headless: false,
        addresses: ["10.97.0.1".parse().unwrap()].into(),
        ports: [("http".into(), Protocol::Tcp, 80)].into(),
    }
}

fn slice() -> Slice {
    let key = ObjectKey::new("shop", "web");
    let hints = Hints { zones: ["a".into()].into(), nodes: ["node-1".into()].into() };
    let endpoint = Endpoint {
        hostname: Some("web-0".into()),
        node: Some("node-1".into()),
        hints: Some(Arc::new(hints)),
        ..Endpoint::at("10.244.0.1".parse().unwrap())
    };
    let names = |name: &str| Some([Some(name.into())].into());
    Slice {
        key: key.clone(),
        service: key,
        family: Family::V4,
        ports: [SlicePort { name: "http".into(), protocol: Protocol::Sctp, port: 8080 }].into(),
        endpoints: [endpoint].into(),
        headless: false,
        weight: 1,
        triggered: None,
        details: Some(Arc::new(SliceDetails { labels: labels(), pods: names("web-0"), zones: names("a") })),
    }
}

#[test]
fn equal_names_are_kept_once() {
    let again: Store = decode(&encode(&cluster(), taken())).unwrap().updates().collect();
    let namespaces: Vec<&Name> = again.all_slices().map(|slice| &slice.key.namespace).filter(|name| &***name == "data").collect();
    assert!(namespaces.len() > 5 && namespaces.iter().all(|name| Name::ptr_eq(name, namespaces[0])));
}

#[test]
fn a_change_of_the_form_needs_a_new_version() {
    let key = ObjectKey::new("shop", "web");
    let service = Service {
        key,
        kind: ServiceKind::ExternalName("a.example".into()),
        cluster_ips: vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        external_ips: vec!["192.0.2.1".parse().unwrap()],
        load_balancer_ips: vec!["192.0.2.2".parse().unwrap()],
        source_ranges: vec!["192.0.2.0/24".parse().unwrap()],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 30080 }],
        internal_policy: Policy::Cluster,
        external_policy: Policy::Local,
        affinity_seconds: Some(10_800),
        health_check_node_port: 30_001,
        proxied: true,
        created: 1_764_000_000,
        options: ServiceOptions::default(),
        labels: labels(),
    };
    let node = Node { addresses: vec!["192.0.2.10".parse().unwrap()], eligible: true, zone: Some("a".into()), ..Node::default() };
    let store: Store = [
        Update::Service(Box::new(service)),
        Update::Slice(Box::new(slice())),
        Update::Namespace("shop".into(), labels()),
        Update::ServiceCidr("kubernetes".into(), ["10.96.0.0/16".parse().unwrap()].into()),
        Update::Node(node),
        Update::Import(Box::new(import())),
        Update::ImportedSlice(Box::new(ImportedSlice { slice: slice(), cluster: "east".into() })),
        pod("web-0", "10.244.0.1"),
        Update::ListBegin(Kind::Pod),
        Update::ListEnd(Kind::Pod),
        pod("web-0", "10.244.0.1"),
    ]
    .into_iter()
    .collect();
    let written = (VERSION, crc32fast::hash(&encode(&store, taken())));
    assert_eq!(
        written,
        (5, 2_719_184_229),
        "agents that know the old form would misread this: raise VERSION, then put both numbers here"
    );
}

#[test]
fn anything_else_is_refused_with_its_reason() {
    let good = encode(&cluster(), taken());
    let changed = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        decode(&bytes).unwrap_err()
    };
    assert_eq!(decode(b"").unwrap_err(), SnapshotError::Foreign);
    assert_eq!(changed(0), SnapshotError::Foreign);
    assert_eq!(changed(8), SnapshotError::Version(VERSION ^ 1, VERSION));
    assert_eq!(changed(12), SnapshotError::Damaged("its checksum is wrong"), "it would be of another time");
    assert_eq!(changed(20), SnapshotError::Damaged("it is not as long as it says"));
    assert_eq!(changed(28), SnapshotError::Damaged("its checksum is wrong"));
    assert_eq!(changed(good.len() - 1), SnapshotError::Damaged("its checksum is wrong"));
    assert_eq!(decode(&good[..20]).unwrap_err(), SnapshotError::Damaged("it is cut off"));
    assert_eq!(decode(&good[..good.len() - 1]).unwrap_err(), SnapshotError::Damaged("it is not as long as it says"));
}

proptest! {
    /// The checksum keeps accidents out; whoever can make a right one must not bring the agent down either.
    #[test]
    fn any_entries_under_a_right_checksum_are_read_or_refused(entries in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(&entries);
        seal(&mut bytes, MAGIC, VERSION, taken());
        if let Ok(snapshot) = decode(&bytes) {
            let _: Store = snapshot.updates().collect();
        }
    }
}
