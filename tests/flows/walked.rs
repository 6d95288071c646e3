//! The pure packet walk through the plan of the whole cluster.

use super::shared::world::{node_addresses, pod_of};
use super::shared::{ALL_SETTINGS, Client, Expect, Flow, Pods, Settings};
use ipnet::IpNet;
use libtest_mimic::Failed;
use std::collections::BTreeMap;
use std::iter;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use waypost::model::{Balance, Family, Update};
use waypost::nft::{Committer, Layout, Memory};
use waypost::proxy::{Chain, Context, Delta, Dest, DetectLocal, Element, Fate, Packet, Planner, Says, SlowStart, Target, Walk};
use waypost::source::{manifests, translate::Translator};
use waypost::store::Store;

/// The networks of ClusterIPs.
pub const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];

/// Walks one row.
pub fn walk(settings: &Settings, flow: &Flow) -> Result<(), Failed> {
    let family = Family::of(flow.target().ip());
    let layout = layouts(settings).into_iter().find(|layout| layout.family == family).expect("both families have one");
    let walk = Walk::new(elements(settings, family), layout.masquerade_all, layout.detect_local).on_node(node_addresses());
    let to = flow.target();
    let is_local = |address: IpAddr| node_addresses().any(|one| one == address);
    let packet = Packet {
        source: flow.source(),
        from_node: flow.from == Client::Node,
        from_pod_interface: match settings.pods {
            Pods::Bridge(_) => flow.from == Client::Pod,
            _ => matches!(flow.from, Client::Pod | Client::FarPod),
        },
        to: Dest { address: to.ip(), protocol: flow.protocol, port: to.port() },
        to_node: is_local(to.ip()),
    };
    let trace = walk.trace(&packet);
    let fate = trace.fate;
    let balanced = |wanted: &[&str], sees_node: fn(&Packet, bool) -> bool| {
        let Fate::Balanced(targets) = &fate else { return false };
        let slots = |target: &Target| iter::repeat_n(pod_of(target.backend.address), target.slots as usize);
        let mut pods: Vec<_> = targets.iter().flat_map(slots).collect();
        let mut wanted = wanted.to_vec();
        pods.sort_unstable();
        wanted.sort_unstable();
        // A pod that reaches itself is masqueraded in any case. One behind another node's has that node's address already.
        let as_wanted = |target: &Target| match target.backend.address == packet.source {
            true => target.masqueraded || flow.from != Client::Pod,
            false => sees_node(&packet, target.masqueraded),
        };
        pods == wanted && targets.iter().all(as_wanted)
    };
    let right = match flow.expect {
        Expect::Kept(pods) | Expect::Shares(pods) => balanced(pods, |_, masqueraded| !masqueraded),
        Expect::Masqueraded(pods) => balanced(pods, |packet, masqueraded| masqueraded || packet.from_node),
        Expect::InTurn(pods, _) => {
            let in_turn = |says: Says| matches!(says, Says::Goto(Chain::Own(draw)) if draw.method == Balance::RoundRobin);
            balanced(pods, |_, _| true) && trace.steps.iter().any(|step| in_turn(step.says))
        }
        Expect::Hashed(pod, _) => match walk.by_one_client().fate(&packet) {
            Fate::Balanced(targets) => targets.iter().map(|target| pod_of(target.backend.address)).eq([pod]),
            _ => false,
        },
        // Nobody is remembered yet.
        Expect::Sticky(pods, _) => balanced(pods, |_, _| true),
        Expect::Either(_) => return Err("nothing is chance in our tables".into()),
        Expect::Refused => fate == Fate::Refused,
        Expect::Dropped => fate == Fate::Dropped,
        Expect::Untouched | Expect::HandedOn(_) => fate == Fate::Untouched,
    };
    if right { Ok(()) } else { Err(format!("the walk ends in {fate:?}").into()) }
}

/// What the tables hold, worked out once for all rows.
fn elements(settings: &Settings, family: Family) -> Vec<Element> {
    static ALL: LazyLock<BTreeMap<(&str, Family), Vec<Element>>> = LazyLock::new(|| {
        let of = |settings: &&'static Settings| {
            let mut committer = Committer::new(Memory::default(), layouts(settings));
            committer.commit(plan(settings));
            Family::BOTH.map(|family| ((settings.name, family), committer.kernel().elements(family)))
        };
        ALL_SETTINGS.iter().flat_map(of).collect()
    });
    ALL[&(settings.name, family)].clone()
}

/// However slices and services arrive, the kernel ends up with the same.
pub fn any_order() -> Result<(), Failed> {
    for settings in ALL_SETTINGS {
        let mut stages = updates(settings);
        let wanted = planned(settings, stages.clone()).delta;
        for step in 0..5 {
            // Another order at each step; the ends of the listings stay where they are, since they only say that it is complete.
            for stage in &mut stages {
                let length = stage.len();
                stage.rotate_left((7 + step) % length);
                stage[..length / 2].reverse();
            }
            assert_eq!(planned(settings, stages.clone()).delta, wanted, "{}", settings.name);
        }
    }
    Ok(())
}

/// The tables' layouts under these settings.
pub fn layouts(settings: &Settings) -> [Layout; 2] {
    Family::BOTH.map(|family| Layout {
        family,
        masquerade_mark: 1 << settings.masquerade_bit,
        masquerade_all: settings.masquerade_all,
        tracked_dns: false,
        detect_local: match settings.pods {
            Pods::ClusterCidrs(&[]) => DetectLocal::Nothing,
            Pods::ClusterCidrs(_) | Pods::NodeCidrs => DetectLocal::Networks,
            Pods::Bridge(name) => DetectLocal::Interface(name.into()),
            Pods::InterfacePrefix(prefix) => DetectLocal::InterfacePrefix(prefix.into()),
        },
    })
}

/// The plan of the whole cluster, as the agent makes it.
pub fn plan(settings: &Settings) -> Delta {
    planned(settings, updates(settings)).delta
}

/// The cluster's objects as the agent gets them, folder by folder.
pub fn updates(settings: &Settings) -> Vec<Vec<Update>> {
    let of = |folder: PathBuf| {
        let manifests = manifests::read(&folder).expect("the manifests are right");
        let updates = manifests.updates(Some(settings.node), &mut Translator::default());
        updates.into_iter().filter(|update| !matches!(update, Update::ListBegin(_) | Update::ListEnd(_))).collect()
    };
    settings.folders().into_iter().map(of).collect()
}

/// What the agent knows and plans.
pub struct Planned {
    pub store: Store,
    pub planner: Planner,
    pub context: Context,
    pub delta: Delta,
}

/// The plan of these objects, which come folder by folder.
pub fn planned(settings: &Settings, updates: Vec<Vec<Update>>) -> Planned {
    let mut stages = updates.into_iter();
    let mut store: Store = stages.next().into_iter().flatten().collect();
    let node = store.node().expect("the node is there");
    let nodeport_networks = networks(&settings.nodeport_networks());
    let in_networks =
        |address: &IpAddr| !address.is_loopback() && nodeport_networks.iter().any(|network| network.contains(address));
    let context = Context {
        node_name: settings.node.into(),
        zone: node.zone.clone(),
        node_addresses: node.addresses.clone(),
        nodeport_addresses: match nodeport_networks.is_empty() {
            true => node.addresses.clone(),
            false => node_addresses().filter(in_networks).collect(),
        },
        dns_addresses: vec![],
        without_external_ips: !settings.external_ips,
        node_labels: node.labels.clone(),
    };
    let mut delta = Delta::default();
    let pod_networks = match settings.pods {
        Pods::ClusterCidrs(texts) => networks(texts),
        Pods::NodeCidrs => node.pod_cidrs.to_vec(),
        Pods::Bridge(_) | Pods::InterfacePrefix(_) => vec![],
    };
    delta.elements.extend(pod_networks.into_iter().map(|network| (Element::PodCidr(network), true)));
    delta.elements.extend(networks(&SERVICE_CIDRS).into_iter().map(|network| (Element::ServiceCidr(network), true)));
    let (mut planner, mut slow_start, mut now) = (Planner::default(), SlowStart::default(), Instant::now());
    loop {
        for key in store.service_keys() {
            let (service, slices) = (store.service(key), store.slices(key));
            planner.set_warming(key, slow_start.see(key, service, &slices, now));
            planner.update(key, service, &slices, &context, &mut delta);
        }
        let Some(stage) = stages.next() else { break };
        stage.into_iter().for_each(|update| store.apply(update));
        now += Duration::from_secs(1);
    }
    Planned { store, planner, context, delta }
}

/// These networks.
pub fn networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("a network")).collect()
}
