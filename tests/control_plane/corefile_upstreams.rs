//! Upstream servers of a Corefile that answer with every response code, and one that is dead: the metrics of the agent beside those of the stock CoreDNS.

use super::cluster::Cluster;
use super::corefile_server::Whose;
use super::dns_metrics::Page;
use super::dns_upstream::{Upstream, ZONE};
use super::processes::eventually;
use std::collections::BTreeSet;

/// Where nobody answers at first, and somebody later.
const DEAD: &str = "127.0.0.1:5396";
/// Response codes: all that have a name, and some that have none.
const CODES: [u16; 24] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 4000];
/// How Waypost labels those that CoreDNS labels otherwise: 16 is the code of two names, and any number of labels would be too many.
const LABELLED_OTHERWISE: [(&str, &str); 5] =
    [("12", "other"), ("15", "other"), ("24", "other"), ("4000", "other"), ("BADSIG", "BADVERS")];
const DURATION: &str = "coredns_proxy_request_duration_seconds";
const FAILURES: &str = "coredns_proxy_healthcheck_failures_total";
const BROKEN: &str = "coredns_forward_healthcheck_broken_total";

pub fn as_corednss(cluster: &Cluster) {
    let both = [Whose::Ours, Whose::Theirs];
    let _upstreams = both.map(|whose| Upstream::start(whose.upstream()));
    let _processes = both.map(|whose| whose.start(cluster, "corefile-upstreams", &corefile(whose)));
    for whose in both {
        eventually(&format!("{whose:?} answers"), || match whose.try_ask("a60-warm.codes") {
            Ok(said) if !said.answers.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    for code in CODES {
        let [ours, theirs] = both.map(|whose| whose.ask(&format!("r{code}-x.codes")).code);
        assert_eq!(ours, theirs, "the code {code} of an upstream server");
    }
    let pages = both.map(|whose| {
        eventually(&format!("{whose:?} finds that the health checks fail"), || {
            whose.ask("a60-x.dead");
            let page = Page::of(cluster, &whose.metrics(), &whose.address());
            let counted = [page.sum(FAILURES, &format!("to={DEAD}")), page.sum(BROKEN, "")];
            // More than those that make a server one that is down.
            if counted[0] > 2.0 && counted[1] > 0.0 { Ok(page) } else { Err(format!("{counted:?}")) }
        })
    });
    let [ours, theirs] = &pages;
    for metric in [DURATION, FAILURES, BROKEN] {
        assert_eq!(ours.kind(metric), theirs.kind(metric), "{metric}");
        assert_eq!(ours.shape(metric), theirs.shape(metric), "{metric}");
    }
    assert_eq!(ours.labels(FAILURES), theirs.labels(FAILURES));
    let of_theirs = |label: &str| LABELLED_OTHERWISE.into_iter().find(|(theirs, _)| *theirs == label).map(|(_, ours)| ours);
    let codes =
        |page: &Page| page.values(&format!("{DURATION}_count"), "rcode").into_iter().map(str::to_string).collect::<Vec<_>>();
    let expected: BTreeSet<_> = codes(theirs).iter().map(|label| of_theirs(label).unwrap_or(label).to_string()).collect();
    assert_eq!(codes(ours), expected.into_iter().collect::<Vec<_>>(), "CoreDNS's are {:?}", codes(theirs));

    let _alive = Upstream::start(DEAD);
    for whose in both {
        eventually(&format!("{whose:?} finds that the dead server is alive"), || match whose.ask("a60-x.dead") {
            said if said.answers.is_empty() => Err(format!("{said:?}")),
            _ => Ok(()),
        });
    }
}

fn corefile(whose: Whose) -> String {
    let (metrics, upstream) = (whose.prometheus(), whose.upstream());
    format!(
        "codes.{ZONE} {{\n {metrics}\n forward . {upstream}\n}}\n\
         dead.{ZONE} {{\n {metrics}\n forward . {DEAD} {{\n max_fails 1\n health_check 100ms\n }}\n}}\n"
    )
}
