//! What a cluster could leave behind on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where programs of a cluster keep things on a machine of their own; here all of it must be the nodes'. (buildah and `ip netns` make folders as well,
/// whoever uses them: /etc/cni, /var/lib/containers and /run/netns.)
const FOLDERS: &[&str] = &[
    "/etc/cni/net.d/10-pods.conflist",
    "/etc/containerd",
    "/etc/kubernetes",
    "/opt/cni",
    "/opt/containerd",
    "/run/containerd",
    "/run/waypost",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/lib/waypost",
    "/var/log/containers",
    "/var/log/pods",
];
/// What kubelets set for the whole machine.
const SETTINGS: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// What is there: processes, network namespaces, links, mounts, control groups, folders, and the machine's settings.
#[derive(Debug)]
pub struct Traces(BTreeSet<String>);

impl Traces {
    /// All that is there now, in the namespaces of this process.
    pub fn now() -> Traces {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells");
        let mounts = mounts.lines().filter_map(|line| Some(format!("the mount {}", line.split(' ').nth(4)?)));
        let mounts = mounts.filter(|mount| mount != "the mount /run/netns");
        let folders = FOLDERS.iter().filter(|folder| Path::new(folder).exists()).map(ToString::to_string);
        let settings = SETTINGS.iter().map(|setting| {
            let value = fs::read_to_string(format!("/proc/sys/{setting}")).unwrap_or_default();
            format!("{setting} = {}", value.trim())
        });
        let links = names("/sys/class/net").into_iter().map(|name| format!("the link {name}"));
        let namespaces = names("/run/netns").into_iter().map(|name| format!("the network namespace {name}"));
        Traces(
            processes()
                .into_iter()
                .chain(mounts)
                .chain(folders)
                .chain(settings)
                .chain(links)
                .chain(namespaces)
                .chain(groups())
                .collect(),
        )
    }

    /// What has come since.
    pub fn new_since(&self, before: &Traces) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn processes() -> Vec<String> {
    let ids = names("/proc").into_iter().filter(|name| name.bytes().all(|letter| letter.is_ascii_digit()));
    let of_one = |id: String| {
        let command = fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?.replace('\0', " ");
        // Threads of the kernel have none, nor have processes that have ended.
        (!command.is_empty()).then(|| format!("the process {id}: {command}"))
    };
    ids.filter_map(of_one).collect()
}

/// The groups that clusters make, in every hierarchy.
fn groups() -> Vec<String> {
    let roots = names("/sys/fs/cgroup").into_iter().map(|name| format!("/sys/fs/cgroup/{name}"));
    let mut groups = Vec::new();
    for root in roots.chain(["/sys/fs/cgroup".to_string()]) {
        let folder = format!("{root}/waypost-cluster");
        groups.extend(Path::new(&folder).is_dir().then(|| format!("the group {folder}")));
        groups.extend(names(&folder).into_iter().map(|name| format!("the group {folder}/{name}")));
    }
    groups
}

/// What is in a folder; nothing where there is none.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
