//! Virtual services of IPVS (`/proc/net/ip_vs`).

/// Whether there is one. The file begins with three lines of headings; each virtual service has a line that begins with its protocol.
pub fn has_services(ip_vs: &str) -> bool {
    ip_vs.lines().any(|line| ["TCP ", "UDP ", "SCTP "].iter().any(|protocol| line.starts_with(protocol)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_are_no_services() {
        let headings = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward\n";
        assert!(!has_services(headings) && !has_services(""));
        assert!(has_services(&format!("{headings}TCP  0A600001:01BB rr\n  -> C0A80102:192B      Masq    1      0          0\n")));
    }
}
