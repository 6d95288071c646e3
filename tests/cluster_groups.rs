//! What `scripts/cluster` makes of control groups on machines with one version of them, the other, or both; a machine has only one kind, so they are folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[test]
fn on_a_machine_with_version_2_alone_there_is_one_hierarchy() {
    let machine = Machine::new("two", &["cgroup.controllers", "cgroup.procs", "user.slice/cgroup.procs"]);
    assert_eq!(machine.says("cgroup_roots"), machine.paths(&[""]));
}

#[test]
fn on_a_machine_with_both_versions_there_are_those_of_version_1_and_that_of_version_2() {
    let machine =
        Machine::new("both", &["memory/cgroup.procs", "unified/cgroup.controllers", "unified/cgroup.procs", "no-hierarchy/file"]);
    assert_eq!(machine.says("cgroup_roots"), machine.paths(&["/memory", "/unified"]));
}

#[test]
fn in_version_2_a_node_is_in_a_group_below_the_one_that_hands_controllers_on() {
    let machine =
        Machine::new("join", &["memory/cgroup.procs", "memory/n/cgroup.procs", "unified/cgroup.procs", "unified/n/cgroup.procs"]);
    machine.write("unified/n/cgroup.controllers", "memory");
    let process = machine.says("join_cgroups /n; echo $$");
    let joined = |file: &str| fs::read_to_string(machine.0.join(file)).unwrap_or_default();
    assert_eq!(joined("memory/n/cgroup.procs").trim(), process[0]);
    assert_eq!(
        (joined("unified/n/node/cgroup.procs").trim(), joined("unified/n/cgroup.procs").as_str()),
        (process[0].as_str(), "")
    );
}

#[test]
fn controllers_that_a_kubelet_would_miss_are_named() {
    let machine = Machine::new("missing", &["cgroup.controllers", "n/cgroup.procs"]);
    machine.write("n/cgroup.subtree_control", "cpu io pids");
    assert_eq!(machine.says("missing_controllers /n"), ["cpuset memory"]);
    machine.write("n/cgroup.subtree_control", "cpuset cpu io memory hugetlb pids");
    assert_eq!(machine.says("missing_controllers /n"), [""]);
    let both = Machine::new("missing-both", &["memory/cgroup.procs", "unified/cgroup.controllers"]);
    assert!(both.says("missing_controllers /n").is_empty(), "there version 1 has them");
}

/// Folders in the place of /sys/fs/cgroup.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str, files: &[&str]) -> Machine {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("groups").join(name);
        // One of an earlier run.
        let _ = fs::remove_dir_all(&folder);
        let machine = Machine(folder);
        files.iter().for_each(|file| machine.write(file, ""));
        machine
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("target/ can be written");
        fs::write(path, text).expect("target/ can be written");
    }

    fn paths(&self, below: &[&str]) -> Vec<String> {
        below.iter().map(|path| format!("{}{path}", self.0.display())).collect()
    }

    /// The lines that a command prints which knows the script's functions.
    fn says(&self, command: &str) -> Vec<String> {
        let script = format!("set -euo pipefail; . scripts/cluster.d/cgroups.sh; cgroups=$1; {command}");
        let mut bash = Command::new("bash");
        bash.current_dir(env!("CARGO_MANIFEST_DIR")).args(["-c", &script, "bash"]).arg(&self.0);
        let Output { status, stdout, stderr } = bash.output().expect("bash can be started");
        assert!(status.success(), "{command}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).lines().map(String::from).collect()
    }
}
