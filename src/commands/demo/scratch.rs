//! Files that exist for this process only: a memory file system in its private mount namespace.

use super::cluster::{Cluster, DOMAIN, dns_addresses};
use crate::lab::Namespace;
use anyhow::Context;
use nix::mount::{MsFlags, mount};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Empty on nearly every machine; nothing outside this process sees what is mounted there.
const PLACES: [&str; 4] = ["/mnt", "/media", "/srv", "/opt"];

/// The manifests that the demo brings along.
const SAMPLES: [(&str, &str); 2] = [
    ("web.yaml", include_str!("../../../manifests/demo/web.yaml")),
    ("data.yaml", include_str!("../../../manifests/demo/data.yaml")),
];

/// The memory file system.
#[derive(Debug)]
pub struct Scratch {
    root: PathBuf,
}

impl Scratch {
    /// Mounts it. The process must have entered the lab, or the whole machine would see it.
    pub fn mount() -> anyhow::Result<Scratch> {
        let place = PLACES.iter().map(Path::new).find(|place| place.is_dir());
        let place = place.with_context(|| format!("the demo mounts a memory file system; make one of {}", PLACES.join(", ")))?;
        mount(Some("waypost-demo"), place, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
            .with_context(|| format!("mounting a memory file system on {}", place.display()))?;
        Ok(Scratch { root: place.to_path_buf() })
    }

    /// The sample manifests, in a folder of their own.
    pub fn samples(&self) -> anyhow::Result<PathBuf> {
        let folder = self.root.join("manifests");
        write_samples(&folder)?;
        Ok(folder)
    }

    /// A folder for the shell's PATH: `nft`, `on-node` and `on-outside` run programs in the network namespaces of the node and of the
    /// host outside. Without `nsenter` it is empty.
    pub fn tools(&self, cluster: &Cluster) -> anyhow::Result<PathBuf> {
        let folder = self.root.join("bin");
        fs::create_dir_all(&folder)?;
        let Some(nsenter) = program("nsenter") else { return Ok(folder) };
        for (name, namespace) in [("node", cluster.node.namespace()), ("outside", cluster.outside.namespace())] {
            let handle = self.handle(name, namespace)?;
            let enter = format!("exec {} --net={}", nsenter.display(), handle.display());
            script(&folder.join(format!("on-{name}")), &format!("{enter} \"$@\""))?;
            if let (Some(nft), "node") = (program("nft"), name) {
                script(&folder.join("nft"), &format!("{enter} {} \"$@\"", nft.display()))?;
            }
        }
        Ok(folder)
    }

    /// Makes cluster DNS the resolver of this process and its children, whatever the host uses. `namespace` is searched first.
    ///
    /// # Errors
    ///
    /// Where the host has no `/etc/resolv.conf` over which to mount another.
    pub fn use_cluster_dns(&self, namespace: &str) -> anyhow::Result<()> {
        let servers = dns_addresses().map(|server| format!("nameserver {}\n", server.ip()));
        let search = format!("search {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n");
        self.lay_over("/etc/resolv.conf", &format!("{}{search}", servers.concat()))?;
        // Or the C library would ask the host's own resolver over a socket.
        if Path::new("/etc/nsswitch.conf").exists() {
            self.lay_over("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")?;
        }
        Ok(())
    }

    /// A start-up file for bash that makes the prompt say where one is.
    pub fn bash_start(&self, prompt: &str) -> anyhow::Result<PathBuf> {
        let file = self.root.join("bashrc");
        fs::write(&file, format!("PS1='{prompt}'\n"))?;
        Ok(file)
    }

    /// A file through which other programs find a namespace.
    fn handle(&self, name: &str, namespace: &Namespace) -> anyhow::Result<PathBuf> {
        let file = self.root.join(name);
        File::create(&file)?;
        let source = format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd());
        bind(Path::new(&source), &file).with_context(|| format!("naming the namespace of {name}"))?;
        Ok(file)
    }

    fn lay_over(&self, target: &str, text: &str) -> anyhow::Result<()> {
        let file = self.root.join(Path::new(target).file_name().unwrap_or_default());
        fs::write(&file, text)?;
        bind(&file, Path::new(target)).with_context(|| format!("laying the demo's own file over {target}"))
    }
}

/// A folder of the sample manifests on the host's disk, for the user to edit; removed when dropped.
#[derive(Debug)]
pub struct Editable {
    /// Where it is.
    pub folder: PathBuf,
}

impl Editable {
    /// Writes the samples to a new folder under the directory for temporary files.
    pub fn new() -> anyhow::Result<Editable> {
        let folder = std::env::temp_dir().join(format!("waypost-demo-{}", std::process::id()));
        let editable = Editable { folder };
        write_samples(&editable.folder)?;
        Ok(editable)
    }
}

impl Drop for Editable {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("cannot remove {}: {error}", self.folder.display());
        }
    }
}

/// Finds a program, also where only root's PATH leads.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn write_samples(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, text) in SAMPLES {
        fs::write(folder.join(name), text).with_context(|| format!("writing {name}"))?;
    }
    Ok(())
}

fn script(file: &Path, command: &str) -> io::Result<()> {
    fs::write(file, format!("#!/bin/sh\n{command}\n"))?;
    fs::set_permissions(file, Permissions::from_mode(0o755))
}

fn bind(source: &Path, target: &Path) -> nix::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}
