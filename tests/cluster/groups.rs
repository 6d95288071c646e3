//! Control groups of version 2 alone, which not every machine has that these tests run on: its hierarchy, in the place where such a machine has it. On
//! machines with both versions it has what version 1 does not take, so no kubelet could run in it.

use super::cluster::finish;
use super::state::Stage;

const SCRIPT: &str = r#"
    mount --make-rprivate /
    [ ! -e /sys/fs/cgroup/unified ] || mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup
    . scripts/cluster.d/cgroups.sh
    name=groups-of-two
    die() { echo "missing: $*"; }
    trap 'remove_cgroups 1' EXIT
    make_cgroups 1
    bash -euc '. scripts/cluster.d/cgroups.sh; join_cgroups /waypost-cluster/groups-of-two-node1; grep ^0: /proc/self/cgroup'
    containers=/sys/fs/cgroup/waypost-cluster/groups-of-two-node1/containers
    mkdir "$containers"
    echo "root: $(cat /sys/fs/cgroup/cgroup.controllers)"
    echo "containers: $(cat "$containers/cgroup.controllers")"
"#;

/// A node's processes are in a group of their own, and what the machine has reaches the groups that the kubelet would make beside it.
pub fn of_version_two(stage: &Stage) {
    let said = finish(stage.cluster.command("unshare").args(["--mount", "bash", "-euo", "pipefail", "-c", SCRIPT]));
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains("0::/waypost-cluster/groups-of-two-node1/node"), "{said}");
    let controllers =
        |of: &str| said.lines().find_map(|line| line.strip_prefix(of)).map(|names| names.split_whitespace().count());
    assert_eq!(controllers("containers:"), controllers("root:"), "{said}");
    assert!(controllers("root:").is_some(), "{said}");
}
