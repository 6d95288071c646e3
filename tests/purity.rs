//! The pure core stays pure: the model, the store, the plan and the answers of DNS know no API server, no kernel and no runtime.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Files, and folders with all that is in them.
const PURE: &[&str] = &[
    "src/model",
    "src/store.rs",
    "src/proxy",
    "src/import/corefile",
    "src/snapshot/format.rs",
    "src/snapshot/seal.rs",
    "src/snapshot/zones.rs",
    "src/dns/name.rs",
    "src/dns/records.rs",
    "src/dns/reverse.rs",
    "src/dns/service_record.rs",
    "src/dns/lookup.rs",
    "src/dns/answer.rs",
    "src/dns/shape.rs",
    "src/dns/chain/explain.rs",
    "src/dns/chain/model.rs",
    "src/dns/chain/rewrite.rs",
    "src/dns/chain/template.rs",
    "src/dns/chain/values.rs",
    "src/dns/cache.rs",
    "src/dns/top.rs",
];

/// Roots of paths that may not occur there: crates, and our own modules that stand further out.
const FORBIDDEN: &[&str] = &[
    "kube",
    "k8s_openapi",
    "hickory_proto",
    "hickory_resolver",
    "hickory_server",
    "hyper",
    "hyper_util",
    "netlink_sys",
    "netlink_packet_core",
    "netlink_packet_route",
    "nftables",
    "nix",
    "notify",
    "rtnetlink",
    "tokio",
    "crate::admin",
    "crate::agent",
    "crate::commands",
    "crate::lab",
    "crate::nft",
    "crate::source",
    "std::fs",
    "std::process",
    "std::thread",
];

#[test]
fn the_pure_core_imports_nothing_that_does_input_or_output() {
    let mut complaints = String::new();
    for path in PURE {
        let files = rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
        assert!(!files.is_empty(), "{path} has no Rust file: adapt the list in this test");
        for file in files {
            let text = fs::read_to_string(&file).expect("a source file can be read");
            for (line, found) in violations(&text) {
                writeln!(complaints, "{}:{line}: {found}", file.display()).expect("a String can be written");
            }
        }
    }
    assert!(complaints.is_empty(), "these belong to the edges, not to the pure core:\n{complaints}");
}

#[test]
fn the_guard_sees_imports_and_paths_and_ignores_comments_and_longer_names() {
    let text = "use tokio::sync::mpsc;\n// tokio::spawn\nlet x = nix::unistd::getpid();\nmatch kubernetes::x {}\n\
                use crate::nft;\nuse std::{fs, io};\nuse crate::{nft::Batch, model};\n";
    let lines: Vec<_> = violations(text).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [1, 3, 5, 6, 7]);
}

/// Line numbers, from 1, and what was found there.
fn violations(text: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        // `use std::{fs, io}` and `use std::fs` are one: without braces, each member follows its root.
        let code = spread_braces(code);
        found.extend(FORBIDDEN.iter().filter(|name| names(&code, name)).map(|name| (number + 1, *name)));
    }
    found
}

/// Whether `name` occurs as the beginning of a path or as a whole import.
fn names(code: &str, name: &str) -> bool {
    let in_a_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    code.match_indices(name).any(|(start, _)| {
        let before = code.as_bytes()[..start].last();
        let after = &code[start + name.len()..];
        !before.is_some_and(|byte| in_a_name(*byte))
            && (after.starts_with("::") || (code.contains("use ") && after.starts_with([';', ' '])))
    })
}

/// `use a::{b, c::D};` as `use a::b; use a::c::D;`, for one level of braces on one line.
fn spread_braces(code: &str) -> String {
    match (code.trim_start().starts_with("use "), code.split_once("::{")) {
        (true, Some((root, members))) => {
            members.trim_end_matches(['}', ';', ' ']).split(',').map(|member| format!("{root}::{}; ", member.trim())).collect()
        }
        _ => code.to_string(),
    }
}

fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("a folder can be listed").path());
    paths
        .filter(|path| path.is_dir() || path.extension().is_some_and(|extension| extension == "rs"))
        .flat_map(|path| rust_files(&path))
        .collect()
}
