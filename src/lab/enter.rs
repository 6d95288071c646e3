//! From an ordinary process to one that owns its network and mounts.

use super::LabError;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use std::fs;

/// Moves this process into user, network and mount namespaces of its own, where it is root.
///
/// Must be called before the process has a second thread: the kernel gives a user namespace to single-threaded processes only.
/// Where user namespaces are refused and the process is already root, it gets network and mount namespaces without one.
///
/// # Errors
///
/// [`LabError::Forbidden`] names the setting that stands in the way and says how root can run the same command.
pub fn enter() -> Result<(), LabError> {
    let (uid, gid) = (Uid::current(), Gid::current());
    match unshare(CloneFlags::CLONE_NEWUSER) {
        Ok(()) => map_to_root(uid, gid)?,
        Err(_) if uid.is_root() => {}
        Err(errno) => return Err(forbidden(errno)),
    }
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(forbidden)?;
    // Without this a mount made here would show on the host when the process is real root.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(LabError::errno("making the mounts private"))
}

fn map_to_root(uid: Uid, gid: Gid) -> Result<(), LabError> {
    for (file, text) in [("setgroups", "deny".to_string()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
    {
        let path = format!("/proc/self/{file}");
        fs::write(&path, text).map_err(LabError::system(format!("writing {path}")))?;
    }
    Ok(())
}

/// What forbids namespaces, from the settings that are known to do so.
fn forbidden(errno: Errno) -> LabError {
    let setting = |name: &str| fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok();
    let is = |name: &str, value: &str| setting(name).is_some_and(|text| text.trim() == value);
    let seccomp = fs::read_to_string("/proc/self/status").is_ok_and(|status| status.lines().any(|line| line == "Seccomp:\t2"));
    let (reason, fix) = if errno == Errno::EINVAL {
        ("a second thread was already running when the lab was entered".to_string(), "")
    } else if is("user.max_user_namespaces", "0") || errno == Errno::ENOSPC {
        ("user.max_user_namespaces is 0, or all it allows are in use".to_string(), "sysctl -w user.max_user_namespaces=10000")
    } else if is("kernel.unprivileged_userns_clone", "0") {
        ("kernel.unprivileged_userns_clone is 0".to_string(), "sysctl -w kernel.unprivileged_userns_clone=1")
    } else if is("kernel.apparmor_restrict_unprivileged_userns", "1") {
        (
            "kernel.apparmor_restrict_unprivileged_userns is 1".to_string(),
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
    } else if seccomp {
        (
            format!("a seccomp filter is in force ({errno}), as in a container"),
            "docker run --security-opt seccomp=unconfined (or --privileged)",
        )
    } else {
        (format!("the kernel says {errno}"), "")
    };
    let allow = if fix.is_empty() { String::new() } else { format!("Root can allow it: {fix}\n") };
    let advice = format!("{allow}Or run the same command as root: sudo {}", command_line());
    LabError::Forbidden { reason, advice }
}

fn command_line() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}
