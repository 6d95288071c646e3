//! The agent and the stock CoreDNS, each with a Corefile and an upstream server of its own.

use super::agent::WAYPOST;
use super::cluster::{Cluster, tool};
use super::dns_question::{OptRecord, Question, Said, Transport};
use super::dns_upstream::ZONE;
use super::processes::Process;
use hickory_proto::rr::RecordType;
use std::fs;
use std::io;
use std::process::Command;

/// A server under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The agent.
    Ours,
    /// CoreDNS.
    Theirs,
}

impl Whose {
    /// Starts it with this Corefile, which is kept under this name.
    pub fn start(self, cluster: &Cluster, name: &str, corefile: &str) -> Process {
        let name = format!("{name}-{self:?}").to_lowercase();
        let path = cluster.directory().join(&name);
        fs::write(&path, corefile).unwrap();
        let mut command = match self {
            Whose::Theirs => tool("coredns"),
            Whose::Ours => Command::new(WAYPOST),
        };
        match self {
            Whose::Theirs => command.arg("-conf").arg(&path).args(["-dns.port", self.port()]),
            Whose::Ours => command
                .args(["run", "--role=dns", "--kubeconfig"])
                .arg(cluster.kubeconfig())
                .arg("--corefile")
                .arg(&path)
                .arg(format!("--dns-address={}", self.address()))
                .args(["--dns-health-address=", "--dns-ready-address="])
                .arg(format!("--dns-metrics-address={}", self.metrics())),
        };
        Process::start(cluster.namespace(), cluster.directory(), &name, &mut command)
    }

    /// The line that every block of a Corefile of CoreDNS has to have for its metrics.
    pub fn prometheus(self) -> String {
        if self == Whose::Theirs { format!("prometheus {}", self.metrics()) } else { String::new() }
    }

    /// What it says about an address of a name of the upstream server's zone, given without that.
    pub fn ask(self, name: &str) -> Said {
        question(name).ask(&self.address(), Transport::Udp)
    }

    /// The same, if it says anything.
    pub fn try_ask(self, name: &str) -> io::Result<Said> {
        question(name).try_ask(&self.address(), Transport::Udp)
    }

    /// Where it is asked.
    pub fn address(self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// Where its metrics are.
    pub fn metrics(self) -> String {
        format!("127.0.0.1:9{}", &self.port()[1..])
    }

    /// Where its upstream server is.
    pub fn upstream(self) -> &'static str {
        match self {
            Whose::Ours => "127.0.0.1:5391",
            Whose::Theirs => "127.0.0.1:5392",
        }
    }

    fn port(self) -> &'static str {
        match self {
            Whose::Ours => "5321",
            Whose::Theirs => "5322",
        }
    }
}

fn question(name: &str) -> Question {
    let plain = Question::plain(&format!("{name}.{ZONE}"), RecordType::A);
    Question { edns: Some(OptRecord::of_size(1232)), ..plain }
}
