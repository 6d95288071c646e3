//! Files of the last known state: what a node serves when it starts without the API server.

use super::texts::{KUBEADM, Planner};
use super::{Check, number};
use crate::battery::objects;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use waypost::dns::chain::Model;
use waypost::import::corefile::{Surroundings, parse, translate};
use waypost::model::{Demand, Import, ImportedSlice, Kind, LabelNames, Marks, Node, ObjectKey, Protocol, Update};
use waypost::snapshot::{Snapshot, SnapshotError, Zones as Told, decode, decode_zones, encode, encode_zones};
use waypost::store::Store;

/// Where fields of the header stand: the time behind magic and version, how long the contents are, and that all is as it was written.
const TIME: usize = 12;
const LENGTH: usize = 20;
const CHECKSUM: usize = 28;
const HEADER: usize = 32;

fn taken() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// The same time and contents with the header that they ought to have, that of a good file: otherwise nothing would ever come behind it, and what was
/// found with an earlier version would find nothing more.
fn mended(bytes: &[u8], good: &[u8]) -> Vec<u8> {
    let mut mended = bytes.to_vec();
    if let Some(length) = bytes.len().checked_sub(HEADER) {
        mended[..TIME].copy_from_slice(&good[..TIME]);
        mended[LENGTH..CHECKSUM].copy_from_slice(&(length as u64).to_le_bytes());
        let checksum = crc32fast::hash(&[&mended[..CHECKSUM], &mended[HEADER..]].concat());
        mended[CHECKSUM..HEADER].copy_from_slice(&checksum.to_le_bytes());
    }
    mended
}

/// Of a file that can be read no bit may be another one. Which one is tried depends on the file.
fn one_bit_matters<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, SnapshotError>) {
    let bit = number(bytes) as usize % (bytes.len() * 8);
    let mut changed = bytes.to_vec();
    changed[bit / 8] ^= 1 << (bit % 8);
    assert!(decode(&changed).is_err(), "bit {bit} is another one and nobody sees it");
}

/// A snapshot is read as it was written, or refused.
pub struct Snapshots {
    good: Vec<u8>,
}

impl Check for Snapshots {
    const NAME: &str = "snapshots";
    const LONGEST: usize = 1 << 16;

    fn seeds() -> Vec<Vec<u8>> {
        let updates = objects().into_iter().flat_map(|(service, slices)| {
            let service = service.map(|service| Update::Service(Box::new(service)));
            service.into_iter().chain(slices.into_iter().map(|slice| Update::Slice(Box::new(slice))))
        });
        let (all, few): (Store, Store) = (updates.clone().collect(), updates.take(3).collect());
        let others: Store = others().into_iter().collect();
        vec![encode(&all, taken()), encode(&few, taken()), encode(&others, taken()), encode(&Store::default(), UNIX_EPOCH)]
    }

    fn new() -> Snapshots {
        Snapshots { good: encode(&Store::default(), taken()) }
    }

    fn check(&mut self, bytes: &[u8]) -> u64 {
        number([bytes, &mended(bytes, &self.good)].map(|bytes| match decode(bytes) {
            Ok(snapshot) => {
                one_bit_matters(bytes, decode);
                (true, read_again(&snapshot).to_string())
            }
            Err(error) => (false, error.to_string()),
        }))
    }
}

/// What is there besides Services and their slices.
fn others() -> Vec<Update> {
    let labels = Marks::read(&LabelNames::All, [("app", "web")].into_iter());
    let slice = objects().into_iter().flat_map(|(_, slices)| slices).next().expect("the battery has slices");
    let import = Import {
        key: ObjectKey::new("shop", "web"),
        headless: false,
        addresses: ["10.97.0.1".parse().unwrap()].into(),
        ports: [("http".into(), Protocol::Tcp, 80)].into(),
    };
    let pod = Update::Pod(ObjectKey::new("shop", "web-0"), ["10.244.0.1".parse().unwrap()].into(), labels.clone());
    let node = Node { addresses: vec!["192.0.2.10".parse().unwrap()], zone: Some("a".into()), ..Node::default() };
    let listed = |kind, object| [Update::ListBegin(kind), object, Update::ListEnd(kind)];
    let always = [
        Update::Namespace("shop".into(), labels),
        Update::ServiceCidr("kubernetes".into(), ["10.96.0.0/16".parse().unwrap()].into()),
        Update::Node(node),
    ];
    let imported = ImportedSlice { slice, cluster: "east".into() };
    let at_times = [
        listed(Kind::Pod, pod),
        listed(Kind::Import, Update::Import(Box::new(import))),
        listed(Kind::ImportedSlice, Update::ImportedSlice(Box::new(imported))),
    ];
    always.into_iter().chain(at_times.into_iter().flatten()).collect()
}

/// How many objects it has, which are the same when they are written and read once more.
fn read_again(snapshot: &Snapshot) -> usize {
    let updates = || snapshot.kinds.iter().flat_map(|(_, updates)| updates);
    let store: Store = updates().cloned().collect();
    let again = decode(&encode(&store, snapshot.taken)).expect("what was read can be written and read");
    assert_eq!(again.taken, snapshot.taken);
    let same: Store = again.updates().collect();
    assert!(contents(&store) == contents(&same), "it says something else the second time");
    updates().count()
}

/// All objects; a store has them in no order.
fn contents(store: &Store) -> BTreeSet<String> {
    let services = store.service_keys().filter_map(|key| store.service(key)).map(|service| format!("{service:?}"));
    let slices = store.all_slices().map(|slice| format!("{slice:?}"));
    let namespaces = store.namespaces().map(|name| format!("{name:?} {:?}", store.namespace_labels(name)));
    let cidrs = store.named_service_cidrs().map(|cidr| format!("{cidr:?}"));
    let imports = store.all_imports().map(|import| format!("{import:?}"));
    let imported = store.all_imported_slices().map(|slice| format!("{slice:?}"));
    let pods = store.pods().map(|pod| format!("{pod:?}"));
    let listed = Demand::KINDS.iter().filter(|kind| store.is_listed(**kind)).map(|kind| format!("{kind:?} are listed"));
    let others =
        cidrs.chain(imports).chain(imported).chain(pods).chain(listed).chain(store.node().map(|node| format!("{node:?}")));
    services.chain(slices).chain(namespaces).chain(others).collect()
}

/// What DNS was told is read as it was written, or refused; and what is read can be obeyed, or refused as well.
pub struct Zones {
    planner: Planner,
    good: Vec<u8>,
}

/// Something of each plugin.
const EVERYTHING: &str = "example.com:5353 {\n  bind 127.0.0.1\n  nsid a\n  bufsize 1232\n  log . {\n    class denial error\n  }\n  dns64 64:ff9b::/96\n  any\n  \
                          chaos v1 a@example\n  rewrite stop name regex (.*)\\.a {1}.b answer auto\n  rewrite ttl exact a.example 30\n  autopath @kubernetes\n  \
                          acl {\n    block type A net 10.0.0.0/8\n    allow\n  }\n  cache {\n    success 100 60 5\n    prefetch 2 1m 10%\n    serve_stale 1h\n  }\n  \
                          header {\n    response set ra\n  }\n  minimal\n  template IN A x.example {\n    match (.*)\n    answer \"{{ .Name }} 60 IN A 192.0.2.1\"\n    \
                          fallthrough\n  }\n  hosts {\n    192.0.2.9 a.example\n    fallthrough\n  }\n  kubernetes cluster.local {\n    pods verified\n    \
                          namespaces a b\n    labels app=web\n    ttl 5\n  }\n  forward . 192.0.2.1 tls://192.0.2.2 {\n    except b.example\n    policy round_robin\n    \
                          tls_servername dns.example\n    max_concurrent 10\n  }\n  whoami\n}\n";

/// In our own form nothing is longer than this many times what was read: what is left out is left out again.
const TIMES_LONGER: usize = 64;

impl Check for Zones {
    const NAME: &str = "zones";
    const LONGEST: usize = 8000;

    fn seeds() -> Vec<Vec<u8>> {
        let import = |_: &str| Ok(Vec::new());
        let surroundings = Surroundings { variable: &|_| None, import: &import };
        [KUBEADM, EVERYTHING, ""]
            .map(|text| {
                let blocks = parse("Corefile", text, &surroundings).expect("it can be read");
                let model = translate(&blocks).expect("all of it is known").model;
                encode_zones(&Told { taken: taken(), source: "kube-system/coredns".into(), model })
            })
            .to_vec()
    }

    fn new() -> Zones {
        let told = Told { taken: taken(), source: String::new(), model: Model::default() };
        Zones { planner: Planner::new(), good: encode_zones(&told) }
    }

    fn check(&mut self, bytes: &[u8]) -> u64 {
        number([bytes, &mended(bytes, &self.good)].map(|bytes| match decode_zones(bytes) {
            Ok(told) => {
                one_bit_matters(bytes, decode_zones);
                let written = encode_zones(&told);
                assert!(written.len() <= bytes.len() * TIMES_LONGER, "{} bytes became {}", bytes.len(), written.len());
                assert!(decode_zones(&written).as_ref() == Ok(&told), "it says something else the second time");
                (told.model.blocks.len(), self.planner.plan(told.model))
            }
            Err(error) => (0, Some(error.to_string())),
        }))
    }
}
