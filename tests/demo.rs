//! The demo as a user runs it. Every line that it prints is a check of its own; here its exit code and its traces are.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

/// Runs `waypost demo` with these arguments and what a user would type at its shell.
fn demo(arguments: &[&str], typed: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.arg("demo").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a demo that does not clean up would leave: links and mounts.
fn traces() -> BTreeSet<String> {
    let lines = |file| std::fs::read_to_string(file).unwrap().lines().map(str::to_string).collect::<Vec<_>>();
    let links = lines("/proc/net/dev").into_iter().filter_map(|line| line.split_once(':').map(|(name, _)| name.to_string()));
    links.chain(lines("/proc/self/mounts")).collect()
}

#[test]
fn the_demo_succeeds_and_leaves_nothing_behind() {
    let before = traces();
    let output = demo(&[], "");
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains('\u{1b}'), "no colours where no terminal is");
    assert_eq!(traces(), before);
}

#[test]
fn the_shell_is_in_the_client_pod_and_resolves_by_the_agent() {
    let (_, shell) = "waypost demo --shell".split_once("demo ").unwrap();
    let output = demo(&[shell], "getent ahostsv4 web; cat /proc/net/dev\n");
    assert!(output.status.success(), "{}", said(&output));
    let said = said(&output);
    let (_, shell) = said.split_once("A shell in the client pod").unwrap();
    assert!(shell.contains("10.96.0.") && shell.contains("web.shop.svc.cluster.local"), "{shell}");
    assert!(shell.contains("eth0:") && !shell.contains("veth"), "{shell}");
}

#[test]
fn edits_are_applied_while_it_watches_and_ctrl_c_ends_it() {
    let folder = std::env::temp_dir().join(format!("waypost-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let service = |name: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec: {{containers: [{{name: it}}]}}\n"
        );
        // At once, as a whole: a file that is only begun would be a mistake to complain of.
        std::fs::write(folder.join("unfinished"), text).unwrap();
        std::fs::rename(folder.join("unfinished"), folder.join(format!("{name}.yaml"))).unwrap();
    };
    service("first");
    let mut arguments: Vec<&str> = "waypost demo --watch /srv/shop".split(' ').skip(1).collect();
    // The example's folder is this machine's.
    *arguments.last_mut().unwrap() = folder.to_str().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    let mut child = command.args(&arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut seen = Vec::new();
    let mut await_line = |text: &str| {
        let found = lines.by_ref().any(|line| {
            seen.push(line);
            seen.last().is_some_and(|line| line.contains(text))
        });
        assert!(found, "{text:?} was not said: {seen:#?}");
    };
    await_line("Ctrl-C ends it");
    service("second");
    await_line("+ service default/second");
    await_line("second.default.svc.cluster.local");
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signal.success() && child.wait().unwrap().success());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let output = demo(&["/nowhere/to/be/found"], "");
    assert!(!output.status.success() && said(&output).contains("/nowhere/to/be/found"), "{}", said(&output));
}
