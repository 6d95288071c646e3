//! An agent that runs out of memory while it serves.

use super::bad_days::{SYSTEM, agent_of, process_of_agent, restarts};
use super::cluster::Cluster;
use super::eventually::eventually;

/// Fills the control group of a container until the kernel ends the process that it is for. What fills it is in the group as well and would be
/// the bigger one, so the kernel is told whom to choose. Both hierarchies of control groups.
const FILL: &str = r#"
    group=$(find /sys/fs/cgroup/memory/waypost-cluster /sys/fs/cgroup/waypost-cluster -type d -name "$1" -print -quit 2>/dev/null || true)
    [ -n "$group" ] || { echo "the container $1 has no group"; exit 1; }
    echo 1000 >"/proc/$2/oom_score_adj"
    bash -c 'echo $$ >"$0/cgroup.procs"; exec tail /dev/zero' "$group" &
    # What fills it may have been chosen as well, after the other one.
    trap 'kill -9 $! 2>/dev/null || true' EXIT
    for _ in $(seq 600); do
        [ -e "/proc/$2" ] || exit 0
        sleep 0.05
    done
    echo "it is still there"
    exit 1
"#;

/// Lets the agent of this node run out of memory, and waits until the API server knows that.
pub fn exhaust(cluster: &Cluster, node: u8) {
    let before = restarts(&agent_of(cluster, node).expect("it runs"));
    let (container, process) = eventually("the agent runs", || {
        let pod = agent_of(cluster, node).ok_or("there is none")?;
        let status = &pod["status"]["containerStatuses"][0];
        let running = status["state"]["running"].is_object() && restarts(&pod) == before;
        let id = status["containerID"].as_str().filter(|_| running).ok_or_else(|| status.to_string())?;
        Ok((id.trim_start_matches("containerd://").to_string(), process_of_agent(cluster, node)))
    });
    cluster.node(node, &["bash", "-euc", FILL, "fill", &container, &process.to_string()]);
    eventually("the kubelet says that the agent ran out of memory", || {
        let pod = agent_of(cluster, node).ok_or("there is none")?;
        let status = &pod["status"]["containerStatuses"][0];
        // In between the end is the present state, and afterwards the last one.
        let ended = [&status["state"], &status["lastState"]].into_iter().find(|state| {
            let end = &state["terminated"];
            end["reason"] == "OOMKilled" && end["containerID"].as_str().is_some_and(|id| id.ends_with(&container))
        });
        ended.map(|_| ()).ok_or_else(|| status.to_string())
    });
}

/// Waits until the kubelet starts the agent of this node no more at once.
pub fn await_back_off(cluster: &Cluster, node: u8) {
    eventually("the agent is in a crash loop", || {
        let pod = agent_of(cluster, node).ok_or("there is none")?;
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        if waiting == "CrashLoopBackOff" { Ok(()) } else { Err(pod["status"].to_string()) }
    });
}

/// Has a new pod made in the place of this node's agent, whose restarts are counted from 0.
pub fn begin_anew(cluster: &Cluster, node: u8) {
    let before = agent_of(cluster, node).expect("it runs");
    cluster.kubectl(&[SYSTEM, "delete", "pod", before["metadata"]["name"].as_str().expect("a pod has a name")]);
    eventually("another pod is ready", || match agent_of(cluster, node) {
        Some(pod) if pod["metadata"]["uid"] != before["metadata"]["uid"] && super::bad_days::is_ready(&pod) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
