//! Files: Corefiles, snapshots, resolv.conf, and names as text.

use super::run::run;
use crate::battery::objects;
use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};
use waypost::dns::name::DomainName;
use waypost::dns::resolv_conf;
use waypost::import::corefile::{Surroundings, parse, translate};
use waypost::model::Update;
use waypost::snapshot::{decode, encode};
use waypost::store::Store;

const KUBEADM: &str = ".:53 {\n    errors\n    health {\n       lameduck 5s\n    }\n    ready\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n       \
                       pods insecure\n       fallthrough in-addr.arpa ip6.arpa\n       ttl 30\n    }\n    prometheus :9153\n    forward . /etc/resolv.conf {\n       \
                       max_concurrent 1000\n    }\n    cache 30 {\n       disable success cluster.local\n       disable denial cluster.local\n    }\n    loop\n    \
                       reload\n    loadbalance\n}\n";
const OTHERS: &str = "(common) {\n  errors\n  log . {\n    class denial error\n  }\n}\ncorp.example tls://b.example:853 {\n  import common\n  import {$NAME}\n  \
                      forward . 192.0.2.1 tls://192.0.2.2 { policy sequential\n tls_servername dns.example\n }\n  hosts /etc/hosts {\n    192.0.2.9 \
                      \"quoted name\" \\\"\n    fallthrough\n  }\n  rewrite name regex (.*)\\.a {1}.b answer auto # comment\n}\n";

#[test]
fn a_corefile_is_read_or_refused_with_its_line() {
    let seeds = [KUBEADM, OTHERS].map(|text| text.as_bytes().to_vec()).to_vec();
    let variable = |name: &str| (name == "NAME").then(|| "more.conf".to_string());
    let import = |name: &str| match name {
        "more.conf" => Ok(vec![("more.conf".to_string(), "whoami\nimport more.conf\n".to_string())]),
        other => Err(format!("{other} is missing")),
    };
    let surroundings = Surroundings { variable: &variable, import: &import };
    run("corefiles", 4000, seeds, |_, bytes| {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().count().max(1) as u64 + 2;
        match parse("Corefile", &text, &surroundings) {
            Ok(blocks) => {
                let plugins: Vec<String> =
                    blocks.iter().flat_map(|block| &block.directives).map(|one| one.name.clone()).collect();
                match translate(&blocks) {
                    Ok(_) => (0, plugins.len(), String::new()),
                    Err(error) => (1, plugins.len(), said(&error.problem)),
                }
            }
            Err(error) => {
                let line = error.place.to_string();
                let number = line.rsplit([':', ' ']).next().and_then(|number| number.parse::<u64>().ok());
                assert!(number.is_none_or(|number| number <= lines), "{line} of {lines} lines: {}", error.problem);
                (2, 0, said(&error.problem))
            }
        }
    });
}

/// A complaint without what it is about.
fn said(problem: &str) -> String {
    problem.chars().filter(char::is_ascii_lowercase).take(24).collect()
}

#[test]
fn a_snapshot_is_read_as_it_was_written_or_refused() {
    let store: Store = objects()
        .into_iter()
        .flat_map(|(service, slices)| {
            service
                .map(|service| Update::Service(Box::new(service)))
                .into_iter()
                .chain(slices.into_iter().map(|slice| Update::Slice(Box::new(slice))))
        })
        .collect();
    let bytes = encode(&store, UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let seeds = vec![bytes, encode(&Store::default(), UNIX_EPOCH)];
    run("snapshots", 1 << 20, seeds, |mutator, bytes| {
        let mut bytes = bytes.to_vec();
        // Otherwise nothing would ever come behind the checksum.
        if bytes.len() >= 32 && mutator.below(4) > 0 {
            let (length, checksum) = ((bytes.len() - 32) as u64, crc32fast::hash(&bytes[32..]));
            bytes[20..28].copy_from_slice(&length.to_le_bytes());
            bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
        }
        match decode(&bytes) {
            Ok(snapshot) => {
                let store: Store = snapshot.updates.iter().cloned().collect();
                let again = decode(&encode(&store, snapshot.taken)).expect("what was read can be written and read");
                let same: Store = again.updates.into_iter().collect();
                assert!(contents(&store) == contents(&same), "it says something else the second time");
                (true, snapshot.updates.len().to_string())
            }
            Err(error) => (false, error.to_string()),
        }
    });
}

/// All objects; a store has them in no order.
fn contents(store: &Store) -> BTreeSet<String> {
    let services = store.service_keys().filter_map(|key| store.service(key)).map(|service| format!("{service:?}"));
    let others = store.namespaces().map(ToString::to_string).chain(store.node().map(|node| format!("{node:?}")));
    let cidrs = store.named_service_cidrs().map(|cidr| format!("{cidr:?}"));
    services.chain(store.all_slices().map(|slice| format!("{slice:?}"))).chain(others).chain(cidrs).collect()
}

#[test]
fn a_name_as_text_is_the_same_name_again_and_a_resolv_conf_does_no_harm() {
    let seeds = [
        "web.shop.svc.cluster.local.",
        "_http._tcp.a\\.b.c",
        "nameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch a b\n",
        "\\000.x",
    ];
    run("names", 600, seeds.map(|text| text.as_bytes().to_vec()).to_vec(), |_, bytes| {
        let text = String::from_utf8_lossy(bytes);
        let servers = resolv_conf::parse(&text).len();
        let labels = DomainName::from_labels(bytes.split(|byte| *byte == b'.')).map(|name| {
            assert!(name.as_wire().len() <= 255);
            assert_eq!(name.to_lower().to_lower(), name.to_lower());
            name.labels().count()
        });
        let parsed = DomainName::parse(&text).map(|name| name.labels().count());
        (servers, labels, parsed)
    });
}
