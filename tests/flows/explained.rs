//! The explanation of each row says what happens, and names its causes.

use super::shared::world::{node_addresses, pod_of};
use super::shared::{Client, Expect, Flow, Pods, Settings};
use super::walked::{SERVICE_CIDRS, layouts, networks, planned, updates};
use libtest_mimic::Failed;
use waypost::proxy::explain::{Account, From, Question, SourceKind, SourceSeen, Verdict, View, explain};

/// Explains one row.
pub fn explained(settings: &Settings, flow: &Flow) -> Result<(), Failed> {
    let planned = planned(settings, updates(settings));
    let own: Vec<_> = node_addresses().collect();
    let fixed: Vec<_> = planned.delta.elements.keys().copied().collect();
    let view = View {
        store: &planned.store,
        planner: &planned.planner,
        context: &planned.context,
        own_addresses: &own,
        fixed: &fixed,
        masquerade_all: settings.masquerade_all,
        detect_local: &layouts(settings).map(|layout| layout.detect_local),
        cluster_cidrs: &match settings.pods {
            Pods::ClusterCidrs(cidrs) => networks(cidrs),
            _ => Vec::new(),
        },
        service_cidrs: &networks(&SERVICE_CIDRS),
        domain: "cluster.local",
        answers_dns: false,
        clients: None,
    };
    let mut question = Question::parse(&flow.source().to_string(), &format!("{}/{}", flow.to, flow.protocol), view.domain)?;
    // Where pods are known by their interfaces an address alone does not tell.
    let is_known_pod = match settings.pods {
        Pods::Bridge(_) => flow.from == Client::Pod,
        Pods::InterfacePrefix(_) => matches!(flow.from, Client::Pod | Client::FarPod),
        _ => false,
    };
    if is_known_pod {
        question.from = From::Pod(vec![flow.source()]);
    }
    let explanation = explain(view, &question)?;
    let [account] = explanation.accounts.as_slice() else { return Err("there is more than one account".into()) };
    let told = !account.summary.is_empty() && !account.steps.is_empty();
    let caused = account.verdict == Verdict::Untouched || !account.because.is_empty();
    if told && caused && agrees(account, flow) { Ok(()) } else { Err(format!("{account:#?}").into()) }
}

fn agrees(account: &Account, flow: &Flow) -> bool {
    let sent = |pods: &[&str], wanted: Option<SourceSeen>| {
        let mut reached: Vec<&str> = account.endpoints.iter().map(|one| pod_of(one.address)).collect();
        let mut distinct = pods.to_vec();
        for names in [&mut reached, &mut distinct] {
            names.sort_unstable();
            names.dedup();
        }
        let shares: f64 = account.endpoints.iter().map(|one| one.share).sum();
        // A process of the node has an address of the node in any case, and so has a pod that reaches itself.
        let as_wanted = |one: &waypost::proxy::explain::Used| match one.address == flow.source() {
            true => one.source == SourceSeen::Masqueraded || flow.from != Client::Pod,
            false => wanted.is_none_or(|wanted| one.source == wanted) || account.from.kind == SourceKind::Node,
        };
        account.verdict == Verdict::Balanced
            && reached == distinct
            && (shares - 100.0).abs() < 1.0
            && account.endpoints.iter().all(as_wanted)
    };
    let shared = |pods: &[&str]| {
        let share = |pod| account.endpoints.iter().filter(|one| pod_of(one.address) == pod).map(|one| one.share).sum::<f64>();
        let of = |pod| 100.0 * pods.iter().filter(|other| **other == pod).count() as f64 / pods.len() as f64;
        pods.iter().all(|pod| (share(*pod) - of(*pod)).abs() < 0.1)
    };
    match flow.expect {
        Expect::Kept(pods) => sent(pods, Some(SourceSeen::Kept)),
        Expect::Shares(pods) => sent(pods, Some(SourceSeen::Kept)) && shared(pods),
        Expect::Masqueraded(pods) => sent(pods, Some(SourceSeen::Masqueraded)),
        Expect::Sticky(pods, _) | Expect::InTurn(pods, _) => sent(pods, None),
        Expect::Hashed(pod, _) => sent(&[pod], None),
        Expect::Either(_) => false,
        Expect::Refused => account.verdict == Verdict::Refused && account.endpoints.is_empty(),
        Expect::Dropped => account.verdict == Verdict::Dropped && account.endpoints.is_empty(),
        Expect::Untouched | Expect::HandedOn(_) => account.verdict == Verdict::Untouched,
    }
}
