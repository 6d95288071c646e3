//! The part of the tour that shows what is in the kernel.

use super::cluster::Cluster;
use super::scratch::program;
use super::screen::{Screen, counted};
use super::traffic::endpoints;
use crate::model::{Family, ServiceKind};
use std::cmp::Reverse;
use std::net::IpAddr;
use std::process::Command;

/// How many elements of a map are worth reading.
const ROOM: usize = 6;

/// Shows the elements of one service, as the `nft` program reads them where it is at hand.
pub fn show(cluster: &Cluster, screen: &mut Screen) -> anyhow::Result<()> {
    let Some((name, address)) = scene(cluster) else { return Ok(()) };
    screen.heading("In the kernel", &format!("what stands behind {name}: services are elements, never rules"));
    let Some(nft) = program("nft") else {
        screen.line(
            "nft is not installed here, so this is the agent's own knowledge (apt-get install nftables to see the tables):",
        );
        own_knowledge(cluster, address).iter().for_each(|line| screen.line(&screen.faint(line)));
        return Ok(());
    };
    let table = if address.is_ipv4() { "ip" } else { "ip6" };
    for map in ["services", "endpoints"] {
        let output = cluster.node.namespace().output(Command::new(&nft).args(["list", "map", table, "waypost", map]))?;
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        let all = elements(&listing);
        let own: Vec<_> = all.iter().filter(|element| element.starts_with(&format!("{address} "))).collect();
        let what = format!(
            "nft list map {table} waypost {map}  {}",
            screen.faint(&format!("({} in all)", counted(all.len(), "element")))
        );
        screen.check(!own.is_empty(), &what, || match output.status.success() {
            true => format!("no element for {address}"),
            false => String::from_utf8_lossy(&output.stderr).trim().to_string(),
        });
        own.iter().take(ROOM).for_each(|element| screen.line(&format!("    {element}")));
        if own.len() > ROOM {
            screen.line(&screen.faint(&format!("    and {} more", own.len() - ROOM)));
        }
    }
    Ok(())
}

/// A service with endpoints, the more of them the better.
fn scene(cluster: &Cluster) -> Option<(String, IpAddr)> {
    let count = |key| cluster.store.slices(key).iter().map(|slice| slice.endpoints.len()).sum::<usize>();
    let services = cluster.services().filter(|service| service.kind == ServiceKind::ClusterIp && service.proxied);
    let most = services.filter(|service| !service.cluster_ips.is_empty()).min_by_key(|service| Reverse(count(&service.key)))?;
    (count(&most.key) > 0).then(|| (most.key.to_string(), most.cluster_ips[0]))
}

fn own_knowledge(cluster: &Cluster, address: IpAddr) -> Vec<String> {
    let mut lines = Vec::new();
    for service in cluster.services().filter(|service| service.cluster_ips.contains(&address)) {
        for port in &service.ports {
            let endpoints = endpoints(cluster, service, port, Family::of(address));
            lines.extend(endpoints.iter().map(|endpoint| format!("{address} . {} . {} : {endpoint}", port.protocol, port.port)));
        }
    }
    lines
}

/// The elements in a listing of a map by nft.
fn elements(listing: &str) -> Vec<String> {
    let inside = listing.split_once("elements = {").and_then(|(_, rest)| rest.split_once('}')).map_or("", |(inside, _)| inside);
    let elements = inside.split(',').map(|element| element.split_whitespace().collect::<Vec<_>>().join(" "));
    elements.filter(|element| !element.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_in_a_listing() {
        let listing = "table ip waypost {\n\tmap services {\n\t\ttypeof ip daddr . meta l4proto . th dport : verdict\n\t\tcounter\n\
                       \t\telements = { 10.96.0.1 . tcp . 443 counter packets 0 bytes 0 : goto pick-1,\n\
                       \t\t\t     10.96.0.11 . tcp . 80 counter packets 3 bytes 180 : goto pick-3 }\n\t}\n}\n";
        assert_eq!(
            elements(listing),
            [
                "10.96.0.1 . tcp . 443 counter packets 0 bytes 0 : goto pick-1",
                "10.96.0.11 . tcp . 80 counter packets 3 bytes 180 : goto pick-3"
            ]
        );
        assert!(elements("table ip waypost {\n\tmap services {\n\t}\n}\n").is_empty());
    }
}
