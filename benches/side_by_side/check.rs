//! That no row was reached by leaving work out: kernel and answers are compared with the API server.

use super::{Bench, NAMESPACE};
use crate::agent::addresses_of;
use crate::processes::output;
use crate::scale;
use crate::stage::Stage;
use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use std::process::Command;

/// Every destination in the kernel leads to the endpoints that the API server has, and every name resolves to the address that it has.
///
/// # Panics
/// With what differs.
pub fn in_step(bench: &Bench, stage: &Stage<'_>) {
    scale::assert_everything_programmed(stage);
    let services = Api::<Service>::namespaced(bench.cluster.client(), NAMESPACE);
    let services = bench.runtime().block_on(services.list(&ListParams::default())).expect("the API server lists");
    let names: Vec<_> = services.iter().map(|service| format!("{}.{NAMESPACE}.svc.cluster.local", service.name_any())).collect();
    let expected: Vec<_> = services.iter().filter_map(|service| service.spec.as_ref()?.cluster_ip.clone()).collect();
    let answers = addresses_of(stage.client.namespace(), &names, bench.cluster.directory());
    assert!(answers == expected, "of {} names {} resolve; or not to the right addresses", expected.len(), answers.len());
}

/// kube-proxy has a rule for every service.
///
/// # Panics
/// When there are fewer.
pub fn kube_proxy_has(stage: &Stage<'_>, services: u32) {
    let mut nft = Command::new("nft");
    let listing = output(stage.node.namespace(), nft.args(["list", "map", "ip", "kube-proxy", "service-ips"]));
    let found = listing.matches(" : goto ").count();
    assert!(found >= services as usize, "kube-proxy has programmed {found} of {services} services");
}
