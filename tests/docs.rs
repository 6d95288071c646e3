//! What the documents say is true: the reference, the commands and flags they show, make targets, links, and the chart's settings.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use waypost::config::{RunArgs, SETTINGS, Surroundings, load, reference_markdown};
use waypost::notices;

const DOCUMENTS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/balancing.md",
    "docs/differences.md",
    "docs/dns.md",
    "docs/events.md",
    "docs/conntrack.md",
    "docs/explain.md",
    "docs/install.md",
    "docs/migrate.md",
    "docs/operate.md",
    "docs/performance.md",
    "docs/scale.md",
    "docs/security.md",
    "docs/services.md",
    "docs/settings.md",
    "docs/tested.md",
];

/// Settings that have a value of their own in the chart, or that the chart must decide itself.
const NOT_IN_CHART_CONFIG: &[&str] = &[
    "role",
    "node-name",
    "state-dir",
    "kubeconfig",
    "api-server",
    "manifests",
    "cluster-cidr",
    "service-cidr",
    "cluster-domain",
    "socket",
    "log-format",
    "log-level",
    "probe-socket",
    "handover-socket",
];

#[test]
fn the_configuration_reference_in_the_readme_is_the_one_in_the_code() {
    holds_reference("README.md", &reference_markdown());
}

#[test]
fn the_reasons_of_events_in_the_document_are_those_in_the_code() {
    holds_reference("docs/events.md", &notices::reference_markdown());
}

/// The alerts link to their headings.
#[test]
fn every_alert_has_a_heading_in_the_document_and_a_case_among_its_tests() {
    let rules: Value = serde_saphyr::from_str(&read("charts/waypost/files/alerts.yaml")).expect("the rules are YAML");
    let cases: Value = serde_saphyr::from_str(&read("tests/alerts/rules.yaml")).expect("the tests are YAML");
    let each = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let rules: Vec<Value> = each(&rules, "groups").iter().flat_map(|group| each(group, "rules")).collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let names: BTreeSet<_> = rules.iter().map(|rule| text(&rule["alert"])).collect();
    assert!(names.len() > 10 && names.len() == rules.len(), "{names:?}");
    for rule in &rules {
        let link = format!("docs/operate.md#{}", text(&rule["alert"]).to_lowercase());
        assert!(text(&rule["annotations"]["runbook_url"]).ends_with(&link), "{rule} should link to {link}");
    }

    let document = read("docs/operate.md");
    let section = document.split("\n## ").find(|section| section.starts_with("Alerts\n")).expect("a section about alerts");
    let headings: BTreeSet<_> = section.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_string).collect();
    assert_eq!(headings, names, "the headings of docs/operate.md and the alerts");
    let fires = |case: &Value| each(case, "exp_alerts").first().map(|_| text(&case["alertname"]));
    let tested: BTreeSet<_> =
        each(&cases, "tests").iter().flat_map(|test| each(test, "alert_rule_test")).filter_map(|case| fires(&case)).collect();
    assert_eq!(tested, names, "the cases of tests/alerts/rules.yaml in which an alert fires, and the alerts");
}

/// Compares what stands between a document's markers, or with UPDATE_DOCS writes it.
fn holds_reference(document: &str, reference: &str) {
    let text = read(document);
    let (before, rest) = text.split_once("<!-- reference").expect("the document has the reference's first marker");
    let (marker, rest) = rest.split_once("-->\n").expect("the marker ends");
    let (shown, after) = rest.split_once("<!-- end of reference -->").expect("the document has the reference's last marker");
    let expected = format!("\n{reference}\n");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let text = format!("{before}<!-- reference{marker}-->\n{expected}<!-- end of reference -->{after}");
        fs::write(path(document), text).expect("the document can be written");
    } else {
        assert_eq!(shown, expected, "run UPDATE_DOCS=1 cargo test --test docs and commit {document}");
    }
}

#[test]
fn verbs_and_flags_that_the_documents_show_exist() {
    let verbs = verbs();
    let mut checked = 0;
    for (document, code) in DOCUMENTS.iter().flat_map(|document| code_of(document)) {
        let words: Vec<_> = code.split_whitespace().collect();
        let Some(at) = words.iter().position(|word| *word == "waypost").filter(|at| *at == 0 || words[at - 1] == "sudo") else {
            continue;
        };
        let rest = &words[at + 1..];
        let verb = rest.first().copied().filter(|word| !word.starts_with('-'));
        if let Some(verb) = verb {
            assert!(verbs.contains(verb), "{document} shows `{code}`, but there is no verb {verb}; there are {verbs:?}");
        }
        // What a verb is about (`import corefile`) has flags of its own.
        let about = rest.get(1).filter(|word| verb.is_some_and(|verb| help(&[verb]).contains(&format!("\n  {word} "))));
        let help = help(&verb.into_iter().chain(about.copied()).collect::<Vec<_>>());
        for flag in rest.iter().filter_map(|word| word.strip_prefix("--")).map(|flag| flag.split('=').next().unwrap_or(flag)) {
            assert!(has_flag(&help, flag), "{document} shows `{code}`, which has no flag --{flag}");
        }
        checked += 1;
    }
    assert!(checked > 3, "the documents show only {checked} commands: is the search broken?");
}

#[test]
fn flags_that_the_documents_show_alone_are_flags_of_run() {
    let run = help(&["run"]);
    let mut checked = 0;
    for (document, code) in DOCUMENTS.iter().flat_map(|document| code_of(document)) {
        let Some(flag) =
            code.strip_prefix("--").filter(|flag| !flag.starts_with('-')).and_then(|flag| flag.split([' ', '=']).next())
        else {
            continue;
        };
        assert!(has_flag(&run, flag), "{document} shows `{code}`, but waypost run has no flag --{flag}");
        checked += 1;
    }
    assert!(checked > 20, "the documents show only {checked} flags: is the search broken?");
}

/// Every setting is shown with a value, and every value that is shown of those of services stands in a test as it is; of the others those of docs/settings.md.
#[test]
fn every_setting_has_an_example_that_a_test_runs() {
    let tests = sources("tests");
    let documents: Vec<_> = DOCUMENTS.iter().filter(|document| document.starts_with("docs/")).collect();
    let codes: Vec<(&str, String)> = documents.iter().flat_map(|document| code_of(document)).collect();
    for setting in SETTINGS {
        let start = format!("--{}=", setting.key);
        let is_meant = |document: &str| setting.section == "Services" || document == "docs/settings.md";
        let shown = codes.iter().filter(|(document, _)| is_meant(document));
        let words = shown.flat_map(|(document, code)| code.split_whitespace().map(move |word| (*document, word)));
        let examples: BTreeSet<_> = words.filter(|(_, word)| word.starts_with(&start)).collect();
        assert!(!examples.is_empty(), "docs/ shows no example of --{}", setting.key);
        for (document, example) in examples {
            assert!(is_run(example, &tests), "{document} shows `{example}`, which stands in no test as it is");
        }
    }
}

/// Whether a flag with its value, or a whole command, stands in a test as it is; or a flag as the tests that run in process write it.
fn is_run(example: &str, tests: &[(PathBuf, String)]) -> bool {
    let (key, value) = example.trim_start_matches("--").split_once('=').unwrap_or_default();
    let in_process = [
        format!("(\"{key}\", \"{value}\")"),
        format!("(\"{key}\", &file(\"{value}\"))"),
        format!("(\"{key}\", &*file(\"{value}\"))"),
    ];
    tests.iter().any(|(_, text)| {
        let rests = text.match_indices(example).map(|(at, _)| &text[at + example.len()..]);
        rests.into_iter().any(|rest| rest.starts_with(['"', ' ', '\n']) && !rest.starts_with("\".replace"))
            || in_process.iter().any(|written| text.contains(written))
    })
}

/// Those of docs/settings.md, and all flags of these commands.
#[test]
fn every_flag_of_a_command_has_an_example_that_a_test_runs() {
    let tests = sources("tests");
    let examples: Vec<String> = code_of(&"docs/settings.md").into_iter().map(|(_, code)| code).collect();
    let commands: Vec<_> = examples.iter().filter(|code| code.starts_with("waypost ")).collect();
    for command in &commands {
        assert!(is_run(command, &tests), "docs/settings.md shows `{command}`, which stands in no test as it is");
    }
    let of_run = help(&["run"]);
    for verb in [
        &["explain"][..],
        &["services"],
        &["dig"],
        &["dns", "top"],
        &["check"],
        &["probe"],
        &["import", "corefile"],
        &["demo"],
        &["cleanup"],
    ] {
        let help = help(verb);
        let flags = help.lines().filter_map(|line| line.trim_start().strip_prefix("--")?.split([' ', '=', ',']).next());
        // Settings have examples of their own.
        for flag in flags.filter(|flag| !["help", "version"].contains(flag) && (verb == ["probe"] || !has_flag(&of_run, flag))) {
            let start = format!("waypost {} ", verb.join(" "));
            let is_shown = commands.iter().any(|command| command.starts_with(&start) && has_flag(command, flag));
            assert!(is_shown, "docs/settings.md shows no example of waypost {} --{flag}", verb.join(" "));
        }
    }
}

/// The tests take these examples from the documents by what tells one from the others.
#[test]
fn every_annotation_has_an_example_and_every_example_of_services_is_run() {
    let blocks = |document: &str| -> Vec<String> {
        read(document).split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_string).collect()
    };
    let (services, balancing) = (blocks("docs/services.md"), blocks("docs/balancing.md"));
    let annotations = read("src/source/convert/annotations.rs");
    let annotations: BTreeSet<_> = annotations.split("take(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(annotations.len() >= 6, "the search for annotations finds only {annotations:?}");
    for annotation in annotations {
        let name = format!("waypost.dev/{annotation}: ");
        assert!(services.iter().chain(&balancing).any(|block| block.contains(&name)), "no example has {name}");
    }
    let claims = |folder: &str, function: &str| -> Vec<String> {
        let calls = sources(folder).into_iter().flat_map(|(_, text)| {
            text.split(function).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_string).collect::<Vec<_>>()
        });
        calls.collect()
    };
    let of_services = claims("tests/services", "manifests(\"");
    for block in services {
        let is_claimed = of_services.iter().any(|name| block.contains(&format!("\n  name: {name}\n")));
        assert!(is_claimed, "no test of tests/services runs\n{block}");
    }
    let of_balancing = claims("tests/balancing", "example(\"");
    for block in balancing {
        assert!(of_balancing.iter().any(|needle| block.contains(needle)), "no test of tests/balancing runs\n{block}");
    }
}

/// Rules of the table of flows are written as in Rust; what has underscores is a test.
#[test]
fn every_test_that_the_documents_name_exists_and_every_rule_of_services_has_a_place() {
    let rules = read("tests/flows/shared/rules.rs");
    let rules: BTreeSet<_> =
        rules.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(": \"")).map(|(name, _)| name).collect();
    assert!(rules.len() > 50, "the search for rules finds only {rules:?}");
    let sources: Vec<String> = ["tests", "src"].iter().flat_map(|folder| sources(folder)).map(|(_, text)| text).collect();
    let stands = |text: &str| sources.iter().any(|source| source.contains(text));
    let is_test =
        |name: &str| stands(&format!("\"{name}\"")) || stands(&format!("#[test]\nfn {name}(")) || stands(&format!(" fn {name}("));
    let last_column = |document: &str| -> Vec<String> {
        let text = read(document);
        let rows = text.lines().filter_map(|line| line.strip_suffix(" |")?.rsplit_once("| ").map(|(_, cell)| cell));
        rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_string).collect()
    };
    let named = last_column("docs/tested.md");
    let (tests, shown): (Vec<&str>, BTreeSet<&str>) = {
        let (tests, rules): (Vec<&str>, Vec<&str>) = named.iter().map(String::as_str).partition(|name| name.contains('_'));
        (tests, rules.into_iter().collect())
    };
    assert_eq!(shown, rules, "the rules in docs/tested.md and in tests/flows/shared/rules.rs");
    let differences = last_column("docs/differences.md");
    let of_differences = differences.iter().map(String::as_str).filter(|name| name.matches('_').count() > 2);
    for test in tests.into_iter().chain(of_differences) {
        assert!(is_test(test), "the documents name a test {test}, which does not exist");
    }
}

#[test]
fn make_targets_that_the_documents_show_exist() {
    let makefile = read("Makefile");
    let mut checked = 0;
    for (document, code) in DOCUMENTS.iter().flat_map(|document| code_of(document)) {
        let Some(target) = code.strip_prefix("make ").and_then(|rest| rest.split_whitespace().next()) else { continue };
        let exists = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
        assert!(exists, "{document} shows `{code}`, but the Makefile has no target {target}");
        checked += 1;
    }
    assert!(checked > 5, "the documents show only {checked} make targets: is the search broken?");
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for document in DOCUMENTS {
        let text = read(document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.starts_with("http") && !link.starts_with('#') {
                let file = link.split('#').next().unwrap_or(link);
                let folder = path(document).parent().expect("a document is in a folder").to_path_buf();
                assert!(folder.join(file).exists(), "{document} links to {link}, which does not exist");
            }
        }
    }
}

#[test]
fn every_setting_can_be_given_through_the_chart() {
    let schema: Value = serde_json::from_str(&read("charts/waypost/values.schema.json")).expect("the schema is JSON");
    let settings = schema["definitions"]["settings"]["properties"].as_object().expect("the schema lists the settings");
    let in_chart: BTreeSet<_> = settings.keys().map(String::as_str).collect();
    let expected: BTreeSet<_> = SETTINGS
        .iter()
        .map(|setting| setting.key)
        .chain(["dns-zones"])
        .filter(|key| !NOT_IN_CHART_CONFIG.contains(key))
        .collect();
    assert_eq!(in_chart, expected, "adapt definitions.settings in values.schema.json");
}

#[test]
fn the_configuration_files_of_the_rendered_manifest_are_valid() {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&read("manifests/waypost.yaml")).expect("the manifest is YAML");
    let files: Vec<_> = objects.iter().filter_map(|object| object["data"]["waypost.yaml"].as_str()).collect();
    assert_eq!(files.len(), 2, "one for the agent, one for the DNS servers");
    for (number, text) in files.iter().enumerate() {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("docs-{number}.yaml"));
        fs::write(&file, text).expect("target/ can be written");
        let surroundings =
            Surroundings { node_name: Some("node-1".into()), pod_ips: Some("10.244.0.2".into()), ..Surroundings::default() };
        load(&RunArgs::default().with_file(&file), &surroundings).unwrap_or_else(|error| panic!("{text}\n{error}"));
    }
}

#[test]
fn chart_and_program_have_one_version() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = read("charts/waypost/Chart.yaml");
    assert!(
        chart.contains(&format!("\nversion: {version}\n")) && chart.contains(&format!("\nappVersion: {version}\n")),
        "{chart}"
    );
}

/// The pieces of code in a document, each with the document's name: commands of fenced blocks, and inline spans.
fn code_of<'a>(document: &'a &'a str) -> Vec<(&'a str, String)> {
    // A command that goes on in the next line is one.
    let text = read(document).replace(" \\\n", " ");
    let mut code = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            code.push(line.split(" #").next().unwrap_or(line).trim().to_string());
        } else {
            code.extend(line.split('`').skip(1).step_by(2).map(str::to_string));
        }
    }
    code.into_iter().map(|code| (*document, code)).collect()
}

/// The Rust files below a folder, with their paths.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path(folder)).expect("the folder is there").flatten() {
        let file = entry.path();
        if file.is_dir() {
            found.extend(sources(&file.display().to_string()));
        } else if file.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&file).expect("a source file can be read");
            found.push((file, text));
        }
    }
    found
}

fn verbs() -> BTreeSet<String> {
    let help = help(&[]);
    let commands = help.split("Commands:\n").nth(1).expect("the help lists commands");
    let lines = commands.lines().take_while(|line| !line.trim().is_empty());
    lines
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_string)
        .collect()
}

fn has_flag(help: &str, flag: &str) -> bool {
    let flag = format!("--{flag}");
    help.match_indices(&flag)
        .any(|(at, _)| !help[at + flag.len()..].starts_with(|next: char| next == '-' || next.is_alphanumeric()))
}

fn help(verb: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_waypost")).args(verb).arg("--help").output().expect("waypost can be started");
    String::from_utf8(output.stdout).expect("help is text")
}

fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}
