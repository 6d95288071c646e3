//! `waypost explain` on a folder of manifests: what it prints. That it says the same as the table of flows is tested in `tests/flows`.

mod transcript;

use std::path::Path;
use std::process::Command;

const SETTINGS: &[&str] = &[
    concat!("--manifests=", env!("CARGO_MANIFEST_DIR"), "/tests/explain/cluster"),
    "--cluster-cidr=10.244.0.0/16,fd00:244::/48",
    "--service-cidr=10.96.0.0/16,fd00:96::/112",
];

#[test]
fn the_program_prints_what_the_golden_file_shows() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain/golden.txt");
    transcript::hold(&golden, "UPDATE_GOLDEN", |words| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.args(words).args(SETTINGS).arg("--node=node-1");
        command
    });
}

/// Folders and words in which something is wrong.
#[test]
fn whoever_asks_wrongly_is_told_what_to_do() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain");
    transcript::hold(&folder.join("odd.txt"), "UPDATE_GOLDEN", |words| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.current_dir(&folder).args(words);
        command
    });
}

#[test]
fn the_document_shows_what_the_program_prints() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/explain.md");
    transcript::hold(&document, "UPDATE_GOLDEN", |words| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.args(words).args(SETTINGS).arg("--node=node-1");
        command
    });
}
