//! The control plane: etcd, the API server and the EndpointSlice controller, each a process in this process's own namespace.

use super::processes::{Process, eventually};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::runtime::{Builder, Runtime};
use waypost::lab::{Namespace, Node};

/// The port of the API server, on 127.0.0.1 in this process's namespace and, by relays, in every node's.
pub const API_PORT: u16 = 6443;
/// The networks of the services' addresses, one a family.
pub const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:96::/112";
/// The networks of the pods' addresses, one a family.
pub const POD_CIDRS: &str = "10.244.0.0/16,fd00:244::/64";
/// The name of the Node object that every stage plays.
pub const NODE_NAME: &str = "node-1";

const ADMIN_TOKEN: &str = "admin-token";
/// A user whom no role binding knows.
pub const POWERLESS_TOKEN: &str = "powerless-token";

/// A running control plane.
pub struct Cluster {
    namespace: Namespace,
    directory: PathBuf,
    runtime: Runtime,
    client: Client,
    api_server: Mutex<Process>,
    _others: [Process; 2],
}

impl Cluster {
    /// Starts everything and waits until the API server is ready. Logs and data go to `target/tmp/control-plane-<purpose>`, which
    /// is emptied first.
    pub fn start(purpose: &str) -> Cluster {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("control-plane-{purpose}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("target/tmp can be written");
        // For the loopback interface; nothing but the control plane lives here.
        let namespace = Node::here(&["192.0.2.1".parse::<IpAddr>().unwrap()]).unwrap().namespace().clone();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads can be started");

        fs::write(directory.join("kubeconfig"), kubeconfig(&directory, ADMIN_TOKEN)).unwrap();
        fs::write(
            directory.join("tokens.csv"),
            format!("{ADMIN_TOKEN},admin,admin,system:masters\n{POWERLESS_TOKEN},powerless,powerless,nobodies\n"),
        )
        .unwrap();
        let key = tool("control-plane").arg("key").arg(directory.join("service-accounts.key")).status();
        assert!(key.is_ok_and(|status| status.success()), "control-plane key failed");
        let etcd = start_etcd(&namespace, &directory);
        let api_server = start_api_server(&namespace, &directory);
        let client = runtime.block_on(connect(&directory));
        let controllers = start_controllers(&namespace, &directory);
        let cluster =
            Cluster { namespace, directory, runtime, client, api_server: Mutex::new(api_server), _others: [etcd, controllers] };
        cluster.await_ready();
        cluster.join_node();
        cluster
    }

    /// Makes the Node object, as the kubelet does.
    pub fn join_node(&self) {
        self.apply(&node_object());
        self.kubectl(&["patch", "node", NODE_NAME, "--subresource=status", "--patch", NODE_STATUS]);
    }

    /// Where logs and data are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file that lets its reader do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// A file for the bearer of this token.
    pub fn kubeconfig_for(&self, name: &str, token: &str) -> PathBuf {
        let path = self.directory.join(format!("kubeconfig-{name}"));
        fs::write(&path, kubeconfig(&self.directory, token)).unwrap();
        path
    }

    /// The namespace in which the control plane lives.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The runtime of the relays and of the client.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Runs kubectl and returns what it printed.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.kubectl_with_input(arguments, "")
    }

    /// Applies objects in YAML.
    pub fn apply(&self, objects: &str) {
        self.kubectl_with_input(&["apply", "--server-side", "-f", "-"], objects);
    }

    /// Applies objects in YAML that name no namespace.
    pub fn apply_in(&self, namespace: &str, objects: &str) {
        self.kubectl_with_input(&["apply", "--server-side", "--namespace", namespace, "-f", "-"], objects);
    }

    /// The same, with this at its standard input.
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> String {
        let file = self.directory.join("kubectl.stdin");
        fs::write(&file, input).unwrap();
        let mut command = tool("kubectl");
        command.env("KUBECONFIG", self.kubeconfig()).args(arguments).stdin(Stdio::from(fs::File::open(&file).unwrap()));
        let output = self.namespace.output(&mut command).unwrap();
        assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Kills the API server and starts it anew; `meanwhile` runs while there is none. Returns when it is ready.
    pub fn restart_api_server(&self, meanwhile: impl FnOnce()) {
        let mut api_server = self.api_server();
        api_server.kill();
        meanwhile();
        *api_server = start_api_server(&self.namespace, &self.directory);
        drop(api_server);
        self.await_ready();
    }

    fn api_server(&self) -> MutexGuard<'_, Process> {
        self.api_server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn await_ready(&self) {
        eventually("the API server is ready", || {
            if let Some(status) = self.api_server().ended() {
                panic!("the API server has ended ({status}):\n{}", super::processes::tails(&self.directory));
            }
            let request = http::Request::get("/readyz").body(Vec::new()).expect("a valid request");
            self.runtime.block_on(self.client.request_text(request)).map_err(|error| error.to_string())
        });
    }
}

/// A program of `target/tools`.
pub fn tool(name: &str) -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(name))
}

fn start_etcd(namespace: &Namespace, directory: &Path) -> Process {
    let mut command = tool("control-plane");
    command
        .arg("etcd")
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .args(["--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379"])
        .args(["--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level", "warn"]);
    Process::start(namespace, directory, "etcd", &mut command)
}

fn start_api_server(namespace: &Namespace, directory: &Path) -> Process {
    let key = directory.join("service-accounts.key");
    let mut command = tool("control-plane");
    command
        .args(["apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address=127.0.0.1"])
        .args([format!("--secure-port={API_PORT}"), format!("--service-cluster-ip-range={SERVICE_CIDRS}")])
        .args(["--advertise-address=192.0.2.1", "--authorization-mode=RBAC", "--allow-privileged"])
        // Would refuse pods until a controller that is not running has made their service accounts.
        .arg("--disable-admission-plugins=ServiceAccount")
        .args(["--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-signing-key-file"])
        .arg(&key)
        .arg("--service-account-key-file")
        .arg(&key)
        .arg("--token-auth-file")
        .arg(directory.join("tokens.csv"))
        .arg("--cert-dir")
        .arg(directory);
    Process::start(namespace, directory, "apiserver", &mut command)
}

fn start_controllers(namespace: &Namespace, directory: &Path) -> Process {
    let mut command = tool("control-plane");
    command.arg("controllers").arg("-kubeconfig").arg(directory.join("kubeconfig"));
    Process::start(namespace, directory, "controllers", &mut command)
}

/// A client, once the API server has written the certificate that the client needs.
async fn connect(directory: &Path) -> Client {
    eventually("the API server writes its certificate", || {
        let text = fs::read_to_string(directory.join("apiserver.crt")).map_err(|error| error.to_string())?;
        // It holds the server's own certificate and that of its authority.
        if text.matches("END CERTIFICATE").count() == 2 { Ok(()) } else { Err("it is not complete".to_string()) }
    });
    let kubeconfig = Kubeconfig::read_from(directory.join("kubeconfig")).expect("we wrote it");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("we wrote it");
    Client::try_from(config).expect("we wrote it")
}

fn kubeconfig(directory: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         current-context: lab\n\
         clusters:\n\
         - name: lab\n  cluster:\n    server: https://127.0.0.1:{API_PORT}\n    certificate-authority: {}\n\
         users:\n\
         - name: user\n  user: {{token: {token}}}\n\
         contexts:\n\
         - name: lab\n  context: {{cluster: lab, user: user}}\n",
        directory.join("apiserver.crt").display()
    )
}

fn node_object() -> String {
    format!(
        "apiVersion: v1\n\
         kind: Node\n\
         metadata:\n  name: {NODE_NAME}\n  labels: {{kubernetes.io/os: linux, topology.kubernetes.io/zone: zone-a}}\n\
         spec: {{podCIDRs: [10.244.0.0/16, \"fd00:244::/64\"]}}\n"
    )
}

const NODE_STATUS: &str = r#"{"status": {
    "addresses": [{"type": "InternalIP", "address": "192.0.2.10"}, {"type": "InternalIP", "address": "2001:db8::10"}],
    "conditions": [{"type": "Ready", "status": "True", "reason": "Lab", "message": "a namespace"}]
}}"#;
