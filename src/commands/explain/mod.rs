//! `waypost explain`: what becomes of a connection, and why.

pub mod offline;
mod render;

use crate::config::{self, Config, Surroundings, ViewArgs};
use crate::proxy::explain::{Explanation, Question, To, Unexplained, explain};
use crate::socket::{self, AskError, ExplainRequest, Refusal};
use anyhow::{Context, bail};
use offline::Offline;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How long the host's resolver may take for a name outside the cluster.
const RESOLVER_PATIENCE: Duration = Duration::from_secs(5);

/// What `waypost explain` is asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct ExplainArgs {
    /// Who connects: an address, pod/NAMESPACE/NAME, pod (any pod of the node), node (the node itself) or outside
    #[arg(long, value_name = "WHO", default_value = "pod")]
    from: String,
    /// To what: ADDRESS:PORT, NAME:PORT (web.shop, shop/web, web.shop.svc.cluster.local) or node:NODEPORT, and after it /tcp, /udp or /sctp
    #[arg(long, value_name = "WHAT")]
    to: String,
    /// From which node it is seen: with a folder of manifests or an API server
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Print JSON for machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewArgs,
}

const EXIT_CODES: &str = "Exit codes: 0 it arrives, or the rules leave it alone; 3 refused; 4 dropped; 5 the name has no address; \
                          1 it cannot be said; 2 a wrong command line or configuration.";

/// Prints what becomes of the connection. The exit code tells the same.
///
/// # Errors
/// It cannot be explained: what is asked does not exist, or nobody can be asked.
pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let (config, _) = config::load(&args.view.0, &Surroundings::of_this_process())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let explanation = runtime.block_on(ask(args, &config))?;
    match args.json {
        true => println!("{:#}", serde_json::to_value(&explanation)?),
        false => print!("{}", render::text(&explanation)),
    }
    let worst = explanation.accounts.iter().map(|account| account.verdict.exit_code()).max().unwrap_or_default();
    Ok(ExitCode::from(worst))
}

async fn ask(args: &ExplainArgs, config: &Config) -> anyhow::Result<Explanation> {
    if args.view.names_source() {
        let offline = Offline::load(config, args.node.as_deref(), &args.from).await?;
        let from = offline.source(&args.from)?;
        let answer = |to: &str| {
            let question = Question { from: from.clone(), to: To::parse(to, &config.dns.domain)? };
            explain(offline.view(), &question)
        };
        return match answer(&args.to) {
            Err(Unexplained::Foreign(name)) => resolved(&name, &args.to, |to| Ok(answer(to)?)).await,
            other => Ok(other?),
        };
    }
    let socket = agent_socket(config)?;
    let answer = |to: &str| {
        let request = ExplainRequest { from: args.from.clone(), to: to.to_string() };
        socket::ask::<Explanation>(socket, "/v1/explain", &request)
    };
    let explanation = match answer(&args.to) {
        Err(AskError::Refused(Refusal { foreign: Some(name), .. })) => resolved(&name, &args.to, |to| Ok(answer(to)?)).await?,
        other => other?,
    };
    match args.node.as_deref().filter(|node| *node != explanation.node) {
        Some(node) => {
            bail!("the agent here is the one of {}; ask on {node}, or name a source with --kubeconfig", explanation.node)
        }
        None => Ok(explanation),
    }
}

/// The socket of the agent on this node.
pub fn agent_socket(config: &Config) -> anyhow::Result<&Path> {
    let off = "--socket is empty, so no agent can be asked; give its path, or a source with --kubeconfig or --manifests";
    config.admin.socket.as_deref().context(off)
}

/// Asks the host's resolver for a name outside the cluster, and explains its addresses.
async fn resolved(name: &str, to: &str, answer: impl Fn(&str) -> anyhow::Result<Explanation>) -> anyhow::Result<Explanation> {
    let no_cluster_name = || format!("{name} is no name of this cluster, and the host's resolver does not know it");
    let (port, protocol) = port_and_protocol(to);
    let port = port.with_context(|| Unexplained::NoPort { to: to.to_string(), ports: "; give a number".into() }.to_string())?;
    let looked_up = tokio::time::timeout(RESOLVER_PATIENCE, tokio::net::lookup_host((name, port))).await;
    let addresses: Vec<SocketAddr> = looked_up.with_context(no_cluster_name)?.with_context(no_cluster_name)?.collect();
    let mut explanation: Option<Explanation> = None;
    for address in addresses {
        let mut one = answer(&format!("{address}{protocol}"))?;
        one.accounts
            .iter_mut()
            .for_each(|account| account.notes.push(format!("the host's resolver knows {name} as {}", address.ip())));
        match &mut explanation {
            Some(explanation) => explanation.accounts.extend(one.accounts),
            None => explanation = Some(one),
        }
    }
    explanation.with_context(no_cluster_name)
}

/// The port's number at the end of a target, and `/tcp` or the like.
fn port_and_protocol(to: &str) -> (Option<u16>, String) {
    let (rest, protocol) = match to.rsplit_once('/') {
        Some((rest, protocol)) => (rest, format!("/{protocol}")),
        None => (to, String::new()),
    };
    (rest.rsplit_once(':').and_then(|(_, port)| port.parse().ok()), protocol)
}
