//! The kernel's tables as the `nft` program reads them: a witness that shares no code with the agent.

use super::processes::{Process, eventually, output};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use waypost::lab::Namespace;

const FAMILIES: [&str; 2] = ["ip", "ip6"];

/// The elements of one map: destination → verdict, or destination and slot → endpoint.
pub type Elements = BTreeMap<String, String>;

/// Both families' elements of a map, counters left out.
pub fn map(node: &Namespace, name: &str) -> Elements {
    let mut elements = Elements::new();
    for family in FAMILIES {
        let text = output(node, Command::new("nft").args(["--numeric-protocol", "list", "map", family, "waypost", name]));
        elements.extend(elements_of(&text));
    }
    elements
}

/// For each destination (`address . protocol . port`) the set of its endpoints (`address . port`).
///
/// # Panics
/// When the slots of a destination are not 0 to n-1, or its entry does not draw from n.
pub fn balanced(node: &Namespace) -> BTreeMap<String, BTreeSet<String>> {
    let (services, endpoints) = services_and_endpoints(node);
    let mut slots: BTreeMap<String, BTreeMap<u32, String>> = BTreeMap::new();
    for (key, endpoint) in endpoints {
        let (destination, slot) = key.rsplit_once(" . ").expect("a key ends with the slot");
        slots.entry(destination.to_string()).or_default().insert(slot.parse().unwrap(), endpoint);
    }
    for (destination, slots) in &slots {
        let count = slots.len();
        assert!(slots.keys().copied().eq(0..count as u32), "{destination} has slots {:?}", slots.keys());
        assert_eq!(services.get(destination), Some(&format!("goto pick-{count}")), "the entry of {destination}");
    }
    assert_eq!(services.len(), slots.len(), "entries without endpoints, or endpoints without entries");
    slots.into_iter().map(|(destination, slots)| (destination, slots.into_values().collect())).collect()
}

/// Both maps of one moment: `nft` lists one at a time, and the agent may commit between the two.
fn services_and_endpoints(node: &Namespace) -> (Elements, Elements) {
    eventually("the table holds still for two listings", || {
        let before = map(node, "services");
        let endpoints = map(node, "endpoints");
        if map(node, "services") == before { Ok((before, endpoints)) } else { Err("it changed meanwhile".into()) }
    })
}

/// Parses `elements = { key counter packets 0 bytes 0 : data, … }`.
fn elements_of(listing: &str) -> Elements {
    let Some((_, rest)) = listing.split_once("elements = {") else {
        return Elements::new();
    };
    let inside = rest.split_once('}').expect("the list of elements ends").0;
    let elements = inside.split(',').map(|element| {
        let (key, data) = element.trim().split_once(" : ").unwrap_or_else(|| panic!("an element without data: {element}"));
        let key = key.split(" counter").next().unwrap_or(key);
        (key.trim().to_string(), data.trim().to_string())
    });
    elements.collect()
}

/// Listens to everything that changes in a node's nf_tables.
pub struct Monitor {
    node: Namespace,
    process: Process,
}

impl Monitor {
    /// Starts to listen. When this returns, no later change escapes it.
    pub fn start(node: &Namespace, directory: &Path, name: &str) -> Monitor {
        let mut command = Command::new("nft");
        command.arg("monitor");
        let process = Process::start(node, directory, &format!("nft-monitor-{name}"), &mut command);
        let monitor = Monitor { node: node.clone(), process };
        // It listens when it has shown a change, so changes are made until it does.
        eventually("nft monitor listens", || {
            monitor.touch("listening");
            if monitor.process.printed().contains("listening") { Ok(()) } else { Err("it has shown nothing".to_string()) }
        });
        monitor
    }

    /// The lines about the agent's tables, up to now.
    pub fn changes(self) -> Vec<String> {
        self.touch("finished");
        eventually("nft monitor has caught up", || match self.process.printed().contains("finished") {
            true => Ok(()),
            false => Err("it has not shown the last change".to_string()),
        });
        let ours = |line: &&str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.windows(2).any(|pair| FAMILIES.contains(&pair[0]) && pair[1] == "waypost")
        };
        self.process.printed().lines().filter(ours).map(str::to_string).collect()
    }

    fn touch(&self, table: &str) {
        output(&self.node, Command::new("nft").args(["add", "table", "ip", table]));
        output(&self.node, Command::new("nft").args(["delete", "table", "ip", table]));
    }
}

/// The agent's tables with the numbers of every object, without counters: equal only when nothing was made anew.
pub fn handles(node: &Namespace) -> String {
    let list = |family| output(node, Command::new("nft").args(["--handle", "--stateless", "list", "table", family, "waypost"]));
    FAMILIES.map(list).concat()
}
