//! Walls around this process: when it ends, however it ends, the kernel ends everything that it has started.

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use std::process::{Command, ExitCode};

const INSIDE: &str = "WAYPOST_TEST_INSIDE_WALLS";

/// Runs `inside` in a second process, the first of its process namespace. Mounts are its own too, networks are not: programs may have to be
/// built, and for that downloaded.
pub fn around(inside: impl FnOnce() -> ExitCode) -> ExitCode {
    if std::env::var_os(INSIDE).is_some() {
        prctl::set_pdeathsig(Signal::SIGKILL).expect("a process may ask for a signal");
        mount_proc().expect("root may mount /proc");
        return inside();
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID).expect("root may make namespaces");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("mounts can be made private");
    let program = std::env::current_exe().expect("this program has a path");
    let status = Command::new(program).args(std::env::args_os().skip(1)).env(INSIDE, "1").status();
    let code = status.expect("this program can be started once more").code().unwrap_or(1);
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The process namespace's own view, by which programs enter each other's namespaces.
fn mount_proc() -> Result<(), Errno> {
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)
}
