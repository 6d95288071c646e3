//! What the cluster has for services and names, and how it gets from one state to another.

use super::by_make::Second;
use super::cluster::{Cluster, NODES, finish};
use super::documents;
use super::shop::Shop;
use super::traces::Traces;
use std::sync::{Mutex, MutexGuard};

/// The pods of the agents.
pub const AGENTS: &str = "--selector=app.kubernetes.io/component=agent";

/// The cluster, and which state it is in.
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// What there was on the machine before it.
    pub before: Traces,
    /// Another cluster, beside it for a while.
    pub second: Second,
    /// What of the documents has been run.
    pub documents: documents::Run,
    // None: unknown, because a test that was to change it has failed on its way.
    state: Mutex<Option<State>>,
}

/// Helm waits for what it has made itself, which are not the pods.
pub fn await_no_agents(cluster: &Cluster) {
    cluster.kubectl(&["--namespace=kube-system", "wait", "--for=delete", "pod", AGENTS, "--timeout=120s"]);
}

/// What makes services and names work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Bare,
    /// Waypost, as the chart's defaults have it.
    Waypost,
    /// The stock kube-proxy and CoreDNS.
    Stock,
}

impl Stage {
    /// Starts the cluster with the stock parts.
    pub fn start() -> Stage {
        let before = Traces::now();
        let cluster = Cluster::start("tests", NODES.len(), "stock");
        Stage {
            cluster,
            before,
            second: Default::default(),
            documents: Default::default(),
            state: Mutex::new(Some(State::Stock)),
        }
    }

    /// Brings the cluster into this state if it is in another one.
    pub fn bring_to(&self, wanted: State) {
        let now = *self.state();
        if now == Some(wanted) {
            return;
        }
        self.leave_to(|| {
            if now != Some(State::Bare) {
                self.clear();
            }
            match wanted {
                State::Bare => {}
                State::Waypost => drop(self.cluster.script(&["install-waypost"])),
                State::Stock => drop(self.cluster.script(&["install-stock"])),
            }
            wanted
        });
    }

    /// As [`Stage::bring_to`] with Waypost, and the shop open.
    pub fn with_waypost(&self) -> Shop {
        self.bring_to(State::Waypost);
        Shop::open(&self.cluster)
    }

    /// For a test that leads from one state to another, which it returns. When it fails the next test begins anew.
    pub fn leave_to(&self, way: impl FnOnce() -> State) {
        *self.state() = None;
        let arrived = way();
        *self.state() = Some(arrived);
    }

    /// After a failure: the next test begins anew.
    pub fn forget(&self) {
        *self.state() = None;
    }

    /// What is running and what was told lately, for a message of failure.
    pub fn describe(&self) -> String {
        let look = |arguments: &[&str]| finish(self.cluster.command("kubectl").args(arguments)).unwrap_or_else(|error| error);
        let pods = look(&["get", "pods", "--all-namespaces", "--output=wide"]);
        let agents =
            look(&["--namespace=kube-system", "logs", "--selector=app.kubernetes.io/name=waypost", "--prefix", "--tail=15"]);
        format!("{pods}\n{agents}\nAll logs: {}", self.cluster.folder().join("logs").display())
    }

    fn clear(&self) {
        let cluster = &self.cluster;
        if cluster.helm(&["status", "waypost"]).is_ok() {
            cluster.helm(&["uninstall", "waypost", "--wait"]).unwrap_or_else(|error| panic!("{error}"));
            await_no_agents(cluster);
        }
        cluster.script(&["remove-node-local-dns"]);
        cluster.script(&["remove-stock"]);
        // On the nodes it is run as a program of theirs, which nobody may have needed yet.
        finish(cluster.command("scripts/build-static").arg("dev")).unwrap_or_else(|error| panic!("{error}"));
        for node in NODES {
            cluster.node(node, &["waypost", "cleanup"]);
            cluster.node(node, &["waypost", "cleanup", "--kube-proxy"]);
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<State>> {
        // A test that failed while it held it has left it at None.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
