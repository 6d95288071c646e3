//! Corefiles that people have, and what is made of them.

use super::*;
use crate::dns::chain::model;

/// As `kubeadm init` writes it (1.36).
const KUBEADM: &str = include_str!("../../../tests/corefiles/kubeadm");

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
fn kubeadms_corefile_is_translated_whole() {
    let blocks = read(KUBEADM).unwrap();
    assert_eq!((blocks.len(), blocks[0].keys.as_slice()), (1, [".:53".to_string()].as_slice()));
    let translation = translate(&blocks).unwrap();
    let reverse = ["in-addr.arpa", "ip6.arpa"].map(str::to_string);
    let expected = model::Block {
        port: Some(53),
        errors: true,
        cache: Some(model::Cache {
            positive_ttl: Some(30),
            negative_ttl: Some(30),
            without_positive: vec!["cluster.local".into()],
            without_negative: vec!["cluster.local".into()],
            prefetch: Some(0),
            ..Default::default()
        }),
        kubernetes: Some(model::Kubernetes {
            zones: ["cluster.local".to_string()].into_iter().chain(reverse.clone()).collect(),
            ttl: Some(30),
            pods: Some(model::Pods::Insecure),
            fallthrough: reverse.to_vec(),
            ..Default::default()
        }),
        forward: vec![model::Forward { to: vec!["/etc/resolv.conf".into()], max_concurrent: Some(1000), ..Default::default() }],
        ..Default::default()
    };
    assert_eq!(translation.model.blocks, [expected]);
    assert!(translation.model.reload.is_some());
    let remarks: Vec<&str> = translation.remarks.iter().map(|remark| remark.what.as_str()).collect();
    assert_eq!(remarks, ["health", "health lameduck", "ready", "prometheus", "loop"]);
}

#[test]
fn options_become_fields() {
    let text = "\
.:53 {
    kubernetes cluster.local
    cache 60 {
        success 5000 3600 10
        denial 2500 600
        prefetch 5 10m 20%
        serve_stale 2h30m verify 1s
        servfail 1s
    }
    rewrite continue name regex (.*)\\.a {1}.b answer name (.*)\\.b {1}.a
    acl a.example {
        block type A AAAA net 10.0.0.0/8 192.0.2.1
        allow type * net *
    }
}
example.org:5353 a.example {
    whoami
}
";
    let model = translate(&read(text).unwrap()).unwrap().model;
    let [first, port, other] = model.blocks.as_slice() else { panic!("{model:?}") };
    let kubernetes = first.kubernetes.as_ref().unwrap();
    assert_eq!((kubernetes.ttl, kubernetes.pods, first.loadbalance), (Some(5), Some(model::Pods::Disabled), false));
    let cache = first.cache.as_ref().unwrap();
    assert_eq!((cache.positive_entries, cache.positive_ttl, cache.min_positive_ttl), (Some(5000), Some(3600), Some(10)));
    assert_eq!((cache.negative_entries, cache.negative_ttl, cache.min_negative_ttl), (Some(2500), Some(600), None));
    assert_eq!((cache.prefetch, cache.prefetch_last), (Some(5), Some(20)));
    assert_eq!(cache.serve_stale.map(|time| time.0.as_secs()), Some(9000));
    let rule = &first.rewrite[0];
    assert_eq!((rule.r#continue, rule.r#match, rule.to.as_str()), (true, Some(model::Match::Regex), "{1}.b"));
    assert_eq!(rule.answer, ["name (.*)\\.b {1}.a"]);
    let rules = &first.acl[0].rules;
    let networks: Vec<String> = rules[0].networks.iter().map(ToString::to_string).collect();
    assert_eq!((rules[0].types.len(), networks), (2, vec!["10.0.0.0/8".into(), "192.0.2.1/32".into()]));
    assert_eq!((rules[1].types.len(), rules[1].networks.len()), (0, 0));
    assert_eq!((port.zones.as_slice(), port.port), (["example.org".to_string()].as_slice(), Some(5353)));
    assert_eq!((other.zones.as_slice(), other.port, other.whoami), (["a.example".to_string()].as_slice(), None, true));
}

#[test]
fn what_is_not_there_is_an_error_that_says_what_to_do() {
    for (text, expected) in [
        (". {\n  errors\n  nonsense\n}", "Corefile:3: neither the stock CoreDNS nor Waypost has a plugin \"nonsense\""),
        (". {\n  forward . 192.0.2.1 {\n    failover SERVFAIL NXDOMAIN\n  }\n}", "Corefile:3: an answer of NXDOMAIN counts"),
        (". {\n  k8s_external x\n}", "Corefile:2: the plugin k8s_external is not there: "),
        (". {\n  kubernetes {\n    pods some\n  }\n}", "Corefile:3: \"some\" is not allowed"),
        (". {\n  rewrite edns0 local set 0xffee 0x61\n}", "Corefile:2: rewrite edns0 is not there"),
        (". {\n  cache 0\n}", "Corefile:2: the TTL of a cache is above zero"),
        (". {\n  cache 30\n  cache 60\n}", "Corefile:3: cache may be there once in a block"),
        (". {\n  reload 1s\n}", "Corefile:2: 1s is too often"),
        ("https://. {\n}", "Corefile:1: https://.: DNS is served over UDP and TCP only"),
    ] {
        let error = translate(&read(text).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
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
            let _ = translate(&blocks);
        }
    }
}

#[test]
fn serve_stale_says_when_with_which_ttl_and_how_often_the_servers_are_asked() {
    let read = |stale: &str| {
        let model = translate(&read(&format!(". {{\n cache {{\n serve_stale {stale}\n }}\n}}\n")).unwrap())?.model;
        let cache = model.blocks[0].cache.clone().unwrap();
        let seconds = |time: Option<crate::dns::chain::values::Time>| time.map(|time| time.0.as_secs());
        Ok::<_, CorefileError>((seconds(cache.stale_after), cache.stale_ttl, seconds(cache.stale_recheck)))
    };
    for (stale, expected) in [
        ("", (Some(0), None, None)),
        ("1h", (Some(0), None, None)),
        ("1h IMMEDIATE", (Some(0), None, None)),
        ("1h immediate 30s 1m", (Some(0), Some(30), Some(60))),
        ("1h verify", (None, None, None)),
        ("1h verify 0s", (None, None, None)),
        ("1h verify 1s 0s", (Some(1), Some(0), None)),
        ("1h verify 1s 30s 5m", (Some(1), Some(30), Some(300))),
    ] {
        assert_eq!(read(stale).unwrap(), expected, "serve_stale {stale}");
    }
    for wrong in ["1h some", "1h immediate 1500ms", "1h verify 1s 30s 6m", "1h immediate 1s 1s 1s", "1h verify 1s 1s 1s 1s", "x"]
    {
        assert!(read(wrong).unwrap_err().to_string().starts_with("Corefile:3: "), "serve_stale {wrong}");
    }
}
