//! `waypost dig`: asks the running agent for a name, and says where the answer comes from.

use super::explain::agent_socket;
use crate::config::{self, Surroundings, ViewArgs};
use crate::dns::dig::{Attempt, DigRequest, Dug};
use crate::dns::trace::Step;
use crate::socket;
use std::process::ExitCode;

/// What `waypost dig` is asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct DigArgs {
    /// A name, or an address for the name at it
    #[arg(value_name = "NAME")]
    name: String,
    /// The record type, such as AAAA, SRV, TXT or TYPE65 [default: A, and PTR for an address]
    #[arg(value_name = "TYPE")]
    rtype: Option<String>,
    /// Search as a pod of this namespace does, with ndots:5
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// More domains to search in, after those of the namespace
    #[arg(long, value_name = "DOMAIN,…", value_delimiter = ',')]
    search: Vec<String>,
    /// Print JSON for machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewArgs,
}

const EXIT_CODES: &str = "Exit codes: 0 there is an answer; 5 the name does not exist, or has no record of this type; 1 nobody can say; \
                          2 a wrong command line or configuration.";
const NO_SUCH_RECORD: u8 = 5;

/// Prints the answer and where it comes from. The exit code says whether there is one.
///
/// # Errors
/// No agent can be asked, or what is asked is no question.
pub fn run(args: &DigArgs) -> anyhow::Result<ExitCode> {
    let (config, _) = config::load(&args.view.0, &Surroundings::of_this_process())?;
    let request = DigRequest {
        name: args.name.clone(),
        rtype: args.rtype.clone(),
        namespace: args.namespace.clone(),
        search: args.search.clone(),
    };
    let dug: Dug = socket::ask(agent_socket(&config)?, "/v1/dig", &request)?;
    match args.json {
        true => println!("{:#}", serde_json::to_value(&dug)?),
        false => print!("{}", whole_text(&dug)),
    }
    Ok(match dug.attempts.last() {
        Some(attempt) if attempt.is_found() => ExitCode::SUCCESS,
        Some(attempt) if ["NOERROR", "NXDOMAIN"].contains(&attempt.code.as_str()) => ExitCode::from(NO_SUCH_RECORD),
        _ => ExitCode::FAILURE,
    })
}

fn whole_text(dug: &Dug) -> String {
    let mut whole: String = dug.attempts.iter().map(text).collect();
    if !dug.unasked.is_empty() {
        whole += &format!("not asked any more, because the servers above take too long: {}\n", dug.unasked.join(", "));
    }
    whole
}

fn text(attempt: &Attempt) -> String {
    let mut text = format!("{} {}: {}, in {:.2} ms\n", attempt.name, attempt.rtype, attempt.code, attempt.millis);
    let widths = [
        attempt.records.iter().map(|record| record.name.len()).max().unwrap_or_default(),
        attempt.records.iter().map(|record| record.ttl.to_string().len()).max().unwrap_or_default(),
        attempt.records.iter().map(|record| record.rtype.len()).max().unwrap_or_default(),
    ];
    for record in &attempt.records {
        let [name, ttl, rtype] = widths;
        let note = if record.section == "authority" { "  (authority)" } else { "" };
        text += &format!("    {:name$}  {:ttl$}  {:rtype$}  {}{note}\n", record.name, record.ttl, record.rtype, record.data);
    }
    for step in &attempt.steps {
        match step {
            Step::Records => {
                let objects = attempt.objects.iter().map(|object| format!("  from memory: {object}\n"));
                text += &objects.collect::<String>();
            }
            step => text += &format!("  {}\n", words(step)),
        }
    }
    text
}

fn words(step: &Step) -> String {
    match step {
        Step::Records => "from memory".to_string(),
        Step::Rewritten { to } => format!("rewritten to {to}"),
        Step::Alias { target } => format!("the alias leads to {target}, outside the cluster"),
        Step::Cache { age, stale: true, .. } => {
            format!("from the cache: {age} s old and expired, served because no upstream server has a better one")
        }
        Step::Cache { age, left, .. } => format!("from the cache: {age} s old, for another {left} s"),
        Step::Joined => "waited for the same question of somebody else".to_string(),
        Step::Upstream { server, zone, millis, outcome } => {
            format!("asked {server}, for zone {zone}: {outcome} in {millis:.2} ms")
        }
        Step::Failed { why } => format!("failed: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::dig::Line;

    #[test]
    fn records_stand_in_columns_and_what_they_come_from_below() {
        let line = |name: &str, ttl, rtype: &str, data: &str| Line {
            section: "answer".into(),
            name: name.into(),
            ttl,
            rtype: rtype.into(),
            data: data.into(),
        };
        let attempt = Attempt {
            name: "ext.shop.svc.cluster.local.".into(),
            rtype: "A".into(),
            code: "NOERROR".into(),
            millis: 12.345,
            records: vec![
                line("ext.shop.svc.cluster.local.", 5, "CNAME", "www.example.com."),
                line("www.example.com.", 30, "A", "203.0.113.9"),
            ],
            objects: vec!["Service shop/ext (ExternalName www.example.com.)".into()],
            steps: vec![
                Step::Records,
                Step::Alias { target: "www.example.com.".into() },
                Step::Upstream { server: "192.0.2.53:53".into(), zone: ".".into(), millis: 11.2, outcome: "NOERROR".into() },
                Step::Cache { age: 12, left: 18, stale: false },
            ],
        };
        let expected = "\
ext.shop.svc.cluster.local. A: NOERROR, in 12.35 ms
    ext.shop.svc.cluster.local.   5  CNAME  www.example.com.
    www.example.com.             30  A      203.0.113.9
  from memory: Service shop/ext (ExternalName www.example.com.)
  the alias leads to www.example.com., outside the cluster
  asked 192.0.2.53:53, for zone .: NOERROR in 11.20 ms
  from the cache: 12 s old, for another 18 s
";
        assert_eq!(text(&attempt), expected);
        let dug = Dug { attempts: vec![attempt], unasked: vec!["a.example.".into(), "b.example.".into()] };
        let end = "not asked any more, because the servers above take too long: a.example., b.example.\n";
        assert_eq!(whole_text(&dug), format!("{expected}{end}"));
    }
}
