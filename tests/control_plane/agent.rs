//! The `waypost run` program on a stage's node, and questions to it.

use super::cluster::{NODE_NAME, POD_CIDRS, SERVICE_CIDRS};
use super::processes::{Process, eventually, output};
use super::stage::{DNS_ADDRESS, Stage};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use waypost::lab::Namespace;

/// The program under test.
pub const WAYPOST: &str = env!("CARGO_BIN_EXE_waypost");

/// A running agent. Dropping it kills it; the table stays.
pub struct Agent {
    node: Namespace,
    process: Process,
}

impl Agent {
    /// Starts the agent as the cluster's administrator and waits until it is ready.
    pub fn start(stage: &Stage) -> Agent {
        let agent = Agent::start_as(stage, &stage.cluster.kubeconfig());
        agent.await_ready();
        agent
    }

    /// Starts the agent with this kubeconfig, and waits for nothing.
    pub fn start_as(stage: &Stage, kubeconfig: &Path) -> Agent {
        Agent::start_command(stage, &mut run_command(kubeconfig))
    }

    /// Starts the agent with this command line, and waits for nothing.
    pub fn start_command(stage: &Stage, command: &mut Command) -> Agent {
        let node = stage.node.namespace().clone();
        let process = Process::start(&node, stage.cluster.directory(), &format!("agent-{}", stage.name), command);
        Agent { node, process }
    }

    /// Waits until the agent is ready: everything listed, committed and published.
    pub fn await_ready(&self) {
        eventually("the agent is ready", || match http_get(&self.node, "127.0.0.1:10256", "/readyz")? {
            (200, _) => Ok(()),
            (status, body) => Err(format!("{status} {body}")),
        });
    }

    /// The program.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id as the rest of the machine sees it.
    pub fn outside_id(&self) -> u32 {
        self.process.outside_id()
    }

    /// Everything that the agent has logged, in colour or not.
    pub fn printed(&self) -> String {
        self.process.printed()
    }

    /// Waits until the agent has logged a line with all of these.
    pub fn await_line(&self, parts: &[&str]) -> String {
        eventually(&format!("the agent logs a line with {parts:?}"), || {
            let printed = self.printed();
            let line = printed.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            line.map(str::to_string).ok_or(printed.clone())
        })
    }
}

/// `waypost run` as on a real node.
pub fn run_command(kubeconfig: &Path) -> Command {
    let mut command = Command::new(WAYPOST);
    command.arg("run").arg("--kubeconfig").arg(kubeconfig).args(node_arguments());
    command
}

/// What every agent here is told about its node and its cluster.
pub fn node_arguments() -> [String; 5] {
    [
        format!("--node-name={NODE_NAME}"),
        format!("--service-cidr={SERVICE_CIDRS}"),
        format!("--cluster-cidr={POD_CIDRS}"),
        format!("--dns-address={DNS_ADDRESS}"),
        "--dns-upstream=127.0.0.1:5300".to_string(),
    ]
}

/// What a question to the agent's DNS brought.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// `NOERROR`, `NXDOMAIN`, …
    pub status: String,
    /// The data of the answers, sorted.
    pub data: Vec<String>,
}

/// Asks a server with dig.
pub fn ask(server: &str, from: &Namespace, name: &str, kind: &str) -> Result<Reply, String> {
    let mut dig = Command::new("dig");
    dig.arg(format!("@{server}")).args([name, kind, "+tries=1", "+time=2", "+noall", "+comments", "+answer"]);
    let output = from.output(&mut dig).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).ok_or_else(|| text.clone())?.to_string();
    let answers = text.lines().filter(|line| !line.starts_with(';') && !line.trim().is_empty());
    let mut data: Vec<_> = answers.map(|line| line.split_whitespace().skip(4).collect::<Vec<_>>().join(" ")).collect();
    data.sort();
    Ok(Reply { status, data })
}

/// Waits until a question to the agent brings exactly these data.
pub fn await_answer(from: &Namespace, name: &str, kind: &str, expected: &[&str]) {
    await_answer_from(DNS_ADDRESS, from, name, kind, expected);
}

/// Waits until a question to this server brings exactly these data.
pub fn await_answer_from(server: &str, from: &Namespace, name: &str, kind: &str, expected: &[&str]) {
    let mut expected: Vec<_> = expected.iter().map(|data| data.to_string()).collect();
    expected.sort();
    eventually(&format!("{name} {kind} is {expected:?}"), || match ask(server, from, name, kind)? {
        reply if reply.status == "NOERROR" && reply.data == expected => Ok(()),
        reply => Err(format!("{reply:?}")),
    });
}

/// Waits until a name does not exist.
pub fn await_no_name(from: &Namespace, name: &str) {
    eventually(&format!("{name} does not exist"), || match ask(DNS_ADDRESS, from, name, "A")? {
        reply if reply.status == "NXDOMAIN" => Ok(()),
        reply => Err(format!("{reply:?}")),
    });
}

/// The addresses of many names, asked over one dig, in the order of the names.
pub fn addresses_of(from: &Namespace, names: &[String], directory: &Path) -> Vec<String> {
    let batch = directory.join("names");
    std::fs::write(&batch, names.join("\n")).unwrap();
    let mut dig = Command::new("dig");
    dig.args([&format!("@{DNS_ADDRESS}"), "+tries=1", "+time=5", "+short", "-f"]).arg(batch);
    output(from, &mut dig).lines().map(str::to_string).collect()
}

/// Status and body of a page, asked for in a namespace; by HTTP 1.0, in which an answer is not cut into chunks.
pub fn http_get(namespace: &Namespace, address: &str, path: &str) -> Result<(u16, String), String> {
    let address: SocketAddr = address.parse().unwrap();
    let reply = namespace.run(|| {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: waypost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    let text = reply.map_err(|error| error.to_string())?.map_err(|error: std::io::Error| error.to_string())?;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| text.clone())?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_string();
    Ok((status, body))
}
