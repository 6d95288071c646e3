//! Which rules the table covers, and how well.

use super::shared::{self, Rule};
use libtest_mimic::Failed;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use waypost::model::{Family, Protocol};

/// How many rows there must be.
const ROWS: usize = 150;

/// Rows of a rule, by family and protocol.
type Counts = BTreeMap<(String, String), usize>;

/// The protocols over which every rule has to be shown; SCTP is served by the same elements.
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// Every rule has rows in both families, over TCP and UDP in each; the table as a whole is of the promised size.
pub fn is_complete() -> Result<(), Failed> {
    let (rows, counts) = (rows(), counts());
    let kinds = || Family::BOTH.into_iter().flat_map(|family| PROTOCOLS.map(|protocol| kind(family, protocol)));
    let has = |rule: &Rule, kind| counts.get(rule).is_some_and(|of| of.contains_key(&kind));
    let lacks = |(rule, text): &(Rule, &str)| {
        let missing: Vec<String> = kinds().filter(|kind| !has(rule, kind.clone())).map(|(f, p)| format!("{f} {p}")).collect();
        (!missing.is_empty()).then(|| format!("{rule:?} ({text}) has no row for {}", missing.join(", ")))
    };
    let lacking: Vec<String> = Rule::ALL.iter().filter_map(lacks).collect();
    match lacking.is_empty() && rows >= ROWS {
        true => Ok(()),
        false => Err(format!("{rows} rows; {}", lacking.join("; ")).into()),
    }
}

/// The documents name the size of the table as it is.
pub fn is_documented() -> Result<(), Failed> {
    let (flows, settings) = (rows(), shared::ALL_SETTINGS.len());
    let counted = format!("{flows} flows under {settings} settings");
    for document in ["ARCHITECTURE.md", "docs/differences.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document))?;
        // A line may end in the middle of it.
        if !text.split_whitespace().collect::<Vec<_>>().join(" ").contains(&counted) {
            return Err(format!("{document} should say \"{counted}\"").into());
        }
    }
    Ok(())
}

/// The table of rules: how many rows show each, in which family and over which protocol.
pub fn report() -> String {
    let counts = counts();
    let flows = rows();
    let mut text =
        format!("\n{flows} flows; rows by rule:\n{:<20} {:>4}  {:<36} {}\n", "rule", "rows", "of which", "what it says");
    for (rule, says) in Rule::ALL {
        let of = counts.get(rule).cloned().unwrap_or_default();
        let kinds: Vec<String> =
            of.iter().map(|((family, protocol), count)| format!("{}{protocol} {count}", &family[2..])).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<20} {:>4}  {:<36} {says}", format!("{rule:?}"), of.values().sum::<usize>(), kinds.join(" "));
    }
    text
}

fn rows() -> usize {
    shared::groups().map(|group| group.flows.len()).sum()
}

fn kind(family: Family, protocol: Protocol) -> (String, String) {
    (family.to_string(), protocol.to_string())
}

fn counts() -> BTreeMap<Rule, Counts> {
    let mut counts: BTreeMap<Rule, Counts> = BTreeMap::new();
    for flow in shared::groups().flat_map(|group| group.flows) {
        let kind = kind(Family::of(flow.target().ip()), flow.protocol);
        for rule in flow.rules {
            *counts.entry(*rule).or_default().entry(kind.clone()).or_default() += 1;
        }
    }
    counts
}
