//! The commands of the documents, run on the cluster as they stand there.
//!
//! A fenced block with the info string `sh` is for the cluster's administrator, `sh node` for a shell on every node; `sh not run:` is followed by the
//! reason why it cannot be run here. Blocks of one section are run together, in one shell, as a reader would. Commands within the text are run one by
//! one.

use super::bad_days::restart_agent;
use super::cluster::{NODES, finish};
use super::shop;
use super::state::Stage;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;

/// Where commands that are shown are also run.
const DOCUMENTS: &[&str] = &["README.md", "docs/install.md", "docs/migrate.md", "docs/operate.md", "docs/security.md"];

/// Programs of the administrator, of a node, and of an agent's pod.
const PROGRAMS: [(Place, &[&str]); 3] = [
    (
        Place::Administrator,
        &["kubectl", "helm", "make", "kubeadm", "k3s", "scripts/build-static", "scripts/kind", "scripts/cluster"],
    ),
    (Place::Node, &["nft", "dig", "curl", "ip", "ss", "conntrack", "waypost"]),
    (Place::Agent, &["/waypost"]),
];

/// Commands within the text that go on until somebody ends them.
const FOLLOWING: &[&str] = &["nft monitor", "ip monitor address"];

/// Commands within the text of which the agent of the node that is meant is asked.
const ASK: &[&str] = &["waypost explain", "waypost services"];

/// Commands within the text that are not run as they stand, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("kubeadm upgrade apply VERSION --skip-phases=addon/kube-proxy,addon/coredns", "kubeadm makes a node of the whole machine"),
    ("kubeadm upgrade node", "kubeadm makes a node of the whole machine"),
    ("kubectl label node NAME service-proxy=kube-proxy", "no node joins just then; commands like it are in blocks"),
    ("ip address del", "the word for a command that needs what an old kernel leaves"),
    ("make bench", "it takes half an hour"),
    ("make check", "it looks at the sources, not at a cluster, and is what CI runs first"),
    ("make demo", "it needs no cluster, and tests/demo.rs runs it"),
    ("make kind", "kind needs a container engine"),
    ("scripts/kind delete", "kind needs a container engine"),
    ("k3s ctr", "the word for a command that is in a block"),
    ("k3s ctr images import", "k3s is no Go module and no Debian package"),
    ("ip link delete nodelocaldns", "there is no such link"),
    ("helm install", "the word for a command that is in a block"),
    ("helm uninstall", "the word for a command that is in a block"),
    ("waypost check --corefile=FILE", "a node has no Corefile; src/commands/check has tests of it"),
    ("waypost check", "the word for a command that is in a block"),
    ("waypost cleanup", "the word for a command that is in a block: here it would be refused, because an agent runs"),
    ("waypost explain", "the word for commands that are in a block"),
    ("waypost probe", "the kubelet runs it, as the chart says"),
];

/// The sections whose commands have been run.
#[derive(Default)]
pub struct Run(Mutex<BTreeSet<Section>>);

/// A document and a heading in it.
pub type Section = (&'static str, String);

/// Runs the commands of a section.
///
/// # Panics
/// When one fails, with what it said, or when the section has none.
pub fn run(stage: &Stage, document: &'static str, heading: &str) {
    run_for(stage, document, heading, 1);
}

/// As [`run`], with another node in the place of `node1`.
pub fn run_for(stage: &Stage, document: &'static str, heading: &str, node: u8) {
    let sections = sections(document);
    let section = (document, heading.to_string());
    let commands = sections.get(&section).unwrap_or_else(|| panic!("{document} has no commands below the heading {heading:?}"));
    let mut script = String::from("set -euo pipefail\n");
    for Commands { place, text } in commands {
        let text = text.replace("node1", &format!("node{node}"));
        match place {
            Place::Administrator | Place::Agent => script += &text,
            // The shell sees the text as one word, quotes in it included.
            Place::Node => {
                for number in NODES {
                    script += &format!("scripts/cluster node {number} bash -euc {}\n", quoted(&text));
                }
            }
        }
    }
    finish(stage.cluster.command("bash").args(["-c", &script])).unwrap_or_else(|error| panic!("{document}, {heading}: {error}"));
    stage.documents.0.lock().expect("nobody panics while it is held").insert(section);
}

/// # Panics
/// When a document shows commands that no test has run.
pub fn all_are_run(stage: &Stage) {
    let run = stage.documents.0.lock().expect("nobody panics while it is held");
    let shown: BTreeSet<Section> = DOCUMENTS.iter().flat_map(|document| sections(document).into_keys()).collect();
    let missed: Vec<_> = shown.difference(&run).collect();
    assert!(missed.is_empty(), "commands of these sections were not run by the tests before this one: {missed:#?}");
}

/// # Panics
/// When a command within the text of a document fails, with what it said.
pub fn those_in_the_text_work(stage: &Stage) {
    stage.with_waypost();
    // One that has a log of the container before.
    let agent = restart_agent(&stage.cluster, 1);
    run(stage, "docs/operate.md", "Alerts");
    let mut failures = Vec::new();
    for document in DOCUMENTS {
        for (command, place) in inline(document) {
            let concrete = command
                .replace("AGENT", &agent)
                .replace("SERVER", "192.0.2.10")
                .replace("ADDRESS", shop::DNS)
                .replace("NAME", "web.shop.svc.cluster.local");
            let script = match FOLLOWING.contains(&command.as_str()) {
                true => format!("timeout 5 {concrete} || [ $? = 124 ]"),
                false => format!("timeout 60 {concrete}"),
            };
            let outcome = match place {
                Place::Administrator => finish(stage.cluster.command("bash").args(["-c", &script])),
                Place::Node => stage.cluster.try_script(&["node", "1", "bash", "-c", &script]),
                Place::Agent => {
                    let concrete = format!("/{}", concrete.trim_start_matches('/'));
                    let script = format!("timeout 60 kubectl -n kube-system exec {agent} -- {concrete}");
                    finish(stage.cluster.command("bash").args(["-c", &script]))
                }
            };
            failures.extend(outcome.err().map(|error| format!("{document}: {error}")));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The commands within the text of a document, and where they are run.
fn inline(document: &str) -> Vec<(String, Place)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).expect("the document is there");
    let mut commands = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            for code in line.split('`').skip(1).step_by(2) {
                // The name of a program alone is none, and with an ellipsis it is a part of one.
                let program = code.split_once(' ').map(|(program, _)| program).filter(|_| !code.contains('…'));
                let Some(place) = program.and_then(place_of).filter(|_| !NOT_RUN.iter().any(|(command, _)| *command == code))
                else {
                    continue;
                };
                let asks = ASK.iter().any(|verb| code.starts_with(verb));
                commands.push((code.to_string(), if asks { Place::Agent } else { place }));
            }
        }
    }
    commands
}

/// Where a program is run that the documents show.
fn place_of(program: &str) -> Option<Place> {
    PROGRAMS.iter().find(|(_, programs)| programs.contains(&program)).map(|(place, _)| *place)
}

struct Commands {
    place: Place,
    text: String,
}

#[derive(Clone, Copy)]
enum Place {
    Administrator,
    Node,
    Agent,
}

/// The commands that can be run, by the section that they stand in.
fn sections(document: &'static str) -> BTreeMap<Section, Vec<Commands>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).expect("the document is there");
    let mut sections: BTreeMap<Section, Vec<Commands>> = BTreeMap::new();
    let mut heading = String::new();
    // The place of the block that we are in; `Some(None)` in one that is not run.
    let mut block: Option<Option<Commands>> = None;
    let mut excused = false;
    for line in text.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(info)) => {
                excused = info.starts_with("sh not run: ");
                block = Some(place(info).map(|place| Commands { place, text: String::new() }));
            }
            (Some(_), Some(_)) => {
                if let Some(commands) = block.take().flatten() {
                    sections.entry((document, heading.clone())).or_default().push(commands);
                }
            }
            (Some(Some(commands)), None) => {
                commands.text += line;
                commands.text.push('\n');
            }
            (Some(None), None) => {
                let shown = line.split(' ').next().filter(|program| place_of(program).is_some() && !excused);
                assert!(shown.is_none(), "{document} shows `{line}` in a block that says neither sh nor why it is not run");
            }
            (None, None) if line.starts_with('#') => heading = line.trim_start_matches('#').trim().to_string(),
            (None, None) => {}
        }
    }
    sections
}

fn place(info: &str) -> Option<Place> {
    match info {
        "sh" => Some(Place::Administrator),
        "sh node" => Some(Place::Node),
        // Excerpts of output, and commands of other places that tests/docs.rs looks at.
        "" => None,
        other => {
            let reason = other.strip_prefix("sh not run: ").unwrap_or_default();
            assert!(!reason.is_empty(), "```{other}: neither to be run nor with a reason why not");
            None
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
