//! An explanation for people: the verdict first, then where it may lead, then the way.

use crate::proxy::explain::{Account, Cause, Explanation, KernelState, Passed, Source, SourceKind, SourceSeen, Unused, Used};
use std::fmt::Write;
use std::net::SocketAddr;

/// At most so many endpoints are shown of each sort.
const SHOWN: usize = 12;

/// The whole page.
pub fn text(explanation: &Explanation) -> String {
    explanation.accounts.iter().map(|account| page(account, &explanation.node)).collect::<Vec<_>>().join("\n")
}

fn page(account: &Account, node: &str) -> String {
    let mut page = Page::default();
    page.line(&format!("{} → {}, seen from {node}", source(&account.from), target(account)));
    page.line("");
    page.line(&format!("  {}: {}", account.verdict.word(), account.summary));
    by_object(&account.because).iter().for_each(|causes| page.line(&format!("      {causes}")));
    page.endpoints(account);
    page.steps(&account.steps);
    if !account.notes.is_empty() {
        page.line("");
        account.notes.iter().for_each(|note| page.line(&format!("  Note: {note}.")));
    }
    if let Some(KernelState { text, .. }) = &account.kernel {
        page.line("");
        page.line(&format!("  Kernel: {text}."));
    }
    page.0
}

fn source(source: &Source) -> String {
    match (source.kind, source.address) {
        (SourceKind::Pod, None) => "a pod".to_string(),
        (SourceKind::Node, None) => "the node".to_string(),
        (SourceKind::Outside, None) => "a client outside".to_string(),
        (SourceKind::Pod, Some(address)) => format!("pod {address}"),
        (SourceKind::Node, Some(address)) => format!("node {address}"),
        (SourceKind::Outside, Some(address)) => address.to_string(),
    }
}

fn target(account: &Account) -> String {
    let to = &account.to;
    let place = match to.address {
        Some(address) => format!("{}/{}", SocketAddr::new(address, to.port), to.protocol),
        None => format!("port {}/{}", to.port, to.protocol),
    };
    match (&to.service, &to.kind, to.port_name.as_deref().unwrap_or_default()) {
        (Some(service), Some(kind), "") => format!("{place}, {kind} of {service}"),
        (Some(service), Some(kind), port) => format!("{place}, {kind} of {service} ({port})"),
        (Some(service), None, _) => format!("{place} of {service}"),
        _ => place,
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{}", text.trim_end());
    }

    fn endpoints(&mut self, account: &Account) {
        if account.endpoints.is_empty() && account.unused.is_empty() {
            return;
        }
        self.line("");
        let mut rows: Vec<[String; 4]> = account.endpoints.iter().take(SHOWN).map(used).collect();
        rows.extend(account.unused.iter().take(SHOWN).map(unused));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths = [width(0), width(1), width(2)];
        for [share, endpoint, node, from] in &rows {
            self.line(&format!("  {share:>0$}  {endpoint:<1$}  {node:<2$}  {from}", widths[0], widths[1], widths[2]));
        }
        let more = account.endpoints.len().saturating_sub(SHOWN) + account.unused.len().saturating_sub(SHOWN);
        if more > 0 {
            self.line(&format!("  and {more} more; --json has all"));
        }
    }

    fn steps(&mut self, steps: &[Passed]) {
        if steps.is_empty() {
            return;
        }
        self.line("");
        let width = steps.iter().map(|step| step.chain.len()).max().unwrap_or_default();
        for (number, step) in (1..).zip(steps) {
            self.line(&format!("  {number}. {:<width$}  {}", step.chain, step.text));
            let asked = match (&step.set, &step.element) {
                (Some(set), Some(element)) => Some(format!("{set}: {element}")),
                (Some(set), None) if step.says != "unknown" => Some(format!("{set}: none that fits")),
                _ => None,
            };
            asked.into_iter().for_each(|asked| self.line(&format!("     {:<width$}  {asked}", "")));
            by_object(&step.because).iter().for_each(|causes| self.line(&format!("     {:<width$}  {causes}", "")));
        }
    }
}

/// The causes, a line for each object.
fn by_object(causes: &[Cause]) -> Vec<String> {
    let of_object = causes.chunk_by(|one, next| one.object == next.object);
    let line = |causes: &[Cause]| {
        let fields: Vec<String> = causes.iter().map(Cause::field).collect();
        format!("{}: {}", causes[0].object, fields.join("; "))
    };
    of_object.map(line).collect()
}

fn used(one: &Used) -> [String; 4] {
    let here = if one.local { " (here)" } else { "" };
    let node = one.node.as_deref().unwrap_or("?");
    let masked = if one.source == SourceSeen::Masqueraded { ", masqueraded" } else { "" };
    [
        format!("{:.1} %", one.share),
        SocketAddr::new(one.address, one.port).to_string(),
        format!("{node}{here}"),
        format!("{}{masked}", one.because),
    ]
}

fn unused(one: &Unused) -> [String; 4] {
    let node = one.node.clone().unwrap_or("?".into());
    ["not".into(), SocketAddr::new(one.address, one.port).to_string(), node, format!("{}; {}", one.why, one.because)]
}
