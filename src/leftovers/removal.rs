//! Removes what kube-proxy left behind.

use super::collect::{facts, save};
use super::{IPVS_LINK, KUBE_PROXY_TABLE, iptables};
use crate::nft;
use futures::TryStreamExt;
use std::io::Write;
use std::process::{Command, Stdio};

/// Every program that may be installed; two of them may be the same one under two names, and the second then finds nothing.
const PROGRAMS: [&str; 6] = ["iptables", "ip6tables", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"];

/// What became of kube-proxy's things.
#[derive(Debug, Default)]
pub struct Removal {
    /// What was removed.
    pub removed: Vec<String>,
    /// What could not be removed, and what to do about it.
    pub left: Vec<String>,
}

/// Removes kube-proxy's tables, its chains of iptables, its IPVS link and virtual services. One that cannot be removed does not keep the
/// others. Nothing is removed while kube-proxy runs: it would make everything anew.
pub async fn remove_kube_proxy() -> Removal {
    let mut removal = Removal::default();
    let facts = facts();
    if let Some(process) = facts.kube_proxies.first() {
        removal.left.push(format!("kube-proxy still runs (pid {}): stop it, then run this again", process.pid));
        return removal;
    }
    if let Some(reason) = facts.unseen {
        removal.left.push(format!("tables of nftables: {reason}"));
    }
    for table in facts.tables.iter().filter(|table| table.name == KUBE_PROXY_TABLE) {
        let what = format!("table {} {KUBE_PROXY_TABLE}", table.family);
        removal.note(what, nft::remove_table(table).map_err(|error| error.to_string()));
    }
    PROGRAMS.iter().for_each(|program| remove_chains(program, &mut removal));
    if facts.ipvs {
        let cleared = Command::new("ipvsadm").arg("--clear").status().is_ok_and(|status| status.success());
        let outcome = cleared.then_some(()).ok_or("run `ipvsadm --clear`".to_string());
        removal.note("the virtual services of IPVS".into(), outcome);
    }
    if facts.links.iter().any(|link| link == IPVS_LINK) {
        removal.note(format!("link {IPVS_LINK}"), remove_link(IPVS_LINK).await.map_err(|error| error.to_string()));
    }
    look_again(&mut removal);
    removal
}

impl Removal {
    fn note(&mut self, what: String, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.removed.push(what),
            Err(reason) => self.left.push(format!("{what}: {reason}")),
        }
    }
}

fn remove_chains(program: &str, removal: &mut Removal) {
    let Some(input) = save(program).and_then(|saved| iptables::removal(&saved)) else { return };
    removal.note(format!("kube-proxy's chains of {program}"), restore(program, &input));
}

fn restore(program: &str, input: &str) -> Result<(), String> {
    let mut command = Command::new(format!("{program}-restore"));
    command.args(["--noflush", "--wait", "5"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|error| error.to_string())?;
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
    }
}

async fn remove_link(name: &str) -> Result<(), rtnetlink::Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|_| rtnetlink::Error::RequestFailed)?;
    tokio::spawn(connection);
    let link = handle.link().get().match_name(name.to_string()).execute().try_next().await?;
    match link {
        Some(link) => handle.link().del(link.header.index).execute().await,
        None => Ok(()),
    }
}

/// Chains that are still there had no program to remove them: a person has to, with the commands.
fn look_again(removal: &mut Removal) {
    let facts = facts();
    let has_chains =
        |family| facts.chains.iter().any(|chain| chain.table.family == family && iptables::is_kube_proxys(&chain.name));
    for (family, program) in [("ip", "iptables"), ("ip6", "ip6tables")] {
        if has_chains(family) {
            removal.left.push(format!("kube-proxy's chains of {program}: run `{}`", iptables::commands(program)));
        }
    }
    if facts.legacy_unseen {
        let commands = ["iptables-legacy", "ip6tables-legacy"].map(iptables::commands).join("` and `");
        removal.left.push(format!("iptables' older kernel interface, which cannot be looked into from here: run `{commands}`"));
    }
}
