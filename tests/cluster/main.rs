//! Waypost on a real cluster: etcd, API server, controllers, scheduler, and three nodes with containerd, runc and kubelet, as `make cluster`
//! starts them.
//!
//! One cluster serves all tests, which therefore run one after the other, in this order. Each first brings the cluster into the state that
//! it begins with, so that it can be run alone.

mod cluster;
mod documents;
#[path = "../control_plane/eventually.rs"]
mod eventually;
mod install;
mod load;
mod migrate;
mod network;
mod shop;
mod state;
mod walls;

use libtest_mimic::{Arguments, Failed, Trial};
use state::Stage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

type Case = fn(&Stage);

const CASES: &[(&str, Case)] = &[
    ("the_chart_is_installed_with_its_defaults_and_everything_is_ready", install::ready_as_the_chart_says),
    ("pods_have_the_resolv_conf_that_kubelet_writes_and_resolve_every_kind_of_service", network::names),
    ("services_answer_pods_host_network_pods_and_the_node_over_tcp_and_udp", network::from_inside),
    ("node_ports_and_load_balancer_addresses_answer_the_host_outside", network::from_outside),
    ("exec_logs_and_port_forward_work", network::kubectl_streams),
    ("a_stock_cluster_is_moved_to_waypost_and_back_under_load_and_loses_nothing", migrate::in_and_back),
    ("every_command_of_the_documents_was_run_by_a_test_before_this_one", documents::all_are_run),
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
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
        Failed::from(format!("{text}\n\n{}", stage.describe()))
    })
}
