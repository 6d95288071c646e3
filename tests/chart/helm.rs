//! What `helm template` makes of the chart.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Once;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The objects that the chart is with these settings, each a `KEY=VALUE` whose value is JSON; an error is what helm said.
pub fn render(settings: &[&str]) -> Result<Vec<Value>, String> {
    built();
    let mut helm = Command::new(Path::new(ROOT).join("target/tools/helm"));
    helm.current_dir(ROOT).args(["template", "waypost", "charts/waypost", "--namespace=kube-system", "--kube-version=1.36.0"]);
    for setting in settings {
        helm.args(["--set-json", setting]);
    }
    // Away from the user's own.
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(variable, Path::new(env!("CARGO_TARGET_TMPDIR")).join("helm"));
    }
    let Output { status, stdout, stderr } = helm.output().expect("helm can be started");
    if !status.success() {
        return Err(String::from_utf8_lossy(&stderr).into_owned());
    }
    let text = String::from_utf8(stdout).expect("helm writes UTF-8");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|error| format!("{error}\n{text}"))?;
    // Where a template ends with a separator.
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

/// Tests of one binary run at a time beside each other: one of them builds helm.
fn built() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let status = Command::new(Path::new(ROOT).join("scripts/build-tools")).arg("helm").status();
        assert!(status.expect("the script can be started").success(), "scripts/build-tools helm");
    });
}
