//! The differences from kube-proxy that are wanted, as `docs/differences.md` has them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of the documented differences that rows of the table show.
pub fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/differences.md");
    let text = fs::read_to_string(path).expect("the document can be read");
    let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.filter(|name| name.starts_with("proxy-")).map(str::to_string).collect()
}
