//! The agent against a real control plane: etcd, kube-apiserver and Kubernetes' own EndpointSlice controller, with pods as network
//! namespaces and real packets.
//!
//! One control plane serves all tests, which therefore run one after the other; each has a node of its own. The same binary also
//! is the playground of `make lab` (`--playground`) and the benchmark of `make bench` (`--bench SIZES [ROW]`), whose files are in `benches`.

mod agent;
mod bad_input;
mod chart;
mod cluster;
mod corefile_cases;
mod corefile_config_map;
mod corefile_differences;
mod corefile_oracle;
mod corefile_plugin_cases;
mod corefile_server;
mod corefile_times;
mod corefile_upstreams;
#[path = "../corefiles/mod.rs"]
mod corefiles;
mod dns_differences;
mod dns_generated;
mod dns_metrics;
mod dns_oracle;
mod dns_question;
mod dns_upstream;
mod events;
mod eventually;
mod explained;
#[path = "../flows/shared/mod.rs"]
mod flows;
mod health_check;
mod kube_proxy;
#[path = "../load/mod.rs"]
mod load;
mod metrics;
#[path = "../corefiles/others.rs"]
mod others;
mod playground;
mod processes;
#[path = "../prometheus/mod.rs"]
mod prometheus;
mod proxy_oracle;
mod relay;
mod restarts;
mod rolling;
mod scale;
mod service_cidrs;
mod services;
#[path = "../../benches/side_by_side/mod.rs"]
mod side_by_side;
mod stage;
mod table;
mod walls;
mod watched;

use cluster::Cluster;
use libtest_mimic::{Arguments, Failed, Trial};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;

type Case = fn(&Cluster);

const CASES: &[(&str, Case)] = &[
    // First, while the addresses that the table gives to its services are free.
    (
        "the_stock_kube_proxy_does_what_the_table_of_flows_says_but_for_the_documented_differences",
        proxy_oracle::does_what_the_table_says,
    ),
    ("dns_answers_as_the_stock_coredns_but_for_what_the_documents_list", dns_oracle::as_corednss),
    ("a_corefile_is_obeyed_as_the_stock_coredns_obeys_it", corefile_oracle::as_corednss),
    ("caches_of_a_corefile_keep_time_as_the_stock_corednss", corefile_times::as_corednss),
    ("upstream_servers_of_a_corefile_that_fail_are_counted_as_the_stock_coredns_counts_them", corefile_upstreams::as_corednss),
    ("a_corefile_in_a_config_map_is_followed_and_a_broken_one_changes_nothing", corefile_config_map::followed),
    ("a_corefile_that_needs_to_know_more_of_the_cluster_comes_into_force_without_a_failure", corefile_config_map::widened),
    ("a_service_made_with_kubectl_is_resolved_and_reached", services::made_with_kubectl),
    ("connections_follow_a_service_that_is_scaled", services::scaled),
    ("a_deleted_service_is_gone_from_dns_and_kernel", services::deleted),
    ("headless_and_external_names_are_resolved", services::headless_and_external),
    ("a_node_port_answers_on_the_nodes_address", services::node_port),
    ("node_ports_follow_the_addresses_of_the_node_object", services::node_address_changes),
    ("explain_and_services_read_the_api_server_as_a_running_agent_does", explained::from_the_api_server),
    ("what_was_deleted_while_the_api_server_was_away_is_noticed", restarts::api_server_restart),
    ("an_agent_that_restarts_notices_what_changed_meanwhile", restarts::agent_restart),
    ("an_agent_that_starts_without_the_api_server_serves_what_an_earlier_one_knew", restarts::start_without_api_server),
    ("kill_9_and_restart_lose_no_byte_of_a_download_and_write_nothing", restarts::kill_during_download),
    ("a_rolling_update_loses_no_connection_while_the_agent_is_killed_each_second", rolling::while_the_agent_is_killed),
    ("a_rolling_update_loses_no_connection_while_the_api_server_restarts", rolling::while_the_api_server_restarts),
    ("without_permission_to_list_the_agent_says_which_right_it_needs", bad_input::no_permission),
    ("a_wrong_kubeconfig_is_named", bad_input::wrong_kubeconfig),
    ("without_net_admin_the_agent_says_so", bad_input::no_net_admin),
    ("a_port_in_use_is_named", bad_input::port_in_use),
    ("odd_objects_do_not_stop_the_others", bad_input::odd_objects),
    ("a_service_with_an_invalid_address_is_named_and_skipped", bad_input::invalid_address),
    ("garbage_on_the_dns_port_changes_nothing", bad_input::garbage_on_the_dns_port),
    ("the_chart_is_accepted_its_rights_are_enough_and_its_dns_pods_stand_in_for_the_agent", chart::rights_are_enough),
    ("events_reach_the_objects_that_they_are_about_and_repeat_as_a_count", events::arrive_and_repeat),
    ("an_annotation_that_cannot_be_is_an_event_on_its_object_and_a_corrected_one_is_obeyed", events::invalid_annotations),
    ("a_leftover_of_the_stock_kube_proxy_is_reported_on_the_node_and_removed", events::kube_proxy_left_over),
    ("a_table_that_translates_before_the_agents_is_an_event_on_the_node", events::foreign_translation),
    ("health_check_node_ports_answer_as_kube_proxys_do_byte_for_byte", health_check::as_kube_proxys),
    ("the_pages_about_health_are_kube_proxys_byte_for_byte", health_check::pages_as_kube_proxys),
    ("a_node_that_is_deleted_is_unhealthy_as_with_kube_proxy_until_it_joins_again", health_check::node_deleted),
    ("a_health_check_node_port_in_use_is_an_event_and_served_once_it_is_free", health_check::port_in_use),
    ("networks_of_service_cidr_objects_join_those_of_the_flag", service_cidrs::follow_objects),
    ("the_metrics_have_kube_proxys_names_types_labels_and_buckets_and_move", metrics::as_kube_proxys),
    ("prometheus_finds_everything_shows_the_dashboard_and_raises_the_alerts", watched::by_prometheus),
    ("a_thousand_services_are_programmed_and_resolvable", scale::a_thousand_services),
];

fn main() -> ExitCode {
    let mode = std::env::args().nth(1).unwrap_or_default();
    side_by_side::become_one(&mode, &std::env::args().nth(2).unwrap_or_default());
    match mode.as_str() {
        "--playground" => playground::main(),
        "--bench" => {
            walls::build_tools(&["control-plane", "kubectl", "kube-proxy", "coredns"]);
            let sizes = std::env::args().nth(2).unwrap_or_default();
            let Ok(sizes) = sizes.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>() else {
                eprintln!("--bench takes numbers of services, as 1000,10000, and then a row's name, or none for all");
                return ExitCode::FAILURE;
            };
            walls::around_as_root(|| side_by_side::run(std::env::args().nth(3), &sizes))
        }
        _ => {
            let arguments = Arguments::from_args();
            if !arguments.list {
                walls::build_tools(&["control-plane", "kubectl", "helm", "kube-proxy", "coredns"]);
            }
            walls::around(Stdio::null(), || run_tests(arguments))
        }
    }
}

fn run_tests(mut arguments: Arguments) -> ExitCode {
    // They share the API server, and one of them restarts it.
    arguments.test_threads = Some(1);
    let cluster = if arguments.list { None } else { Some(Arc::new(Cluster::start("tests"))) };
    let trials = CASES.iter().map(|(name, case)| {
        let cluster = cluster.clone();
        Trial::test(*name, move || match &cluster {
            Some(cluster) => run_case(cluster, *case),
            None => Ok(()),
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs one case; when it fails, the logs of everything that took part are shown with it.
fn run_case(cluster: &Cluster, case: Case) -> Result<(), Failed> {
    catch_unwind(AssertUnwindSafe(|| case(cluster))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
        Failed::from(format!("{text}\n\n{}", processes::tails(cluster.directory())))
    })
}
