//! A Corefile in a ConfigMap: edited with kubectl, broken, mended, and read from memory while the API server is away.

use super::agent::{Agent, ask, await_answer, http_get, run_command};
use super::cluster::Cluster;
use super::events::await_event;
use super::processes::eventually;
use super::stage::{DNS_ADDRESS, Stage};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

const PRINTER: &str = "printer.corp.example";

/// Writes the ConfigMap; `more` is a line in the block of the printer.
fn write(stage: &Stage, printer: &str, more: &str) {
    write_with(stage, "", printer, more);
}

/// The same with options of the cluster's names.
fn write_with(stage: &Stage, options: &str, printer: &str, more: &str) {
    let corefile = format!(
        ".:53 {{\n    kubernetes cluster.local {{\n        pods insecure\n        {options}\n    }}\n    import *.override\n    reload\n}}\n\
         corp.example:53 {{\n    hosts {{\n        {printer} {PRINTER}\n    }}\n    {more}\n}}\n"
    );
    let indented = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    stage.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: coredns}}\ndata:\n  Corefile: |\n{}  log.override: |\n    log\n",
        indented(&corefile)
    ));
}

/// Waits until the page of DNS's metrics has this line.
fn await_metric(stage: &Stage, line: &str) {
    eventually(line, || {
        let (_, page) = http_get(stage.node.namespace(), "127.0.0.1:9153", "/metrics")?;
        if page.lines().any(|other| other == line) { Ok(()) } else { Err(page) }
    });
}

fn still_answers(stage: &Stage, printer: &str) {
    let reply = ask(DNS_ADDRESS, stage.client.namespace(), PRINTER, "A").unwrap();
    assert_eq!((reply.status.as_str(), reply.data), ("NOERROR", vec![printer.to_string()]));
}

pub fn followed(cluster: &Cluster) {
    let stage = Stage::new(cluster, "corefile");
    let start = || {
        let mut command = run_command(&cluster.kubeconfig());
        command.arg("--corefile-configmap=corefile/coredns").arg("--state-dir").arg(cluster.directory().join("corefile-state"));
        Agent::start_command(&stage, &mut command)
    };
    write(&stage, "192.0.2.71", "");
    let mut agent = start();
    agent.await_ready();
    let client = stage.client.namespace();
    await_answer(client, PRINTER, "A", &["192.0.2.71"]);
    write(&stage, "192.0.2.72", "");
    await_answer(client, PRINTER, "A", &["192.0.2.72"]);
    await_metric(&stage, "waypost_dns_configuration_refused 0");

    write(&stage, "192.0.2.73", "nonsense");
    let complaint = "Corefile:13: neither the stock CoreDNS nor Waypost has a plugin \"nonsense\"";
    agent.await_line(&["DnsConfigurationRefused", "goes on as it was configured before"]);
    await_event(&stage, "default", "DnsConfigurationRefused", complaint, 1);
    await_metric(&stage, "coredns_reload_failed_total 1");
    await_metric(&stage, "waypost_dns_configuration_refused 1");
    let (status, page) = http_get(stage.node.namespace(), "127.0.0.1:10256", "/readyz").unwrap();
    assert!(status == 200 && page.contains(complaint), "{status} {page}");
    still_answers(&stage, "192.0.2.72");

    // The node restarts its agent, with an edit that cannot be done, and without the API server.
    eventually("what is known of the cluster is on disk", || {
        let (_, page) = http_get(stage.node.namespace(), "127.0.0.1:10249", "/metrics")?;
        let saved = page.lines().find_map(|line| line.strip_prefix("waypost_last_state_saved_timestamp_seconds "));
        saved.filter(|time| *time != "0").map(drop).ok_or(format!("{saved:?}"))
    });
    agent.process().kill();
    stage.relay.cut();
    let agent = start();
    agent.await_ready();
    await_answer(client, PRINTER, "A", &["192.0.2.72"]);
    agent.await_line(&["the API server has not shown the ConfigMap", "DNS does what it was told last"]);
    stage.relay.restore();
    agent.await_line(&["DnsConfigurationRefused", "nonsense", "goes on as it was configured before"]);
    still_answers(&stage, "192.0.2.72");

    write(&stage, "192.0.2.74", "");
    await_answer(client, PRINTER, "A", &["192.0.2.74"]);
    await_metric(&stage, "waypost_dns_configuration_refused 0");
    eventually("nothing is pending", || match http_get(stage.node.namespace(), "127.0.0.1:10256", "/readyz")? {
        (200, page) if page == "ok\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Whoever asks for a name of the cluster hears of no change.
pub fn widened(cluster: &Cluster) {
    let stage = Stage::new(cluster, "widened");
    write(&stage, "192.0.2.70", "");
    let mut command = run_command(&cluster.kubeconfig());
    command.arg("--corefile-configmap=widened/coredns");
    let agent = Agent::start_command(&stage, &mut command);
    agent.await_ready();
    let client = stage.client.namespace();
    await_answer(client, PRINTER, "A", &["192.0.2.70"]);
    let asked = AtomicUsize::new(0);
    let finish = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !finish.load(Ordering::SeqCst) {
                for name in ["kubernetes.default.svc.cluster.local", "10-1-2-3.default.pod.cluster.local"] {
                    let reply = ask(DNS_ADDRESS, client, name, "A").unwrap();
                    assert_eq!((reply.status.as_str(), reply.data.len()), ("NOERROR", 1), "{name}");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        for (number, options) in [
            "labels !nobody-has-this",
            "namespace_labels kubernetes.io/metadata.name",
            "zonal",
            "endpoint_pod_names",
            "labels !nobody-has-this, !nor-this",
        ]
        .iter()
        .enumerate()
        {
            let printer = format!("192.0.2.{}", 71 + number);
            let before = asked.load(Ordering::SeqCst);
            write_with(&stage, options, &printer, "");
            await_answer(client, PRINTER, "A", &[&printer]);
            assert!(asking.is_finished() || asked.load(Ordering::SeqCst) > before, "{options}: somebody asks meanwhile");
        }
        finish.store(true, Ordering::SeqCst);
    });
    let log = agent.printed();
    assert!(!log.contains("needs to know is not listed yet"), "each was obeyed once all was known");
    assert!(log.contains("services are listed anew"), "{log}");
}
