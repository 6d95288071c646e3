//! Walls around this process: when it ends, however it ends, the kernel ends everything that it has started.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, wait};
use std::process::{Child, Command, ExitCode};

/// Says to this program, started again, which of the three processes it is.
const PART: &str = "WAYPOST_TEST_PART";

/// Runs `inside` in a third process. The second is the first of a process namespace; it takes leave of everything that ends there, as the
/// first process of a machine does. Mounts are their own too, networks are not: programs may have to be built, and for that downloaded.
pub fn around(inside: impl FnOnce() -> ExitCode) -> ExitCode {
    match std::env::var(PART).as_deref() {
        Ok("tests") => inside(),
        Ok(_) => {
            prctl::set_pdeathsig(Signal::SIGKILL).expect("a process may ask for a signal");
            // The namespace's own view, by which programs enter each other's namespaces.
            mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>).expect("root may mount /proc");
            code(reap_until_ended(&again("tests")))
        }
        Err(_) => {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID).expect("root may make namespaces");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .expect("mounts can be made private");
            code(again("first").wait().expect("it is a child").code())
        }
    }
}

fn again(part: &str) -> Child {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(PART, part).spawn().expect("this program can be started once more")
}

/// Waits for every child, orphans of ended programs included, until this one has ended.
fn reap_until_ended(child: &Child) -> Option<i32> {
    let child = child.id().cast_signed();
    loop {
        match wait().expect("the child has not ended yet") {
            WaitStatus::Exited(pid, code) if pid.as_raw() == child => return Some(code),
            WaitStatus::Signaled(pid, ..) if pid.as_raw() == child => return None,
            _ => {}
        }
    }
}

fn code(code: Option<i32>) -> ExitCode {
    u8::try_from(code.unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from)
}
