//! What becomes of configurations that are late, broken, or gone.

use super::*;
use crate::config::{RunArgs, Surroundings, load};
use crate::model::LabelNames;
use std::fs;
use std::path::{Path, PathBuf};
use tokio::task::JoinHandle;

const GOOD: &str = "example.org {\n    whoami\n    reload\n}\n";
const OTHER: &str = "example.com {\n    whoami\n    reload\n}\n";
const LABELLED: &str = "cluster.local {\n    kubernetes cluster.local {\n        labels app=web\n    }\n    reload\n}\n";
const VERIFIED: &str = "cluster.local {\n    kubernetes cluster.local {\n        pods verified\n    }\n    reload\n}\n";
const BROKEN: &str = "example.org {\n    whoami\n    nonsense\n}\n";

/// A folder with a Corefile and a state. It goes away with this value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("waypost-zones-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, corefile: &str) {
        fs::write(self.0.join("Corefile"), corefile).unwrap();
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Waits until this folder's state has a block for this zone.
    async fn keeps(&self, zone: &str) {
        let kept = async {
            while !snapshot_zones(&self.state()).contains(&zone.to_string()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), kept).await.expect("it is kept");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn snapshot_zones(folder: &Path) -> Vec<String> {
    let kept = crate::snapshot::read_zones(folder).unwrap();
    kept.map_or(Vec::new(), |kept| kept.model.blocks.iter().flat_map(|block| block.zones.clone()).collect())
}

fn config(flags: &[(&str, &str)]) -> Config {
    let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
    load(&RunArgs::of(&[&[("dns-address", "127.0.0.1:5353")], flags].concat()), &surroundings).unwrap().0
}

/// An agent's, and the ends that it reports to.
struct Made {
    zones: Zones,
    status: Status,
    registry: prometheus::Registry,
}

fn made(flags: &[(&str, &str)], mounted: Option<watch::Receiver<Mounted>>) -> Made {
    let config = config(flags);
    let registry = prometheus::Registry::new();
    let metrics = Arc::new(Metrics::new(&registry).unwrap());
    let status = Status::new(&config);
    Made { zones: Zones::new(&config, &metrics, &Notices::logged(), &status, mounted), status, registry }
}

impl Made {
    /// By a Corefile in this folder.
    fn by_file(folder: &Folder, role: &str) -> Made {
        let (file, state) = (folder.0.join("Corefile"), folder.state());
        made(&[("role", role), ("corefile", file.to_str().unwrap()), ("state-dir", state.to_str().unwrap())], None)
    }

    /// By a ConfigMap, of which is told at the other end.
    fn by_config_map(folder: &Folder) -> (Made, watch::Sender<Mounted>) {
        let (told, mounted) = watch::channel(Mounted::Awaited);
        let state = folder.state();
        let flags = [("corefile-configmap", "kube-system/coredns"), ("state-dir", state.to_str().unwrap())];
        (made(&flags, Some(mounted)), told)
    }

    /// The zones that are answered.
    fn answered(&self) -> Vec<String> {
        answered(&self.zones.chain())
    }

    fn shown(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        metrics.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }
}

fn answered(chain: &Chain) -> Vec<String> {
    chain.plan().model().blocks.iter().flat_map(|block| block.zones.clone()).collect()
}

fn files(corefile: &str) -> Mounted {
    Mounted::Files([("Corefile".to_string(), corefile.to_string())].into())
}

#[test]
fn server_blocks_listen_where_dns_addresses_may_be_and_where_pods_ask() {
    let usual = config(&[("dns-address", "10.96.0.10,169.254.20.10:5353")]);
    let says = |config: &Config, served: &[&str]| {
        let served: Vec<SocketAddr> = served.iter().map(|address| address.parse().unwrap()).collect();
        check_addresses(config, &served).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(says(&usual, &["10.96.0.10:53", "169.254.20.10:5353"]), "");
    assert!(says(&usual, &["10.96.0.10:5353"]).contains("10.96.0.10:53: the pods of this node ask there"));
    assert!(says(&usual, &["10.96.0.10:53", "0.0.0.0:53"]).contains("wildcard"));
    assert!(says(&usual, &["10.96.0.10:53", "1.2.3.4:53"]).contains("dns-allow-from"));
    let meant = config(&[("dns-address", "10.96.0.10"), ("dns-allow-from", "10.0.0.0/8")]);
    assert_eq!(says(&meant, &["10.96.0.10:53", "1.2.3.4:53"]), "");
}

#[tokio::test]
async fn a_broken_corefile_at_the_start_ends_a_dns_server_but_no_service_proxy() {
    let folder = Folder::new("broken");
    folder.write(BROKEN);
    let error = Made::by_file(&folder, "dns").zones.begin().await.unwrap_err().to_string();
    assert!(error.contains("Corefile:3: neither the stock CoreDNS nor Waypost has a plugin \"nonsense\""), "{error}");

    let mut all = Made::by_file(&folder, "all");
    all.zones.begin().await.unwrap();
    assert!(!*all.zones.obeyed().borrow() && all.answered().is_empty());
    let pending = all.status.pending_dns().join("\n");
    assert!(pending.contains("DNS to serve, which cannot do what is written: ") && pending.contains("Corefile:3: "), "{pending}");
    assert_eq!((all.shown("coredns_reload_failed_total"), all.shown("waypost_dns_configuration_refused")), (1.0, 1.0));

    folder.write(GOOD);
    all.zones.look().await.unwrap();
    assert!(*all.zones.obeyed().borrow());
    assert_eq!((all.answered(), all.shown("waypost_dns_configuration_refused")), (vec!["example.org".to_string()], 0.0));
}

#[tokio::test]
async fn where_there_is_an_earlier_one_that_could_be_obeyed_it_is_until_the_new_one_can_be() {
    let folder = Folder::new("earlier");
    folder.write(GOOD);
    Made::by_file(&folder, "all").zones.begin().await.unwrap();
    folder.keeps("example.org").await;
    folder.write(BROKEN);
    let mut next = Made::by_file(&folder, "all");
    next.zones.begin().await.unwrap();
    next.status.dns_serving(true);
    assert!(*next.zones.obeyed().borrow());
    assert_eq!(next.answered(), ["example.org"]);
    assert_eq!(next.shown("waypost_dns_configuration_refused"), 1.0);
    // What is on disk is never lost by that.
    assert_eq!(snapshot_zones(&folder.state()), ["example.org"]);

    folder.write(OTHER);
    let chain = next.zones.chain();
    let following = tokio::spawn(next.zones.follow());
    while chain.plan().model().blocks[0].zones != ["example.com"] {
        sleep(Duration::from_millis(20)).await;
    }
    folder.keeps("example.com").await;
    following.abort();

    // Another file's is another matter.
    fs::write(folder.0.join("elsewhere"), BROKEN).unwrap();
    let (file, state) = (folder.0.join("elsewhere"), folder.state());
    let mut other = made(&[("corefile", file.to_str().unwrap()), ("state-dir", state.to_str().unwrap())], None);
    other.zones.begin().await.unwrap();
    assert!(other.answered().is_empty());
}

#[tokio::test]
async fn without_the_api_server_the_corefile_of_the_last_time_is_obeyed() {
    let folder = Folder::new("away");
    let (mut first, told) = Made::by_config_map(&folder);
    told.send_replace(files(GOOD));
    first.zones.begin().await.unwrap();
    folder.keeps("example.org").await;

    let (mut next, told) = Made::by_config_map(&folder);
    told.send_replace(Mounted::Unreachable);
    next.zones.begin().await.unwrap();
    assert_eq!(next.answered(), ["example.org"]);
    assert_eq!(next.shown("coredns_reload_failed_total"), 0.0, "nobody has refused anything");
    assert!(next.zones.said.contains("the API server has not shown the ConfigMap"), "{}", next.zones.said);
    // It is back: with a Corefile that is broken, then with another one.
    told.send_replace(files(BROKEN));
    let error = next.zones.look().await.unwrap_err();
    next.zones.refuse(&error).await;
    assert_eq!((next.answered(), next.shown("coredns_reload_failed_total")), (vec!["example.org".to_string()], 1.0));
    told.send_replace(files(OTHER));
    next.zones.look().await.unwrap();
    assert_eq!((next.answered(), next.status.pending_dns().len()), (vec!["example.com".to_string()], 5));
}

#[tokio::test]
async fn a_config_map_that_does_not_exist_leaves_it_to_the_settings_until_it_does() {
    let folder = Folder::new("absent");
    let (mut made, told) = Made::by_config_map(&folder);
    told.send_replace(Mounted::Absent);
    made.zones.begin().await.unwrap();
    assert_eq!(made.answered(), ["."]);
    told.send_replace(files(GOOD));
    made.zones.look().await.unwrap();
    assert_eq!(made.answered(), ["example.org"]);
    // Once it was there, it is missed.
    told.send_replace(Mounted::Absent);
    let error = made.zones.look().await.unwrap_err().to_string();
    assert!(error.contains("does not exist"), "{error}");
    assert_eq!(made.answered(), ["example.org"]);
}

#[tokio::test]
async fn what_needs_to_know_more_waits_until_it_is_known_or_something_else_is_written() {
    let folder = Folder::new("waits");
    let (mut made, told) = Made::by_config_map(&folder);
    told.send_replace(files(GOOD));
    made.zones.begin().await.unwrap();
    let chain = made.zones.chain();
    let following = tokio::spawn(made.zones.follow());
    told.send_replace(files(LABELLED));
    let asked = chain.demand().wait_for(|demand| demand.details.labels != LabelNames::None).await.unwrap().clone();
    assert_eq!(answered(&chain), ["example.org"]);
    told.send_replace(files(OTHER));
    answers(&chain, "example.com").await;
    told.send_replace(files(LABELLED));
    chain.know(asked);
    answers(&chain, "cluster.local").await;
    following.abort();
}

/// An agent that obeys a ConfigMap, in which something that needs to know more is written next: what it asks for.
async fn needs_more(folder: &Folder, deadline: Duration, corefile: &str) -> (Chain, Demand, JoinHandle<()>) {
    let (mut made, told) = Made::by_config_map(folder);
    made.zones.deadline = deadline;
    told.send_replace(files(GOOD));
    made.zones.begin().await.unwrap();
    let chain = made.zones.chain();
    let following = tokio::spawn(made.zones.follow());
    told.send_replace(files(corefile));
    let asked = chain.demand().wait_for(|demand| *demand != Demand::default()).await.unwrap().clone();
    (chain, asked, following)
}

#[tokio::test]
async fn what_is_to_be_known_of_all_that_is_watched_is_waited_for_however_long_it_takes() {
    let (folder, deadline) = (Folder::new("patient"), Duration::from_millis(20));
    let (chain, asked, following) = needs_more(&folder, deadline, LABELLED).await;
    assert!(
        timeout(20 * deadline, answers(&chain, "cluster.local")).await.is_err(),
        "it would answer without what it needs to know"
    );
    assert_eq!(answered(&chain), ["example.org"]);
    chain.know(asked);
    answers(&chain, "cluster.local").await;
    following.abort();
}

#[tokio::test]
async fn a_kind_that_was_not_watched_before_is_waited_for_and_not_for_ever() {
    let folder = Folder::new("not-for-ever");
    let (chain, asked, following) = needs_more(&folder, Duration::from_secs(300), VERIFIED).await;
    assert_eq!((answered(&chain), asked.pods), (vec!["example.org".to_string()], true));
    chain.know(asked);
    answers(&chain, "cluster.local").await;
    following.abort();
    // The agent may not be allowed to see them.
    let (chain, _, following) = needs_more(&folder, Duration::from_millis(20), VERIFIED).await;
    answers(&chain, "cluster.local").await;
    following.abort();
}

#[tokio::test]
async fn a_file_that_is_written_again_while_its_last_version_waits_is_obeyed() {
    let folder = Folder::new("rewritten");
    let often = |corefile: &str| corefile.replace("reload", "reload 2s");
    folder.write(&often(GOOD));
    let mut made = Made::by_file(&folder, "all");
    made.zones.begin().await.unwrap();
    let chain = made.zones.chain();
    let following = tokio::spawn(made.zones.follow());
    folder.write(&often(LABELLED));
    chain.demand().wait_for(|demand| demand.details.labels != LabelNames::None).await.unwrap();
    folder.write(&often(OTHER));
    answers(&chain, "example.com").await;
    following.abort();
}

/// Waits until this is the zone that is answered.
async fn answers(chain: &Chain, zone: &str) {
    let answers = async {
        while answered(chain) != [zone] {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), answers).await.expect("it is answered");
}
