//! Programs that run beside the tests: started in a namespace, logged to a file, ended when dropped.

pub use super::eventually::{PATIENCE, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use waypost::lab::Namespace;

const LINES_OF_A_TAIL: usize = 15;
/// `USER_HZ`.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running program.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the program; what it prints goes to `directory/name.log`, after what an earlier one of this name has printed.
    pub fn start(namespace: &Namespace, directory: &Path, name: &str, command: &mut Command) -> Process {
        let log = directory.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("the log can be written");
        let errors = file.try_clone().expect("a descriptor can be duplicated");
        let child = namespace.spawn(command.stdin(Stdio::null()).stdout(file).stderr(errors)).unwrap();
        Process { child, log }
    }

    /// Everything that it has printed so far, and those of its name before it.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("the log can be read")).into_owned()
    }

    /// Its process id as the rest of the machine sees it, from outside of our process namespace.
    pub fn outside_id(&self) -> u32 {
        outside_id(self.child.id())
    }

    /// The most memory that it has had in RAM so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.outside_id())).expect("the process is running");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|line| line.split_whitespace().next());
        1024 * peak.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).expect("the kernel counts it")
    }

    /// The processor time that it has used, with that of the programs that it has run to their ends, in seconds.
    pub fn processor_time(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.outside_id())).expect("the process is running");
        // Behind the name, which may contain anything: utime, stime, cutime and cstime are the fields 14 to 17.
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(4);
        fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_for_end()
    }

    /// Ends it with kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        eventually("the program ends", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The process id of a child as the rest of the machine sees it, from outside of our process namespace.
pub fn outside_id(child: u32) -> u32 {
    let inside = child.to_string();
    let ours = fs::read_link("/proc/self/ns/pid").expect("/proc is there");
    let ids = fs::read_dir("/proc").expect("/proc is there").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_it = |id: &u32| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        ids.split_whitespace().last() == Some(&inside) && fs::read_link(format!("/proc/{id}/ns/pid")).is_ok_and(|ns| ns == ours)
    };
    ids.into_iter().find(is_it).expect("the process is running")
}

/// The last lines of every log in the directory.
pub fn tails(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let log = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LINES_OF_A_TAIL)..].join("\n");
            text += &format!("--- the end of {}\n{tail}\n", path.display());
        }
    }
    text
}

/// What the program printed to its standard output.
///
/// # Panics
/// When it fails, with what it said.
pub fn output(namespace: &Namespace, command: &mut Command) -> String {
    let output = namespace.output(command.stdin(Stdio::null())).unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
