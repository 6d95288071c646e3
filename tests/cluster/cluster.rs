//! A real cluster, driven by `scripts/cluster` and by kubectl as its users drive it.

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The nodes that the cluster starts with.
pub const NODES: [u8; 3] = [1, 2, 3];
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// More than any program takes that a case waits for: the first build of the image compiles everything. `timeout` then says 124.
const LIMIT: &str = "20m";

/// The cluster of these tests; it ends when this is dropped.
pub struct Cluster {
    name: &'static str,
}

impl Cluster {
    /// Starts it by `make cluster`, with so many nodes and `waypost` or `stock` on them.
    pub fn start(name: &'static str, nodes: usize, with: &str) -> Cluster {
        let cluster = Cluster { name };
        // One that an earlier run was not given the time to end.
        cluster.script(&["down"]);
        // From here on it is dropped when something fails.
        let (nodes, with) = (format!("NODES={nodes}"), format!("WITH={with}"));
        let output =
            cluster.make(&["cluster", &nodes, &with]).unwrap_or_else(|error| panic!("the cluster does not start: {error}"));
        let took = output.lines().find(|line| line.starts_with("Up after")).unwrap_or_default();
        eprintln!("    make cluster {nodes} {with}: {took}");
        assert!(output.contains(&format!("export KUBECONFIG={}", cluster.folder().join("kubeconfig").display())), "{output}");
        assert!(output.contains(&format!("make cluster-down CLUSTER={name}")), "the command that ends this one: {output}");
        cluster
    }

    /// Ends it by `make cluster-down`.
    pub fn end(&self) {
        let said = self.make(&["cluster-down"]).unwrap_or_else(|error| panic!("the cluster does not end: {error}"));
        assert!(said.contains("is gone"), "{said}");
    }

    fn make(&self, arguments: &[&str]) -> Result<String, String> {
        finish(self.command("make").arg("--no-print-directory").args(arguments).arg(format!("CLUSTER={}", self.name)))
    }

    /// What a subcommand of `scripts/cluster` printed.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn script(&self, arguments: &[&str]) -> String {
        self.try_script(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Cluster::script`]; an error is what it said.
    pub fn try_script(&self, arguments: &[&str]) -> Result<String, String> {
        finish(self.command("scripts/cluster").args(arguments))
    }

    /// A program in the place of the cluster's administrator: in the checkout, with the KUBECONFIG that `make cluster` prints.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        // What cargo tells this test of itself would make build scripts compile their crates anew.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .current_dir(ROOT)
            .env("CLUSTER", self.name)
            // Optimisation takes minutes.
            .env("PROFILE", "dev")
            .env("KUBECONFIG", self.folder().join("kubeconfig"))
            .env("PATH", format!("{ROOT}/target/tools:{ROOT}/target/static:{path}:/usr/local/sbin:/usr/sbin:/sbin"))
            .stdin(Stdio::null());
        // Away from the user's own.
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(variable, self.folder().join("helm"));
        }
        command
    }

    /// What kubectl printed.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Cluster::kubectl`]; an error is what it said.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        finish(self.command("kubectl").args(arguments))
    }

    /// An object, or a list of objects, as kubectl reads it.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "--output=json"], arguments].concat());
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// Applies these objects.
    pub fn apply(&self, objects: &str) {
        let file = self.folder().join("applied.yaml");
        std::fs::write(&file, objects).expect("target/ can be written");
        self.kubectl(&["apply", "--filename", utf8(&file)]);
    }

    /// What helm printed; an error is what it said.
    pub fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        finish(self.command("helm").args(["--namespace", "kube-system"]).args(arguments))
    }

    /// What a program printed that ran on this node.
    pub fn node(&self, number: u8, command: &[&str]) -> String {
        self.script(&[&["node", &number.to_string()], command].concat())
    }

    /// Where its logs and its kubeconfig are.
    pub fn folder(&self) -> PathBuf {
        Path::new(ROOT).join("target/cluster").join(self.name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.try_script(&["down"]) {
            eprintln!("the cluster does not end: {error}");
        }
    }
}

/// Waits for the program, but not for ever; what it printed, or an error with everything that it said.
pub fn finish(command: &mut Command) -> Result<String, String> {
    let mut limited = Command::new("timeout");
    limited.args(["--kill-after=10s", LIMIT]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.current_dir(ROOT).stdin(Stdio::null());
    let Output { status, stdout, stderr } = limited.output().map_err(|error| format!("{command:?}: {error}"))?;
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if status.success() {
        return Ok(out.into_owned());
    }
    let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    Err(format!("{} {}: {status}\n{out}{err}", command.get_program().display(), arguments.join(" ")))
}

/// # Panics
/// When the path is no text.
pub fn utf8(path: &Path) -> &str {
    path.to_str().expect("the path of the checkout is UTF-8")
}
