//! Corefiles that people have, and what is made of them.

use super::*;
use std::collections::BTreeMap;

/// As `kubeadm init` writes it (1.36).
const KUBEADM: &str = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

fn read(text: &str) -> Result<Vec<Block>, String> {
    let variable = |name: &str| (name == "UPSTREAM").then(|| "192.0.2.53".to_string());
    let import = |name: &str| match name {
        "custom/*.override" => Ok(vec![("custom/a.override".to_string(), "log\nhosts {\n  192.0.2.1 a.example\n}".to_string())]),
        "again" => Ok(vec![("again".to_string(), "import again".to_string())]),
        _ => Err("there is no such file".to_string()),
    };
    parse("Corefile", text, &Surroundings { variable: &variable, import: &import }).map_err(|error| error.to_string())
}

fn names(directives: &[Directive]) -> Vec<&str> {
    directives.iter().map(|directive| directive.name.as_str()).collect()
}

#[test]
fn kubeadms_corefile_is_taken_over_whole() {
    let blocks = read(KUBEADM).unwrap();
    assert_eq!((blocks.len(), blocks[0].keys.as_slice()), (1, [".:53".to_string()].as_slice()));
    let takeover = take_over(&blocks).unwrap();
    let expected = [
        ("cluster-domain", "cluster.local"),
        ("dns-cache-negative-ttl", "30"),
        ("dns-cache-ttl", "30"),
        ("dns-forward-max-concurrent", "1000"),
        ("dns-metrics-address", ":9153"),
        ("dns-ttl", "30"),
        ("dns-upstream", "/etc/resolv.conf"),
    ];
    let expected: BTreeMap<_, _> = expected.into_iter().map(|(key, value)| (key, vec![value.to_string()])).collect();
    assert_eq!(takeover.settings, expected);
    let lost: Vec<_> = takeover.findings.iter().filter(|finding| finding.is_lost).collect();
    assert!(lost.is_empty(), "{lost:#?}");
}

#[test]
fn what_has_no_counterpart_is_named_with_its_line() {
    let text = "\
.:53 {
    kubernetes cluster.local other.local {
        pods verified
        ttl 5
    }
    rewrite name a.example b.example
    forward . tls://9.9.9.9 192.0.2.53:5353 {
        tls_servername dns.quad9.net
    }
    forward corp.example 192.0.2.1
    cache 60 {
        success 5000 3600 10
        denial 2500 600
        prefetch 5 10m
        serve_stale 2h30m
        servfail 1s
    }
}
example.org:5353 {
    whoami
}
";
    let takeover = take_over(&read(text).unwrap()).unwrap();
    let lost: Vec<String> = takeover
        .findings
        .iter()
        .filter(|finding| finding.is_lost)
        .map(|finding| format!("{} {}", finding.place, finding.what))
        .collect();
    let expected = [
        "Corefile:2 kubernetes other.local",
        "Corefile:3 kubernetes pods",
        "Corefile:6 rewrite",
        "Corefile:7 forward tls://9.9.9.9",
        "Corefile:8 forward tls_servername",
        "Corefile:19 example.org:5353",
        "Corefile:20 whoami",
    ];
    assert_eq!(lost, expected);
    for (key, value) in [
        ("dns-ttl", "5"),
        ("dns-upstream", "192.0.2.53:5353"),
        ("dns-stub-zone", "corp.example=192.0.2.1"),
        ("dns-cache-ttl", "3600"),
        ("dns-cache-min-ttl", "10"),
        ("dns-cache-negative-ttl", "600"),
        ("dns-cache-entries", "5000"),
        ("dns-cache-prefetch", "5"),
        ("dns-cache-serve-stale", "9000"),
        ("dns-cache-failure-ttl", "1"),
    ] {
        assert_eq!(takeover.settings.get(key), Some(&vec![value.to_string()]), "{key}");
    }
}

#[test]
fn a_plugin_that_nobody_knows_is_an_error() {
    let error = take_over(&read(". {\n  errors\n  nonsense\n}").unwrap()).unwrap_err();
    assert!(error.to_string().starts_with("Corefile:3: the stock CoreDNS has no plugin \"nonsense\""), "{error}");
}

#[test]
fn comments_quotes_variables_snippets_and_imports_are_read_as_coredns_reads_them() {
    let text = "\
# a comment
(common) {
    errors # another
    log . \"{remote} said \\\"{name}\\\"\"
}
a.example, b.example:53
c.example {
    import common
    import custom/*.override
    forward . {$UPSTREAM} {%MISSING%}
}
";
    let blocks = read(text).unwrap();
    // A comma at the end of a word asks for another; the end of the line ends the keys otherwise.
    assert_eq!(blocks[0].keys, ["a.example", "b.example:53"]);
    let blocks = read(&text.replace("b.example:53\n", "b.example:53,\n")).unwrap();
    assert_eq!(blocks[0].keys, ["a.example", "b.example:53", "c.example"]);
    let directives = &blocks[0].directives;
    assert_eq!(names(directives), ["errors", "log", "log", "hosts", "forward"]);
    assert_eq!(directives[1].arguments, [".", "{remote} said \"{name}\""]);
    assert_eq!((names(&directives[3].options), directives[3].options[0].arguments[0].as_str()), (vec!["192.0.2.1"], "a.example"));
    assert_eq!(directives[3].place.to_string(), "custom/a.override:2");
    assert_eq!(directives[4].arguments[..2], [".".to_string(), "192.0.2.53".to_string()]);
}

#[test]
fn a_file_without_braces_is_one_server() {
    let blocks = read("example.org\nwhoami\nlog").unwrap();
    assert_eq!(
        (blocks[0].keys.as_slice(), names(&blocks[0].directives)),
        (["example.org".to_string()].as_slice(), vec!["whoami", "log"])
    );
}

#[test]
fn what_cannot_be_read_is_said_with_its_line() {
    for (text, expected) in [
        (". {\n  log\n", "Corefile:2: the file ends before the brace that was opened in line 1 is closed"),
        (". {\n  log\n}\n}", "Corefile:4: there is no opening brace for this closing one"),
        (". {\n  import\n}", "Corefile:2: import needs the name of a snippet or of a file"),
        (". {\n  import nowhere\n}", "Corefile:2: cannot import nowhere: there is no such file"),
        (". {\n  import again\n}", "again:1: more than 1000 imports: does again import itself?"),
        ("(a) {\n}\n(a) {\n}", "Corefile:3: the snippet (a) is defined twice"),
        ("a.example, {\n}", "Corefile:1: another zone is expected after the comma"),
    ] {
        assert_eq!(read(text).unwrap_err(), expected, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "[a-z .{}()\"\\\\#,\n$%/*]{0,200}") {
        if let Ok(blocks) = read(&text) {
            let _ = take_over(&blocks);
        }
    }
}
