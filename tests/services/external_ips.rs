//! externalIPs, and the switch that leaves them alone.

use super::{PODS, world};
use libtest_mimic::{Failed, Trial};

pub fn tests() -> Vec<Trial> {
    vec![Trial::test("external_ips_are_served_unless_they_are_switched_off", switch)]
}

fn switch() -> Result<(), Failed> {
    let targets = ["198.51.100.1:80", "[2001:db8:1::1]:80"];
    let on = world("external-ips", &[PODS]);
    targets.iter().for_each(|target| on.reached(&on.outside, target));
    let off = world("no-external-ips", &[PODS, "--external-ips=false"]);
    // What is no service's is the node's own, and nobody listens there.
    for address in ["198.51.100.1", "2001:db8:1::1"] {
        off.node.add_address(address.parse()?)?;
    }
    targets.iter().for_each(|target| off.refused(&off.outside, target));
    off.reached(&off.outside, "192.0.2.10:30080");
    off.reached(&off.client, "10.96.0.1:80");
    Ok(())
}
