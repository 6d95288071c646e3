//! Corefiles of other distributions and clouds, and their like for a lab.

/// As other distributions and clouds have them, by their names.
pub const OTHERS: [(&str, &str); 8] = [
    ("aks", include_str!("aks")),
    ("eks", include_str!("eks")),
    ("gke", include_str!("gke")),
    ("k3s", include_str!("k3s")),
    ("kind", include_str!("kind")),
    ("minikube", include_str!("minikube")),
    ("openshift", include_str!("openshift")),
    ("rke2", include_str!("rke2")),
];

/// One of these for a lab: with another upstream server, more options of the plugin kubernetes, `health`, `ready` and `prometheus` at these addresses, and
/// the port as it is said elsewhere.
pub fn for_lab(text: &str, upstream: &str, kubernetes: &str, listen: [&str; 3]) -> String {
    let lines = text.lines().map(|line| {
        let (indent, words) = line.split_at(line.len() - line.trim_start().len());
        let listening = ["health", "ready", "prometheus"]
            .into_iter()
            .zip(listen)
            .find(|(plugin, _)| words.strip_prefix(plugin).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ':'])));
        match listening {
            Some((plugin, address)) => format!("{indent}{plugin} {address}{}", if words.ends_with('{') { " {" } else { "" }),
            None if words.starts_with("kubernetes ") => format!("{line}\n{indent}  {kubernetes}"),
            None => line.replace("/etc/resolv.conf", upstream).replace(":53 {", " {").replace(":5353 {", " {"),
        }
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}
