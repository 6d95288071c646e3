//! Waypost on a real cluster: etcd, API server, controllers, scheduler, and three nodes with containerd, runc and kubelet, as `make cluster`
//! starts them.
//!
//! One cluster serves all tests, which therefore run one after the other, in this order. Each first brings the cluster into the state that
//! it begins with, so that it can be run alone.

mod bad_days;
mod by_make;
mod cluster;
mod documents;
#[path = "../control_plane/eventually.rs"]
mod eventually;
mod groups;
mod guards;
mod install;
mod load;
mod memory;
mod migrate;
mod network;
#[path = "../prometheus/mod.rs"]
mod prometheus;
mod shop;
mod state;
mod traces;
mod upgrade;
mod walls;
mod watched;

use libtest_mimic::{Arguments, Failed, Trial};
use state::Stage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

type Case = fn(&Stage);

const CASES: &[(&str, Case)] = &[
    ("a_stock_cluster_gets_waypost_by_the_readme_alone_word_for_word", install::by_the_readme),
    ("pods_have_the_resolv_conf_that_kubelet_writes_and_resolve_every_kind_of_service", network::names),
    ("services_answer_pods_host_network_pods_and_the_node_over_tcp_and_udp", network::from_inside),
    ("node_ports_and_load_balancer_addresses_answer_the_host_outside", network::from_outside),
    ("exec_logs_and_port_forward_work", network::kubectl_streams),
    ("the_chart_is_upgraded_and_rolled_back_under_load_and_loses_nothing", upgrade::there_and_back),
    ("a_value_that_only_the_agent_can_refuse_is_named_and_costs_no_connection", bad_days::crash_loop),
    ("a_node_whose_processes_all_ended_serves_again", bad_days::node_restarts),
    ("a_new_node_serves", bad_days::new_node),
    ("a_node_is_drained_and_connections_from_outside_reach_its_ending_pod_until_the_health_check_says_so", bad_days::drained),
    ("pods_and_agents_that_restart_while_the_api_server_is_away_lose_nothing", bad_days::api_server_away),
    ("make_cluster_starts_one_node_with_waypost_beside_another_cluster", by_make::one_node_with_waypost),
    ("control_groups_of_version_2_are_handed_on_to_what_runs_on_a_node", groups::of_version_two),
    ("a_wrong_value_is_refused_by_the_charts_schema", bad_days::wrong_value),
    ("an_agent_that_misses_a_permission_says_which", bad_days::missing_permission),
    ("a_kube_proxy_beside_the_agents_is_reported", bad_days::kube_proxy_beside),
    ("a_second_dns_server_on_a_node_is_reported", bad_days::second_dns_server),
    (
        "a_prometheus_finds_every_agent_and_raises_alerts_in_bad_days_an_agent_out_of_memory_in_a_crash_loop_included",
        watched::by_prometheus,
    ),
    ("services_go_on_when_the_chart_is_taken_away_and_installed_again", upgrade::away_without_cleanup),
    ("with_cleanup_nothing_of_waypost_is_left", upgrade::away_with_cleanup),
    ("the_chart_is_installed_with_its_defaults_and_everything_is_ready", install::ready_as_the_chart_says),
    ("every_command_in_the_text_of_the_documents_works", documents::those_in_the_text_work),
    ("a_stock_cluster_with_node_local_dns_is_moved_to_waypost_and_back_under_load_and_loses_nothing", migrate::in_and_back),
    ("every_command_of_the_documents_was_run_by_a_test_before_this_one", documents::all_are_run),
    ("nothing_of_a_cluster_is_left_but_logs", by_make::nothing_is_left),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list {
        return run_tests(arguments);
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("\nNOT TESTED: the real cluster. Containers and namespaces of other users need root: run make test as root.\n");
        return if std::env::var_os("CI").is_some() {
            ExitCode::FAILURE
        } else {
            run_tests(Arguments { list: true, ..arguments })
        };
    }
    walls::around(|| run_tests(arguments))
}

fn run_tests(mut arguments: Arguments) -> ExitCode {
    arguments.test_threads = Some(1);
    let stage = if arguments.list { None } else { Some(Arc::new(Stage::start())) };
    let trials = CASES.iter().map(|(name, case)| {
        let stage = stage.clone();
        Trial::test(*name, move || stage.as_ref().map_or(Ok(()), |stage| run_case(stage, *case)))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs one case; when it fails, what the cluster looks like is shown with it.
fn run_case(stage: &Stage, case: Case) -> Result<(), Failed> {
    catch_unwind(AssertUnwindSafe(|| case(stage))).map_err(|panic| {
        stage.forget();
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
        Failed::from(format!("{text}\n\n{}", stage.describe()))
    })
}
