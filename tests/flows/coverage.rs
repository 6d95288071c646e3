//! Which rules the table covers, and how well.

use super::shared::{self, Rule};
use libtest_mimic::Failed;
use std::collections::BTreeMap;
use std::fmt::Write;
use waypost::model::Family;

/// How many rows there must be.
const ROWS: usize = 150;

/// Rows of a rule, by family and protocol.
type Counts = BTreeMap<(String, String), usize>;

/// Every rule has rows, in both families; the table as a whole is of the promised size.
pub fn is_complete() -> Result<(), Failed> {
    let rows = shared::groups().map(|group| group.flows.len()).sum::<usize>();
    let counts = counts();
    let families = |rule: &Rule| counts.get(rule).into_iter().flat_map(|of| of.keys()).map(|(family, _)| family.clone());
    let lacking: Vec<String> = Rule::ALL
        .iter()
        .filter(|(rule, _)| Family::BOTH.iter().any(|family| !families(rule).any(|one| one == family.to_string())))
        .map(|(rule, text)| format!("{rule:?} ({text}) needs rows in both families"))
        .collect();
    match lacking.is_empty() && rows >= ROWS {
        true => Ok(()),
        false => Err(format!("{rows} rows; {}", lacking.join("; ")).into()),
    }
}

/// The table of rules: how many rows show each, in which family and over which protocol.
pub fn report() -> String {
    let counts = counts();
    let flows = shared::groups().map(|group| group.flows.len()).sum::<usize>();
    let mut text =
        format!("\n{flows} flows; rows by rule:\n{:<20} {:>4}  {:<28} {}\n", "rule", "rows", "of which", "what it says");
    for (rule, says) in Rule::ALL {
        let of = counts.get(rule).cloned().unwrap_or_default();
        let kinds: Vec<String> =
            of.iter().map(|((family, protocol), count)| format!("{}{protocol} {count}", &family[2..])).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<20} {:>4}  {:<28} {says}", format!("{rule:?}"), of.values().sum::<usize>(), kinds.join(" "));
    }
    text
}

fn counts() -> BTreeMap<Rule, Counts> {
    let mut counts: BTreeMap<Rule, Counts> = BTreeMap::new();
    for flow in shared::groups().flat_map(|group| group.flows) {
        let kind = (Family::of(flow.target().ip()).to_string(), flow.protocol.to_string());
        for rule in flow.rules {
            *counts.entry(*rule).or_default().entry(kind.clone()).or_default() += 1;
        }
    }
    counts
}
