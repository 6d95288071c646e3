//! `waypost check`: the effective configuration, and what this host lacks.

mod collect;
mod facts;
mod judge;
mod source;

use crate::agent::zones::{self, ZonesError};
use crate::config::{self, Config, RunArgs, Surroundings, ZonesSource};
use crate::dns::chain::explain::explain;
use crate::dns::metrics::Metrics;
use crate::model::Demand;
use anyhow::Context;
use judge::{Finding, Severity};
use prometheus::Registry;
use serde_json::json;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

/// What `waypost check` is asked.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Print JSON for machines
    #[arg(long)]
    json: bool,
}

/// Prints the effective configuration and the findings. The exit code is 0 when nothing prevents the agent from doing its work, else 1.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let (config, origins) = config::load(&args.run, &Surroundings::of_this_process())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let zones = zones(&config);
    let demand = zones.as_ref().map(|zones| zones.demand.clone()).unwrap_or_default();
    let facts = runtime.block_on(collect::facts(&config, demand));
    let mut findings = judge::findings(&config, &facts);
    let zones = zones.map(|zones| zones.said).unwrap_or_else(|error| {
        let advice = "correct it there; docs/dns.md has what there is".to_string();
        findings.push(Finding { severity: Severity::Error, subject: "dns", found: error.to_string(), advice });
        Vec::new()
    });
    match args.json {
        true => println!(
            "{:#}",
            json!({ "ok": !prevents(&findings), "configuration": config::to_json(&config), "dns": zones, "findings": findings })
        ),
        false => print!("{}", report(&config::to_yaml(&config, &origins), &zones, &findings)),
    }
    Ok(if prevents(&findings) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is to be said of the zones.
#[derive(Default)]
struct Zones {
    /// What is served by which server block, and what of a Corefile needs no doing.
    said: Vec<String>,
    /// What must be known of the cluster for it.
    demand: Demand,
}

fn zones(config: &Config) -> Result<Zones, ZonesError> {
    match &config.dns.zones {
        ZonesSource::Flags => return Ok(Zones::default()),
        ZonesSource::ConfigMaps(names) => {
            let names = names.join(", ");
            let said = format!("the Corefile in {names} is read when the agent runs; give its text with --corefile to try it");
            return Ok(Zones { said: vec![said], ..Zones::default() });
        }
        ZonesSource::Blocks { .. } | ZonesSource::Corefile(_) => {}
    }
    let reading = zones::read(&config.dns, None)?;
    let metrics = Arc::new(Metrics::new(&Registry::new()).map_err(ZonesError::from)?);
    let demand = reading.plan(&config.dns, &metrics, None)?.demand();
    let remarks = reading.translation.iter().flat_map(|translation| &translation.remarks);
    let remarks = remarks.map(|remark| format!("{}: {}: {}", remark.place, remark.what, remark.advice));
    Ok(Zones { said: explain(&reading.model).into_iter().chain(remarks).collect(), demand })
}

fn prevents(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

/// The configuration as YAML and the findings as its comments, so that the whole output is a configuration file.
fn report(yaml: &str, zones: &[String], findings: &[Finding]) -> String {
    let mut text = format!("# The effective configuration; this output can serve as --config.\n{yaml}\n");
    zones.iter().for_each(|line| text += &format!("# dns      {line}\n"));
    for finding in findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        text += &format!("# {severity:<8} {}: {}\n#          -> {}\n", finding.subject, finding.found, finding.advice);
    }
    text += match (prevents(findings), findings.is_empty()) {
        (true, _) => "# Waypost cannot do all its work here before the errors above are mended.\n",
        (false, false) => "# Nothing prevents waypost from doing its work here.\n",
        (false, true) => "# Nothing prevents waypost from doing its work here, and nothing else was found.\n",
    };
    text
}

/// Every address that the configuration asks for, with its setting.
fn addresses(config: &Config) -> Vec<(&'static str, SocketAddr)> {
    let admin = &config.admin;
    let listeners = [
        ("healthz-bind-address", admin.healthz),
        ("metrics-bind-address", admin.metrics),
        ("dns-health-address", admin.dns_health),
        ("dns-ready-address", admin.dns_ready),
        ("dns-metrics-address", admin.dns_metrics),
    ];
    let dns = config.dns.addresses.iter().filter(|_| config.role != config::Role::Proxy);
    let listeners = listeners.into_iter().filter_map(|(setting, address)| Some((setting, address?)));
    dns.map(|address| ("dns-address", *address)).chain(listeners).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_output_is_a_configuration_file_of_the_same_configuration() {
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        let (config, origins) =
            config::load(&RunArgs::of(&[("dns-ttl", "7"), ("cluster-cidr", "10.0.0.0/8")]), &surroundings).unwrap();
        let advice = "stop it".to_string();
        let finding = Finding { severity: Severity::Error, subject: "ports", found: "taken".into(), advice };
        let text = report(&config::to_yaml(&config, &origins), &[], &[finding]);
        assert!(text.contains("\n# error    ports: taken\n#          -> stop it\n# Waypost cannot do all its work"), "{text}");

        let path = std::env::temp_dir().join(format!("waypost-check-{}.yaml", std::process::id()));
        std::fs::write(&path, &text).unwrap();
        let loaded = config::load(&RunArgs::default().with_file(&path), &surroundings);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(loaded.unwrap().0, config);
    }

    #[test]
    fn machines_get_every_setting_under_its_name() {
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        let (config, _) = config::load(&RunArgs::of(&[("manifests", "/m")]), &surroundings).unwrap();
        let json = config::to_json(&config);
        // Of the three cluster sources only the one in use is there.
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(config::SETTINGS.len() - 2));
        assert_eq!((&json["manifests"], &json["dns-ttl"]), (&json!("/m"), &json!(30)));
    }
}
