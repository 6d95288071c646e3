//! Looks at the host; changes nothing.

use super::{Facts, iptables, ipvs};
use crate::holder::Process;
use crate::nft;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the kernel lists the tables of its older interface, one file a family, and the program that shows them.
const LEGACY: [(&str, &str); 2] = [
    ("/proc/thread-self/net/ip_tables_names", "iptables-legacy"),
    ("/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy"),
];

/// Looks at everything that the judgement needs. Blocks for some milliseconds.
pub fn facts() -> Facts {
    let mut facts = Facts { links: links(), kube_proxies: processes("kube-proxy"), ..Facts::default() };
    match nft::tables_and_chains() {
        Ok((tables, chains)) => (facts.tables, facts.chains) = (tables, chains),
        Err(error) => facts.unseen = Some(error.to_string()),
    }
    for (path, program) in LEGACY {
        if fs::read_to_string(path).is_ok_and(|names| !names.trim().is_empty()) {
            match save(program) {
                Some(saved) if iptables::removal(&saved).is_some() => facts.legacy.push(program),
                Some(_) => {}
                None => facts.legacy_unseen = true,
            }
        }
    }
    facts.ipvs = fs::read_to_string("/proc/thread-self/net/ip_vs").is_ok_and(|text| ipvs::has_services(&text));
    facts
}

/// What `PROGRAM-save` prints; `None` where it is not installed or fails.
pub fn save(program: &str) -> Option<String> {
    let output = Command::new(format!("{program}-save")).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The links of this network namespace: /sys may show those of another one.
pub fn links() -> Vec<String> {
    let names = nix::net::if_::if_nameindex();
    let mut links: Vec<String> =
        names.iter().flatten().filter_map(|link| link.name().to_str().ok().map(str::to_string)).collect();
    links.sort();
    links
}

/// The processes of this name in this network namespace. In a pod without the host's process namespace none of others can be seen.
fn processes(name: &str) -> Vec<Process> {
    let namespace = |process: &Path| fs::read_link(process.join("ns/net")).ok();
    let Some(ours) = namespace(Path::new("/proc/thread-self")) else { return Vec::new() };
    let found = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let its_name = fs::read_to_string(entry.path().join("comm")).ok()?;
        (its_name.trim() == name && namespace(&entry.path())? == ours).then(|| Process { pid, name: name.to_string() })
    });
    found.collect()
}
