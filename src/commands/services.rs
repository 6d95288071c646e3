//! `waypost services`: what is programmed, with endpoints and connections.

use super::explain::{agent_socket, offline::Offline};
use crate::config::{self, Config, Surroundings, ViewArgs};
use crate::proxy::listing::{AddressRow, Listing, PortRow, Row};
use crate::socket::{self, ServicesRequest};
use anyhow::{Context, bail};
use std::net::SocketAddr;

/// What `waypost services` is asked.
#[derive(Debug, clap::Args)]
pub struct ServicesArgs {
    /// Only this namespace, or this service of it
    #[arg(value_name = "NAMESPACE[/NAME]")]
    which: Option<String>,
    /// From which node it is seen: with a folder of manifests or an API server
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Print JSON for machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewArgs,
}

/// Prints the services.
///
/// # Errors
/// Nobody can be asked, or there is none of this name.
pub fn run(args: &ServicesArgs) -> anyhow::Result<()> {
    let (config, _) = config::load(&args.view.0, &Surroundings::of_this_process())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let listing = runtime.block_on(ask(args, &config))?;
    match (&args.which, listing.services.is_empty()) {
        (Some(which), true) => {
            let what =
                if which.contains('/') { format!("no Service {which}") } else { format!("no Service in namespace {which}") };
            bail!("there is {what}; without an argument `waypost services` lists all")
        }
        _ if args.json => println!("{:#}", serde_json::to_value(&listing)?),
        _ => print!("{}", table(&listing)),
    }
    Ok(())
}

async fn ask(args: &ServicesArgs, config: &Config) -> anyhow::Result<Listing> {
    let (namespace, name) = match args.which.as_deref().map(|which| which.split_once('/').unwrap_or((which, ""))) {
        None => (None, None),
        Some((namespace, "")) => (Some(namespace), None),
        Some((namespace, name)) => (Some(namespace), Some(name)),
    };
    if args.view.names_source() {
        let offline = Offline::load(config, args.node.as_deref(), "pod").await?;
        return Ok(offline.rows(|key| {
            namespace.is_none_or(|namespace| *key.namespace == *namespace) && name.is_none_or(|name| *key.name == *name)
        }));
    }
    let request = ServicesRequest { namespace: namespace.map(Into::into), name: name.map(Into::into) };
    let listing: Listing = socket::ask(agent_socket(config)?, "/v1/services", &request)?;
    match args.node.as_deref().filter(|node| *node != listing.node) {
        Some(node) => bail!("the agent here is the one of {}; ask on {node}, or name a source with --kubeconfig", listing.node),
        None => Ok(listing),
    }
}

const HEAD: [&str; 8] = ["SERVICE", "PORT", "READY", "HERE", "LEAVING", "POLICY", "NEW/S", "ADDRESSES"];

fn table(listing: &Listing) -> String {
    let mut rows = vec![HEAD.map(str::to_string)];
    rows.extend(listing.services.iter().flat_map(lines));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 8] = std::array::from_fn(width);
    let is_number = |column: usize| matches!(column, 2 | 3 | 4 | 6);
    let line = |row: &[String; 8]| {
        let cells = row.iter().enumerate().map(|(column, cell)| match is_number(column) {
            true => format!("{cell:>0$}", widths[column]),
            false => format!("{cell:<0$}", widths[column]),
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let affinity = "* with session affinity by client address\n";
    let has_affinity = listing.services.iter().any(|row| row.affinity_seconds.is_some());
    let table: String = rows.iter().map(line).collect();
    format!("{table}{}", if has_affinity { affinity } else { "" })
}

fn lines(row: &Row) -> Vec<[String; 8]> {
    let name = format!("{}/{}", row.namespace, row.name);
    if let Some(why) = &row.not_programmed {
        let mut cells: [String; 8] = std::array::from_fn(|_| "-".to_string());
        (cells[0], cells[7]) = (name, format!("not programmed: {why}"));
        return vec![cells];
    }
    row.ports.iter().map(|port| line(row, &name, port)).collect()
}

fn line(row: &Row, name: &str, port: &PortRow) -> [String; 8] {
    let has_outside = port.addresses.iter().any(|one| one.kind != "ClusterIP");
    let policy = match has_outside {
        true => format!("{}/{}", row.internal_traffic_policy, row.external_traffic_policy),
        false => row.internal_traffic_policy.clone(),
    };
    let sticky = if row.affinity_seconds.is_some() { "*" } else { "" };
    let number = format!("{}/{}", port.port, port.protocol);
    [
        name.to_string(),
        if port.name.is_empty() { number } else { format!("{number} {}", port.name) },
        port.ready.to_string(),
        port.local.to_string(),
        port.terminating.to_string(),
        format!("{policy}{sticky}"),
        port.connections.map_or("-".to_string(), |connections| format!("{:.1}", connections.per_second)),
        port.addresses.iter().map(address).collect::<Vec<_>>().join(" "),
    ]
}

fn address(one: &AddressRow) -> String {
    let place = SocketAddr::new(one.address, one.port);
    match &one.taken_by {
        Some(owner) => format!("({place} is {owner}'s)"),
        None => place.to_string(),
    }
}
