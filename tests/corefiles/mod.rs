//! Corefiles that people have, and their like for a lab.

/// As `kubeadm init` writes it (1.36).
pub const KUBEADM: &str = include_str!("kubeadm");

/// kubeadm's for a lab, where the port is said elsewhere.
pub struct Lab<'a> {
    /// In the place of `/etc/resolv.conf`.
    pub upstream: &'a str,
    /// More options of the plugin kubernetes.
    pub kubernetes: &'a str,
    /// Where `health`, `ready` and `prometheus` listen, an empty text being their own default; `None`: they are left out.
    pub listen: [Option<&'a str>; 3],
}

impl Lab<'_> {
    /// The text.
    pub fn text(&self) -> String {
        let listeners = [
            ("    health {\n       lameduck 5s\n    }\n", "health"),
            ("    ready\n", "ready"),
            ("    prometheus :9153\n", "prometheus"),
        ];
        let listening = listeners.into_iter().zip(self.listen).map(|((before, plugin), address)| {
            (before, address.map_or(String::new(), |address| format!("    {plugin} {address}\n")))
        });
        let others = [
            (".:53 {", ". {".to_string()),
            ("/etc/resolv.conf", self.upstream.to_string()),
            ("pods insecure", format!("{}\n       pods insecure", self.kubernetes)),
        ];
        listening.chain(others).fold(KUBEADM.to_string(), |text, (before, after)| {
            assert!(text.contains(before), "kubeadm's Corefile has {before:?}");
            text.replace(before, &after)
        })
    }
}
