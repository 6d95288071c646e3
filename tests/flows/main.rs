//! The table of flows, walked and driven: first by the pure packet walk, then with real packets through the agent's tables, each group of rows
//! in a world of its own. `tests/control_plane/proxy_oracle.rs` drives the same rows through the stock kube-proxy.

mod agent;
#[path = "../begin/mod.rs"]
mod begin;
mod coverage;
mod explained;
mod shared;
mod tables;
mod walked;

use agent::Worlds;
use libtest_mimic::{Failed, Trial};
use shared::{Flow, Settings, differences};
use std::collections::BTreeSet;
use std::sync::Arc;
use waypost::model::Protocol;

/// Most rows wait for an answer that does not come, so that many can be driven at a time.
const AT_A_TIME: usize = 16;

fn main() {
    let mut arguments = begin::in_a_user_namespace();
    arguments.test_threads.get_or_insert(AT_A_TIME);
    let worlds = Arc::new(Worlds::default());
    let mut trials = vec![
        Trial::test("every_rule_has_rows_in_both_families_and_over_both_protocols", coverage::is_complete),
        Trial::test("the_documents_say_how_many_flows_and_settings_there_are", coverage::is_documented),
        Trial::test("rows_and_document_name_the_same_differences_from_kube_proxy", differences_are_documented),
        Trial::test("objects_in_any_order_make_the_same_plan", walked::any_order),
    ];
    for (settings, flow) in rows() {
        trials.push(Trial::test(name("walk", settings, flow), move || walked::walk(settings, flow)));
        trials.push(Trial::test(name("explain", settings, flow), move || explained::explained(settings, flow)));
    }
    for (settings, flow) in rows().filter(|(_, flow)| flow.protocol != Protocol::Sctp) {
        let worlds = worlds.clone();
        trials.push(Trial::test(name("packets", settings, flow), move || worlds.drive(settings, flow)));
    }
    let with = |name: &str, test: fn(&Worlds) -> Result<(), Failed>| {
        let worlds = worlds.clone();
        Trial::test(name, move || test(&worlds))
    };
    trials.push(with("the_kernel_holds_what_the_plan_says_and_a_restart_writes_nothing", tables::restart_writes_nothing));
    trials.push(with("what_nft_lists_loads_again", tables::listing_loads_again));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        print!("{}", coverage::report());
    }
    // The agents end with their worlds.
    drop(worlds);
    conclusion.exit();
}

fn rows() -> impl Iterator<Item = (&'static Settings, &'static Flow)> {
    shared::groups().flat_map(|group| group.flows.iter().map(|flow| (group.settings, flow)))
}

fn name(oracle: &str, settings: &Settings, flow: &Flow) -> String {
    format!("{oracle} {}: {flow}", settings.name)
}

fn differences_are_documented() -> Result<(), Failed> {
    let documented = differences::documented();
    let named: BTreeSet<String> = rows().filter_map(|(_, flow)| flow.stock).map(|(name, _)| name.to_string()).collect();
    if documented == named { Ok(()) } else { Err(format!("documented are {documented:?}, rows name {named:?}").into()) }
}
