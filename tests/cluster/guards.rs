//! What a case has taken away from the cluster comes back when it ends, also when it fails: the next one needs it.

use super::bad_days::SYSTEM;
use super::cluster::Cluster;

/// What undoes something, when this is dropped.
pub struct Undone<'a> {
    cluster: &'a Cluster,
    by: Option<By>,
}

enum By {
    Script(&'static [&'static str]),
    Kubectl(&'static [&'static str]),
}

/// Ends the API server.
pub fn without_api_server(cluster: &Cluster) -> Undone<'_> {
    cluster.script(&["api-stop"]);
    Undone { cluster, by: Some(By::Script(&["api-start"])) }
}

/// Ends every process of node3.
pub fn without_node3(cluster: &Cluster) -> Undone<'_> {
    cluster.script(&["stop-node", "3"]);
    Undone { cluster, by: Some(By::Script(&["start-node", "3"])) }
}

/// Lets pods come to node2 again.
pub fn uncordon_node2(cluster: &Cluster) -> Undone<'_> {
    Undone { cluster, by: Some(By::Kubectl(&["uncordon", "node2"])) }
}

/// Gives the DNS servers the number of replicas that the chart gives them.
pub fn scale_back(cluster: &Cluster) -> Undone<'_> {
    Undone { cluster, by: Some(By::Kubectl(&[SYSTEM, "scale", "deployment/waypost-dns", "--replicas=2"])) }
}

impl Undone<'_> {
    /// Undoes it now, because the case goes on after it.
    ///
    /// # Panics
    /// When that fails.
    pub fn now(mut self) {
        self.undo().unwrap_or_else(|error| panic!("{error}"));
    }

    fn undo(&mut self) -> Result<(), String> {
        let done = match self.by.take() {
            None => return Ok(()),
            Some(By::Script(arguments)) => self.cluster.try_script(arguments),
            Some(By::Kubectl(arguments)) => self.cluster.try_kubectl(arguments),
        };
        done.map(drop)
    }
}

impl Drop for Undone<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            eprintln!("the next tests may miss something: {error}");
        }
    }
}
