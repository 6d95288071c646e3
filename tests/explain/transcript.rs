//! Transcripts: files in which `$ waypost …` lines are followed by what they print. They are run again and compared.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs every command of a transcript and compares; with the variable `update` in the environment writes the file anew instead. A line with
/// the exit code follows an output whose command did not end with 0.
pub fn hold(file: &Path, update: &str, command: impl Fn(&[&str]) -> Command) {
    let shown = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut fresh = String::new();
    let mut skipping = false;
    for line in shown.lines() {
        if let Some(words) = line.strip_prefix("$ waypost ") {
            fresh += &format!("{line}\n{}", run(&mut command(&words.split_whitespace().collect::<Vec<_>>())));
            skipping = true;
        } else if line.starts_with("```") || line.starts_with("# ") {
            skipping = false;
        }
        if !skipping {
            fresh += &format!("{line}\n");
        }
    }
    if std::env::var_os(update).is_some() {
        fs::write(file, fresh).expect("the transcript can be written");
        return;
    }
    let different = shown.lines().zip(fresh.lines()).position(|(shown, fresh)| shown != fresh);
    assert!(
        shown == fresh,
        "{} differs from line {}; if that is right, run {update}=1 cargo test --test explain. Now it is:\n{fresh}",
        file.display(),
        different.map_or(shown.lines().count().min(fresh.lines().count()), |line| line + 1)
    );
}

fn run(command: &mut Command) -> String {
    for variable in ["WAYPOST_SOCKET", "WAYPOST_MANIFESTS", "WAYPOST_KUBECONFIG", "WAYPOST_API_SERVER", "WAYPOST_CONFIG"] {
        command.env_remove(variable);
    }
    let output = command.output().expect("waypost can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    let end = if code == 0 { String::new() } else { format!("exit code {code}\n") };
    format!("{}{}{end}", text(&output.stdout), text(&output.stderr))
}
