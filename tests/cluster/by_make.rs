//! Clusters as their users start and end them: by `make cluster` and `make cluster-down`.

use super::cluster::Cluster;
use super::eventually::eventually;
use super::shop;
use super::state::Stage;
use super::traces::Traces;
use std::panic::resume_unwind;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};

/// A second cluster, which is started while a case has to wait for something else.
#[derive(Default)]
pub struct Second(Mutex<Option<JoinHandle<()>>>);

impl Second {
    /// Starts it, tries it and ends it, beside whatever else happens.
    pub fn begin(&self) {
        *self.0.lock().expect("nobody panics while it is held") = Some(thread::spawn(one_node));
    }

    fn finish(&self) {
        let begun = self.0.lock().expect("nobody panics while it is held").take();
        begun.unwrap_or_else(|| thread::spawn(one_node)).join().unwrap_or_else(|panic| resume_unwind(panic));
    }
}

/// It has begun in another case, if that was to be run.
pub fn one_node_with_waypost(stage: &Stage) {
    stage.second.finish();
}

fn one_node() {
    let cluster = Cluster::start("second", 1, "waypost");
    let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"]);
    assert!(nodes.lines().count() == 1 && nodes.contains(" Ready "), "{nodes}");
    let pods = cluster.kubectl(&["--namespace=kube-system", "get", "pods", "--no-headers"]);
    assert!(pods.lines().all(|pod| pod.starts_with("waypost-") && pod.contains(" 1/1 ")), "{pods}");
    eventually("the node has names", || {
        let found = cluster.node(1, &["dig", "+short", &format!("@{}", shop::DNS), "kubernetes.default.svc.cluster.local"]);
        if found.trim() == "10.96.0.1" { Ok(()) } else { Err(found) }
    });
    let page = ["curl", "--insecure", "--silent", "--show-error", "--max-time", "10", "https://10.96.0.1/livez"];
    assert_eq!(cluster.node(1, &page), "ok", "the Service kubernetes leads to the API server");
    cluster.end();
}

/// The last test: nothing of the cluster is left, nor of the second one, but logs.
pub fn nothing_is_left(stage: &Stage) {
    stage.cluster.end();
    eventually("everything has gone", || match Traces::now().new_since(&stage.before) {
        none if none.is_empty() => Ok(()),
        left => Err(left.join("\n")),
    });
    let files = std::fs::read_dir(stage.cluster.folder()).expect("its logs are there");
    let files: Vec<_> = files.flatten().map(|file| file.file_name()).collect();
    assert_eq!(files, ["logs"]);
}
