//! `waypost dns top`: the busiest names and clients of the running agent.

use super::explain::agent_socket;
use crate::config::{self, Surroundings, ViewArgs};
use crate::dns::dig::{Counted, Listed, TopRequest};
use crate::socket;

/// What `waypost dns` is asked.
#[derive(Debug, clap::Args)]
pub struct DnsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Count questions for a few seconds, and list the busiest names and clients
    Top(TopArgs),
}

#[derive(Debug, clap::Args)]
struct TopArgs {
    /// For how long, 1 to 15
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u32,
    /// So many names and clients at most
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    count: usize,
    /// Print JSON for machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewArgs,
}

/// Prints them.
///
/// # Errors
/// No agent can be asked, or somebody else is counting.
pub fn run(args: &DnsArgs) -> anyhow::Result<()> {
    let What::Top(args) = &args.what;
    let (config, _) = config::load(&args.view.0, &Surroundings::of_this_process())?;
    let request = TopRequest { seconds: args.seconds, count: args.count };
    let listed: Listed = socket::ask(agent_socket(&config)?, "/v1/dns/top", &request)?;
    match args.json {
        true => println!("{:#}", serde_json::to_value(&listed)?),
        false => print!("{}", text(&listed)),
    }
    Ok(())
}

fn text(listed: &Listed) -> String {
    let rate = |questions: u64| questions as f64 / f64::from(listed.seconds.max(1));
    let mut text = format!("{} questions in {} s, {:.1} a second\n", listed.questions, listed.seconds, rate(listed.questions));
    for (head, counted) in [("NAME", &listed.names), ("CLIENT", &listed.clients)] {
        text += &format!("\n{:>9}  {:>7}  {head}\n", "QUESTIONS", "SHARE");
        let line = |one: &Counted| {
            let share = 100.0 * one.questions as f64 / listed.questions.max(1) as f64;
            format!("{:>9}  {share:>5.1} %  {}\n", one.questions, one.what)
        };
        text += &counted.iter().map(line).collect::<String>();
    }
    if listed.missed > 0 {
        text +=
            &format!("\nThere were more names or clients than counters: each count may be too low by up to {}.\n", listed.missed);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_what_may_be_missing_are_told() {
        let one = |what: &str, questions| Counted { what: what.into(), questions };
        let listed = Listed {
            seconds: 5,
            questions: 200,
            missed: 3,
            names: vec![one("web.shop.svc.cluster.local.", 150), one("www.example.com.", 50)],
            clients: vec![one("10.244.0.7", 200)],
        };
        let expected = "\
200 questions in 5 s, 40.0 a second

QUESTIONS    SHARE  NAME
      150   75.0 %  web.shop.svc.cluster.local.
       50   25.0 %  www.example.com.

QUESTIONS    SHARE  CLIENT
      200  100.0 %  10.244.0.7

There were more names or clients than counters: each count may be too low by up to 3.
";
        assert_eq!(text(&listed), expected);
    }
}
