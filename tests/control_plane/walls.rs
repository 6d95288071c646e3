//! Walls around this process: namespaces of its own, and an end to everything in them when it ends.

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use waypost::lab::{self, LabError};

const INSIDE: &str = "WAYPOST_TEST_INSIDE_WALLS";

/// Builds programs of `target/tools` that are missing. Before [`around`], because there is no network inside.
pub fn build_tools(names: &[&str]) {
    if is_inside() {
        return;
    }
    let status = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/build-tools")).args(names).status();
    assert!(status.is_ok_and(|status| status.success()), "scripts/build-tools {} failed", names.join(" "));
}

/// Whether this is the second process.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs `inside` in a second process, in user, network, mount and process namespaces of its own, with `stdin` as its standard input.
///
/// That process is the first of its process namespace, so that the kernel kills whatever it has started when it ends, however it
/// ends; and the kernel kills it when this one ends.
pub fn around(stdin: Stdio, inside: impl FnOnce() -> ExitCode) -> ExitCode {
    within(lab::enter, stdin, inside)
}

/// As [`around`], but without a user namespace, for programs that need the rights of real root.
pub fn around_as_root(inside: impl FnOnce() -> ExitCode) -> ExitCode {
    within(enter_as_root, Stdio::null(), inside)
}

fn enter_as_root() -> Result<(), LabError> {
    let what = "making network and mount namespaces as root (kube-proxy's large batches are refused in user namespaces)";
    let system = |errno: Errno| LabError::System { what: what.to_string(), source: errno.into() };
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(system)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).map_err(system)
}

fn within(enter: impl FnOnce() -> Result<(), LabError>, stdin: Stdio, inside: impl FnOnce() -> ExitCode) -> ExitCode {
    if is_inside() {
        prctl::set_pdeathsig(Signal::SIGKILL).expect("a process may ask for a signal");
        return inside();
    }
    if let Err(error) = enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    unshare(CloneFlags::CLONE_NEWPID).expect("root may make process namespaces");
    let status = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .stdin(stdin)
        .status()
        .expect("this program can be started once more");
    u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from)
}
