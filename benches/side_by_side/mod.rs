//! `make bench`: this agent beside the stock kube-proxy and CoreDNS, on the same work in the same run.
//!
//! Times mean nothing on a machine that others use too. So every row is a ratio: both programs in turns, on nodes of their own, with one API
//! server; and after each row kernel and answers are compared with what that API server holds.

mod asker;
mod changes;
mod check;
mod drawing;
mod kernel;
mod paced;
mod peers;
mod questions;
mod report;
mod responders;
mod servers;
mod starts;
mod steady;
mod storm;

use crate::cluster::Cluster;
use crate::scale;
use crate::stage::Stage;
use changes::Pair;
use peers::Server as _;
use report::Row;
use std::cell::{Cell, RefCell};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};
use tokio::runtime::Handle;

/// Where the services are.
const NAMESPACE: &str = "many";
/// How often both take turns.
const ROUNDS: usize = 3;
/// Many changes for a small cluster, one after the other, are what large clusters are measured with.
const STORM_FROM: u32 = 10_000;

/// The rows of each group, by which `ROW=` finds it.
const STARTS: &[&str] = &["first-commit", "first-start", "restart", "memory-first", "memory-restart", "wire"];
const OFFLINE: &[&str] = &["offline-start"];
const ENDPOINTS: &[&str] = &["endpoint-p50", "endpoint-p99", "endpoint-count-p50", "endpoint-count-p99"];
const SERVICES: &[&str] = &["service-p99"];
const WIDE: &[&str] = &["wide"];
const IDLE: &[&str] = &["idle"];
const CONNECTIONS: &[&str] = &["connection-p50", "connection-rate"];
const STORM: &[&str] = &["storm-p99", "storm-cpu"];
const SIZES: &[&str] = &["binary", "image"];
const CHANGES: &[&str] = &["dns-changes-p99"];
const QUESTIONS: &[&str] = &[
    "dns-cpu",
    "dns-missing-cpu",
    "dns-rate",
    "dns-tcp-cpu",
    "dns-tcp-one-cpu",
    "dns-cached-cpu",
    "dns-forwarded-cpu",
    "dns-p50",
    "dns-p99",
];

pub use responders::become_one;

/// What every row is measured with.
pub struct Bench {
    cluster: Cluster,
    changes: Cell<u32>,
    /// The one row that is wanted, if not all are.
    only: Option<String>,
    /// Groups of rows that something went wrong with.
    failed: RefCell<Vec<String>>,
}

/// Measures the row of this name, or all, at these sizes.
pub fn run(only: Option<String>, sizes: &[u32]) -> ExitCode {
    let groups = [STARTS, OFFLINE, ENDPOINTS, SERVICES, WIDE, IDLE, CONNECTIONS, STORM, CHANGES, SIZES, QUESTIONS];
    if let Some(name) = &only
        && !groups.iter().any(|group| group.contains(&name.as_str()))
    {
        eprintln!("there is no row {name:?}; there are {}", groups.concat().join(", "));
        return ExitCode::FAILURE;
    }
    let bench = Bench { cluster: Cluster::start("bench"), changes: Cell::new(0), only, failed: RefCell::default() };
    bench.cluster.kubectl(&["create", "namespace", NAMESPACE]);
    let (mut rows, mut filled) = (Vec::new(), 0);
    let sizes = if groups[..groups.len() - 2].iter().any(|group| bench.wants(group)) { sizes } else { &[] };
    for size in sizes.iter().copied() {
        println!("{size} services with {} endpoints each: making them …", scale::ENDPOINTS);
        bench.runtime().block_on(scale::load(bench.cluster.client(), NAMESPACE, filled..size));
        filled = size;
        bench.measure(size, sizes.last() == Some(&size), &mut rows);
    }
    if bench.wants(QUESTIONS) {
        questions::measure(&bench, &mut rows);
    }
    if bench.wants(SIZES) {
        bench.attempt(SIZES, || bench.add(&mut rows, steady::sizes()));
    }
    println!("\n{}", report::markdown(&rows, &machine()));
    println!("target/bench has report.md, report.json and, of several sizes, cost-by-size.svg");
    let failed = bench.failed.take();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("These were not measured, or did not leave what the API server says, for the reasons above: {}", failed.join("; "));
    ExitCode::FAILURE
}

impl Bench {
    fn measure(&self, size: u32, is_last: bool, rows: &mut Vec<Row>) {
        if self.wants(STARTS) {
            self.attempt(STARTS, || self.add(rows, starts::rows(self, size)));
        }
        if self.wants(OFFLINE) {
            self.attempt(OFFLINE, || self.add(rows, vec![starts::without_api_server(self, size)]));
        }
        let of_pair = [ENDPOINTS, SERVICES, WIDE, IDLE, CONNECTIONS, STORM, CHANGES];
        if !of_pair.iter().any(|group| self.wants(group)) {
            return;
        }
        let Some(mut pair) = self.attempt(&["both programs"], || Pair::start(self, &format!("pair-{size}"))) else { return };
        let mut measure = |group: &[&str], rows_of: &mut dyn FnMut(&mut Pair<'_>) -> Vec<Row>| {
            if self.wants(group) {
                self.attempt(group, || {
                    let measured = rows_of(&mut pair);
                    self.add(rows, measured);
                    check::in_step(self, &pair.ours.0);
                });
                // Whatever went wrong, the next rows find both programs running.
                pair.theirs.1.freeze(false);
            }
        };
        // First, while both have done nothing but start.
        measure(IDLE, &mut |pair| vec![steady::idle(size, pair)]);
        measure(ENDPOINTS, &mut |pair| changes::endpoints(self, size, pair));
        measure(SERVICES, &mut |pair| vec![changes::services(self, size, pair)]);
        measure(WIDE, &mut |pair| vec![changes::wide(self, size, pair)]);
        measure(CONNECTIONS, &mut |pair| steady::connections(size, pair));
        if size >= STORM_FROM || is_last {
            measure(STORM, &mut |pair| storm::rows(self, size, pair));
            measure(CHANGES, &mut |pair| storm::questions(self, size, pair));
        }
    }

    /// Does the work of a group. What goes wrong in it is said, and again at the end, and keeps no other group from being measured.
    fn attempt<T>(&self, group: &[&str], work: impl FnOnce() -> T) -> Option<T> {
        println!("  {} …", group.join(", "));
        let done = catch_unwind(AssertUnwindSafe(work)).ok();
        if done.is_none() {
            self.failed.borrow_mut().push(group.join(", "));
        }
        done
    }

    fn wants(&self, group: &[&str]) -> bool {
        self.only.as_ref().is_none_or(|name| group.contains(&name.as_str()))
    }

    fn add(&self, rows: &mut Vec<Row>, measured: Vec<Row>) {
        let wanted = |row: &Row| self.only.as_ref().is_none_or(|name| row.name == name);
        for row in measured.into_iter().filter(wanted) {
            println!("  {:<20} {:?} beside {:?}", row.name, row.ours, row.theirs);
            rows.push(row);
        }
        write_report(rows);
    }

    fn stage(&self, name: &str) -> Stage<'_> {
        Stage::new(&self.cluster, name)
    }

    fn runtime(&self) -> &Handle {
        self.cluster.runtime().handle()
    }
}

/// Writes all files, with what was measured so far: a run that breaks off leaves what it has.
fn write_report(rows: &[Row]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    fs::create_dir_all(&folder).expect("target/ can be written");
    let write = |name: &str, text: String| fs::write(folder.join(name), text).expect("target/bench can be written");
    let taken = machine();
    write("report.md", report::markdown(rows, &taken));
    write("report.json", report::json(rows, &taken));
    if let Some(drawing) = drawing::svg(rows) {
        write("cost-by-size.svg", drawing);
    }
}

/// On what it was measured.
fn machine() -> String {
    let first_line = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_string()
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { ", not optimised" } else { "" };
    let endpoints = scale::ENDPOINTS;
    format!(
        "{}, {processors} processors, kernel {}{build}; {endpoints} endpoints a service",
        first_line("date", &["-u", "+%F %R UTC"]),
        first_line("uname", &["-r"])
    )
}
