//! The stock kube-proxy as an oracle: it gets the objects of the table of flows from the API server, and every row is driven through its
//! rules. It must do what the table says, but for the differences that are documented, and those it must show.

use super::cluster::Cluster;
use super::flows::world::World;
use super::flows::{self, ALL_SETTINGS, Flow, Pods, Settings, differences};
use super::kube_proxy;
use super::processes::{Process, eventually};
use super::relay::Relay;
use super::stage;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use waypost::model::Protocol;

/// Most rows wait for an answer that does not come, so that many can be driven at a time.
const AT_A_TIME: usize = 16;
/// How many objects are written at a time.
const WRITERS: usize = 8;
const NAMESPACE: &str = "shop";
/// What is there before kube-proxy starts.
const NODES: &str = "nodes.yaml";

/// A world that kube-proxy serves.
struct Served {
    world: World,
    _kube_proxy: Process,
    _relay: Relay,
}

type Row<'a> = (&'a Settings, &'a Flow, &'a World);

pub fn does_what_the_table_says(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", NAMESPACE]);
    let (nodes, services): (Vec<PathBuf>, Vec<PathBuf>) = files().into_iter().partition(|file| file.ends_with(NODES));
    nodes.iter().for_each(|file| load(cluster, file));
    let served = serve(cluster);
    // File by file: what kube-proxy makes of all at once is a larger batch than a user namespace may send.
    for file in &services {
        load(cluster, file);
        await_addresses(file, &served);
    }
    let rows: Vec<Row> = flows::groups()
        .flat_map(|group| group.flows.iter().map(|flow| (group.settings, flow, &served[group.settings.name].world)))
        .filter(|(_, flow, _)| flow.protocol != Protocol::Sctp)
        .collect();
    // What fails is driven again: kube-proxy may have been about to follow a last object.
    let failed = drive(&rows, AT_A_TIME);
    let failed = drive(&failed.into_iter().map(|(row, _)| row).collect::<Vec<_>>(), 1);
    for (name, Served { world, .. }) in &served {
        fs::write(cluster.directory().join(format!("kube-proxy-{name}.nft")), world.output("nft", &["list", "ruleset"])).unwrap();
    }
    let mut surprises: Vec<String> = failed.into_iter().map(|(row, outcome)| surprise(row, &outcome)).collect();
    let shown: BTreeSet<String> = rows.iter().filter_map(|(_, flow, _)| flow.stock.map(|(name, _)| name.to_string())).collect();
    surprises.extend(differences::documented().difference(&shown).map(|name| format!("no row shows the difference {name}")));
    assert!(surprises.is_empty(), "{} surprises:\n{}", surprises.len(), surprises.join("\n"));
    println!("kube-proxy was driven through {} flows; it differs from Waypost in {shown:?}", rows.len());
    drop(served);
    cluster.kubectl(&["delete", "--namespace", NAMESPACE, "services,endpointslices", "--all"]);
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
    cluster.kubectl(&["delete", "node", "node-4"]);
}

/// What is to be said of a row in which kube-proxy did not do what the table says of it.
fn surprise((settings, flow, world): Row, outcome: &str) -> String {
    let head = format!("{}: {flow}", settings.name);
    let says = flow.says();
    match flow.stock {
        None => format!("{head}\n    is not what kube-proxy does: {outcome} ({says})"),
        Some((name, _)) if world.drive(flow, flow.expect).is_ok() => {
            format!("{head}\n    is what kube-proxy does too: here the difference {name} does not occur any more ({says})")
        }
        Some((name, expect)) => format!("{head}\n    {name} says that kube-proxy does {expect:?}, but: {outcome} ({says})"),
    }
}

/// Drives rows side by side and returns those that went otherwise than they should with kube-proxy, with what happened.
fn drive<'a>(rows: &[Row<'a>], at_a_time: usize) -> Vec<(Row<'a>, String)> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (_, flow, world) = row;
                    let expect = flow.stock.map_or(flow.expect, |(_, expect)| expect);
                    if let Err(outcome) = world.drive(flow, expect) {
                        failed.lock().unwrap().push((*row, outcome));
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

/// A world for each settings, side by side.
fn serve(cluster: &Cluster) -> BTreeMap<&'static str, Served> {
    thread::scope(|scope| {
        let started: Vec<_> =
            ALL_SETTINGS.iter().map(|settings| scope.spawn(|| (settings.name, Served::start(cluster, settings)))).collect();
        started.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

impl Served {
    fn start(cluster: &Cluster, settings: &Settings) -> Served {
        let world = World::build().unwrap();
        let relay = stage::relay_into(cluster, world.node.namespace());
        let name = format!("kube-proxy-{}", settings.name);
        let process = kube_proxy::start(cluster, world.node.namespace(), &name, &configuration(settings));
        kube_proxy::await_synced(world.node.namespace());
        Served { world, _kube_proxy: process, _relay: relay }
    }
}

fn configuration(settings: &Settings) -> String {
    let mut text = format!(
        "hostnameOverride: {}\nnftables: {{masqueradeAll: {}, masqueradeBit: {}}}\n",
        settings.node, settings.masquerade_all, settings.masquerade_bit
    );
    text += &match settings.pods {
        Pods::ClusterCidrs(&[]) => String::new(),
        Pods::ClusterCidrs(networks) => format!("clusterCIDR: \"{}\"\n", networks.join(",")),
        Pods::NodeCidrs => "detectLocalMode: NodeCIDR\n".to_string(),
        Pods::Bridge(name) => format!("detectLocalMode: BridgeInterface\ndetectLocal: {{bridgeInterface: {name}}}\n"),
        Pods::InterfacePrefix(prefix) => {
            format!("detectLocalMode: InterfaceNamePrefix\ndetectLocal: {{interfaceNamePrefix: {prefix}}}\n")
        }
    };
    if !settings.external_ips {
        text += "featureGates: {AllowServiceExternalIPs: false}\n";
    }
    if !settings.nodeport_networks().is_empty() {
        text += &format!("nodePortAddresses: {:?}\n", settings.nodeport_networks());
    }
    text
}

/// The files of the table's objects, in the order in which they come.
fn files() -> Vec<PathBuf> {
    let of = |folder: PathBuf| {
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    let folders: BTreeSet<PathBuf> = ALL_SETTINGS.iter().flat_map(|settings| settings.folders()).collect();
    folders.into_iter().flat_map(of).collect()
}

fn objects(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    text.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

/// Gives a file's objects to the API server, with what is usually written to their status by others.
fn load(cluster: &Cluster, file: &Path) {
    let applied = stream::iter(objects(file)).map(|object| apply(cluster, object)).buffer_unordered(WRITERS);
    cluster.runtime().block_on(applied.try_collect::<Vec<()>>()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

/// Waits until kube-proxy knows the ClusterIPs of a file in every world. Its own label excepts a Service.
fn await_addresses(file: &Path, served: &BTreeMap<&'static str, Served>) {
    let objects = objects(file);
    let proxied =
        objects.iter().filter(|object| object["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"].is_null());
    let texts =
        |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect::<Vec<_>>();
    let addresses: Vec<String> =
        proxied.flat_map(|object| texts(&object["spec"]["clusterIPs"])).filter(|one| one != "None").collect();
    for (name, Served { world, .. }) in served {
        eventually(&format!("kube-proxy of {name} follows {}", file.display()), || {
            let known = world.output("nft", &["list", "ruleset"]);
            let missing: Vec<&String> = addresses.iter().filter(|address| !known.contains(&format!("{address} "))).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} are missing")) }
        });
    }
}

async fn apply(cluster: &Cluster, mut object: Value) -> Result<(), String> {
    let status = object.as_object_mut().unwrap().remove("status");
    let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
    let (group, plural) = match kind {
        "Service" => ("", "services"),
        "Node" => ("", "nodes"),
        "EndpointSlice" => ("discovery.k8s.io", "endpointslices"),
        other => panic!("the folder has a {other}; say here where it goes"),
    };
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
    let api: Api<DynamicObject> = match kind {
        "Node" => Api::all_with(cluster.client(), &resource),
        _ => Api::namespaced_with(cluster.client(), NAMESPACE, &resource),
    };
    let params = PatchParams::apply("flows").force();
    let failed = |error: kube::Error| format!("{kind} {name}: {error}");
    api.patch(name, &params, &Patch::Apply(&object)).await.map_err(failed)?;
    if let Some(status) = status {
        // A Node's addresses cannot be applied: two of one type are the same to it.
        let status = Patch::Merge(json!({ "status": status }));
        api.patch_status(name, &PatchParams::default(), &status).await.map_err(failed)?;
    }
    Ok(())
}
