//! What kube-proxy leaves behind, found by `waypost check` and removed by `waypost cleanup --kube-proxy`, in namespaces made for that.

mod begin;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use waypost::lab::Namespace;

const WAYPOST: &str = env!("CARGO_BIN_EXE_waypost");

/// As kube-proxy's nftables mode names its things, beside a table of somebody else.
const NFTABLES: &str = "
add table ip kube-proxy
add chain ip kube-proxy services
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority dstnat; }
add rule ip kube-proxy nat-prerouting jump services
add table ip6 kube-proxy
add table inet firewall
add chain inet firewall input { type filter hook input priority filter; }
";

/// As kube-proxy's iptables mode does it, beside the kubelet's and somebody's own.
const IPTABLES: &str = "*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-SEP-6E7XQMQ4RAYOWTTM - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:MINE - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -j MINE
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 53 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SVC-ERIFXISQEP7F7OF4 -j KUBE-SEP-6E7XQMQ4RAYOWTTM
-A KUBE-SEP-6E7XQMQ4RAYOWTTM -p tcp -j DNAT --to-destination 10.244.0.3:53
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
-A FORWARD -j KUBE-FORWARD
-A INPUT -j KUBE-FIREWALL
COMMIT
";

fn main() {
    let arguments = begin::in_a_user_namespace();
    let tests = vec![
        Trial::test("kube_proxys_tables_are_found_and_removed_and_others_stay", nftables),
        Trial::test("kube_proxys_chains_of_iptables_are_found_and_removed_and_others_stay", iptables),
        Trial::test("without_an_iptables_program_the_commands_are_printed_and_they_work", without_iptables),
        Trial::test("whoever_translates_before_us_is_named", foreign_translation),
        Trial::test("where_there_is_nothing_nothing_is_removed", nothing),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

fn nftables() -> Result<(), Failed> {
    let host = Namespace::new()?;
    feed(&host, "nft", &["-f"], NFTABLES);
    let found = findings(&host, "kube-proxy");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|one| one.contains("waypost cleanup --kube-proxy")), "{found:?}");

    let removed = cleanup(&host, None);
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(text(&removed.stdout), "removed table ip kube-proxy\nremoved table ip6 kube-proxy\n");
    assert_eq!(run(&host, "nft", &["list", "tables"]), "table inet firewall\n");
    assert_eq!(findings(&host, "kube-proxy"), Vec::<String>::new());
    Ok(())
}

fn iptables() -> Result<(), Failed> {
    let host = Namespace::new()?;
    feed(&host, "iptables-nft-restore", &[], IPTABLES);
    assert_eq!(findings(&host, "kube-proxy").len(), 1);
    let removed = cleanup(&host, None);
    assert!(removed.status.success(), "{removed:?}");
    assert_only_kube_proxys_are_gone(&host);
    Ok(())
}

fn without_iptables() -> Result<(), Failed> {
    let host = Namespace::new()?;
    feed(&host, "iptables-nft-restore", &[], IPTABLES);
    let refused = cleanup(&host, Some("/nowhere"));
    assert!(!refused.status.success(), "what is left is a failure: {refused:?}");
    let said = text(&refused.stderr);
    let commands = said.split('`').nth(1).unwrap_or_else(|| panic!("no command in {said}"));
    // The host's `iptables` may be the other kind than the one that wrote these chains.
    let commands = commands.replace("iptables-", "iptables-nft-");
    run(&host, "bash", &["-o", "pipefail", "-c", &commands]);
    assert_only_kube_proxys_are_gone(&host);
    Ok(())
}

fn assert_only_kube_proxys_are_gone(host: &Namespace) {
    let saved = run(host, "iptables-nft-save", &[]);
    for gone in ["KUBE-SERVICES", "KUBE-SVC-", "KUBE-SEP-", "KUBE-FORWARD", "service portals"] {
        assert!(!saved.contains(gone), "{gone} is still in\n{saved}");
    }
    for kept in ["-A OUTPUT -j MINE", ":KUBE-KUBELET-CANARY", "-A INPUT -j KUBE-FIREWALL"] {
        assert!(saved.contains(kept), "{kept} is not in\n{saved}");
    }
    assert_eq!(findings(host, "kube-proxy"), Vec::<String>::new());
}

fn foreign_translation() -> Result<(), Failed> {
    let host = Namespace::new()?;
    feed(&host, "nft", &["-f"], "add table ip early\nadd chain ip early pre { type nat hook prerouting priority -150; }\n");
    let found = findings(&host, "other tables");
    assert!(found.len() == 1 && found[0].contains("ip early pre (priority -150)"), "{found:?}");
    Ok(())
}

fn nothing() -> Result<(), Failed> {
    let host = Namespace::new()?;
    let done = cleanup(&host, None);
    assert!(done.status.success() && text(&done.stdout).starts_with("nothing to remove"), "{done:?}");
    Ok(())
}

/// Warnings of `waypost check` about this subject: what was found and the advice.
fn findings(host: &Namespace, subject: &str) -> Vec<String> {
    let mut check = Command::new(WAYPOST);
    let output =
        host.output(check.args(["check", "--json", "--node-name=n", "--manifests"]).arg(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let all = report["findings"].as_array().expect("findings").iter();
    let about = all.filter(|one| one["subject"] == subject && one["severity"] == "warning");
    about.map(|one| format!("{}: {}", one["found"], one["advice"])).collect()
}

fn cleanup(host: &Namespace, path: Option<&str>) -> Output {
    let mut command = Command::new(WAYPOST);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    host.output(command.args(["cleanup", "--kube-proxy"])).unwrap()
}

fn run(host: &Namespace, program: &str, arguments: &[&str]) -> String {
    let output = host.output(Command::new(program).args(arguments)).unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a program on a file with this content.
fn feed(host: &Namespace, program: &str, arguments: &[&str], content: &str) {
    let number = host as *const Namespace as usize;
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("leftovers-{}-{number:x}", std::process::id()));
    fs::write(&file, content).unwrap();
    run(host, program, &[arguments, &[&file.display().to_string()]].concat());
    fs::remove_file(&file).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
