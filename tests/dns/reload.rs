//! A new configuration, under load.

use crate::battery::cluster;
use crate::wire::{LIMIT, Running, query, tcp, udp, upstream};
use hickory_proto::op::{Message, ResponseCode};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use waypost::admin::Status;
use waypost::agent::zones::Zones;
use waypost::config::{Config, GuardConfig, RunArgs, Surroundings, load};
use waypost::dns::chain::Chain;
use waypost::dns::metrics::Metrics;
use waypost::dns::records::Records;
use waypost::model::Demand;
use waypost::notices::Notices;
use waypost::source::{manifests, translate::Translator};
use waypost::store::Store;

/// A file that goes away with this value.
struct Corefile(PathBuf);

impl Corefile {
    fn new(text: &str) -> Corefile {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let file = Corefile(std::env::temp_dir().join(format!("waypost-reload-{}-{number}", std::process::id())));
        file.write(text);
        file
    }

    /// In one step, so that nobody reads half of it.
    fn write(&self, text: &str) {
        let next = self.0.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, &self.0).unwrap();
    }
}

impl Drop for Corefile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn config(corefile: &Corefile) -> Config {
    let path = corefile.0.to_str().unwrap();
    let flags = [("role", "dns"), ("dns-address", "127.0.0.1:5353"), ("node-name", "node"), ("corefile", path)];
    load(&RunArgs::of(&flags), &Surroundings::default()).unwrap().0
}

/// Clients that ask one question after the other, each of which must be answered.
struct Load {
    clients: JoinSet<()>,
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Load {
    fn on(server: SocketAddr) -> Load {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for client in 0..8 {
            let (stop, asked) = (stop.clone(), asked.clone());
            clients.spawn(async move {
                for round in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let outside = format!("name-{client}-{}.example.com", round % 50);
                    for name in ["web.default.svc.cluster.local", "printer.corp.example", &outside] {
                        let question = query(name, 1);
                        let reply = if client < 6 { udp(server, &question).await } else { tcp(server, &question).await };
                        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 1), "{name}");
                        asked.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        Load { clients, stop, asked }
    }

    /// Waits until so many more questions have been answered.
    async fn goes_on(&self) {
        let enough = self.asked.load(Ordering::SeqCst) + 100;
        let answered = async {
            while self.asked.load(Ordering::SeqCst) < enough {
                sleep(Duration::from_millis(5)).await;
            }
        };
        // A client that has got something else asks no more.
        timeout(LIMIT, answered).await.expect("the clients are answered");
    }

    /// The same, again and again, until this is so.
    async fn goes_on_until(&self, holds: impl Fn() -> bool) {
        let going_on = async {
            while !holds() {
                self.goes_on().await;
            }
        };
        timeout(2 * LIMIT, going_on).await.expect("it comes to be so");
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.join_all().await;
    }
}

/// Stands for the agent's task: lists the services anew with what is asked for, as the API server would, and says so.
async fn list_anew(records: &Records, chain: &Chain) {
    let mut demand = chain.demand();
    let asked = timeout(LIMIT, demand.wait_for(|demand| *demand != Demand::default())).await.unwrap().unwrap().to_owned();
    let folder = Path::new(crate::ROOT).join("tests/dns/cluster");
    let updates = manifests::read(&folder).unwrap().updates(None, &mut Translator::default().reading(asked.details.clone()));
    let store: Store = updates.into_iter().collect();
    store.namespaces().for_each(|name| records.set_namespace(name, true, store.namespace_labels(name)));
    for key in store.service_keys() {
        records.publish(key, store.service(key), &store.slices(key));
    }
    chain.know(asked);
}

/// A server that obeys this Corefile, and what it obeys at the moment. The task follows the changes until it is ended.
async fn followed(corefile: &Corefile, records: Arc<Records>) -> (Running, Chain, JoinHandle<()>) {
    let config = config(corefile);
    let registry = prometheus::Registry::new();
    let metrics = Arc::new(Metrics::new(&registry).unwrap());
    let mut zones = Zones::new(&config, &metrics, &Notices::logged(), &Status::new(&config), None);
    zones.begin().await.unwrap();
    let chain = zones.chain();
    let following = tokio::spawn(zones.follow());
    (Running::with_chain(records, chain.clone(), &GuardConfig::default(), registry, metrics), chain, following)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corefile_that_needs_to_know_more_of_the_cluster_is_obeyed_once_that_is_known_and_nothing_fails_meanwhile() {
    let upstream = upstream().await;
    let of = |options: &str| {
        format!(
            ". {{\n    kubernetes cluster.local {{\n        {options}\n    }}\n    forward . {upstream}\n    cache\n    reload 2s\n}}\n\
             corp.example {{\n    hosts {{\n        192.0.2.7 printer.corp.example\n    }}\n}}\n"
        )
    };
    for (options, name) in [
        ("labels !nobody-has-this", "web.default.svc.cluster.local"),
        ("namespace_labels kubernetes.io/metadata.name", "web.default.svc.cluster.local"),
        ("zonal", "nowhere.prefer._zone.db.data.svc.cluster.local"),
    ] {
        let corefile = Corefile::new(&of(""));
        let records = Arc::new(cluster());
        let (running, chain, following) = followed(&corefile, records.clone()).await;
        let load = Load::on(running.ipv4());
        load.goes_on().await;
        let before = chain.plan();
        corefile.write(&of(options));
        let mut demand = chain.demand();
        timeout(LIMIT, demand.wait_for(|demand| *demand != Demand::default())).await.unwrap().unwrap();
        load.goes_on().await;
        assert!(Arc::ptr_eq(&before, &chain.plan()), "{options}: what was obeyed goes on until all is known");
        list_anew(&records, &chain).await;
        load.goes_on_until(|| !Arc::ptr_eq(&before, &chain.plan())).await;
        load.goes_on().await;
        let reply = udp(running.ipv4(), &query(name, 1)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{options}");
        load.end().await;
        following.abort();
        running.serving.shutdown().await;
    }
}

fn address(reply: &Message) -> String {
    reply.answers[0].data.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_corefile_changes_nothing_and_a_good_one_everything_without_an_unanswered_question() {
    let upstream = upstream().await;
    let of = |printer: &str, more: &str| {
        format!(
            ". {{\n    kubernetes cluster.local\n    forward . {upstream}\n    cache\n    reload 2s\n}}\n\
             corp.example {{\n    hosts {{\n        {printer} printer.corp.example\n    }}\n    {more}\n}}\n"
        )
    };
    let corefile = Corefile::new(&of("192.0.2.7", "log"));
    let (running, _, following) = followed(&corefile, Arc::new(cluster())).await;
    let load = Load::on(running.ipv4());
    let printer = query("printer.corp.example", 1);
    load.goes_on().await;
    let plugins = |name: &str| running.shown("coredns_plugin_enabled", name);
    assert!(plugins("log") == 1.0 && plugins("minimal").is_nan() && plugins("cache") == 1.0);

    corefile.write(&of("192.0.2.8", "nonsense"));
    load.goes_on_until(|| running.counted("coredns_reload_failed_total", "") > 0).await;
    assert_eq!(running.shown("waypost_dns_configuration_refused", ""), 1.0);
    assert_eq!(address(&udp(running.ipv4(), &printer).await), "192.0.2.7");
    assert_eq!(plugins("log"), 1.0);

    corefile.write(&of("192.0.2.9", "minimal").replace("    cache\n", ""));
    let is_new = async { while address(&udp(running.ipv4(), &printer).await) != "192.0.2.9" {} };
    timeout(LIMIT, is_new).await.expect("the new configuration is obeyed");
    load.goes_on().await;
    // The page shows what is there now, and no longer what was.
    assert!(plugins("log").is_nan() && plugins("minimal") == 1.0 && plugins("cache").is_nan());
    assert_eq!(running.shown("waypost_dns_configuration_refused", ""), 0.0);
    load.end().await;
    following.abort();
    running.serving.shutdown().await;
}
