//! What was measured: rows of this agent beside a peer, as a table, as JSON and as a drawing.

use serde::Serialize;
use std::fmt::Write;

/// The same work done by this agent and by a peer, in turns: one value a round each.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What `make bench ROW=` takes.
    pub name: &'static str,
    /// What was measured.
    pub what: &'static str,
    /// How many services there were; 0 where their number plays no part.
    pub services: u32,
    pub unit: Unit,
    pub ours: Vec<f64>,
    pub peer: &'static str,
    /// Empty where the peer cannot do it.
    pub theirs: Vec<f64>,
    pub goal: Goal,
    /// What else a reader should know.
    pub note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    Seconds,
    Bytes,
    /// Of one core.
    Share,
    PerSecond,
}

/// What is to be reached, by the median: each part that is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Goal {
    /// Our own value: at most, or for rates at least.
    pub ours: Option<f64>,
    /// How many times better than the peer.
    pub times: Option<f64>,
}

/// Minimum, median and maximum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Spread { min: *sorted.first()?, median: sorted[sorted.len() / 2], max: *sorted.last()? })
    }
}

/// The value below which this share of the values lies (nearest rank).
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

impl Row {
    /// A row without values yet, and without a goal.
    pub fn new(name: &'static str, what: &'static str, services: u32, unit: Unit) -> Row {
        let (ours, theirs, note) = (Vec::new(), Vec::new(), String::new());
        Row { name, what, services, unit, ours, peer: "", theirs, goal: Goal::default(), note }
    }

    /// With what was measured here and there.
    pub fn beside(self, peer: &'static str, [ours, theirs]: [Vec<f64>; 2]) -> Row {
        Row { ours, peer, theirs, ..self }
    }

    /// With what is to be reached.
    pub fn goal(self, ours: impl Into<Option<f64>>, times: impl Into<Option<f64>>) -> Row {
        Row { goal: Goal { ours: ours.into(), times: times.into() }, ..self }
    }

    /// With what else a reader should know.
    pub fn note(self, note: impl Into<String>) -> Row {
        Row { note: note.into(), ..self }
    }

    /// How many times better than the peer this agent was, round by round.
    pub fn times_better(&self) -> Vec<f64> {
        let ratio = |(ours, theirs): (&f64, &f64)| if self.unit == Unit::PerSecond { ours / theirs } else { theirs / ours };
        self.ours.iter().zip(&self.theirs).map(ratio).collect()
    }

    /// Whether the goal is reached; `None` without one.
    pub fn is_reached(&self) -> Option<bool> {
        let ours = Spread::of(&self.ours).map(|spread| spread.median);
        let absolute = self
            .goal
            .ours
            .map(|goal| ours.is_some_and(|ours| if self.unit == Unit::PerSecond { ours >= goal } else { ours <= goal }));
        let relative = self.goal.times.map(|goal| Spread::of(&self.times_better()).is_some_and(|times| times.median >= goal));
        [absolute, relative].into_iter().flatten().reduce(|one, other| one && other)
    }

    fn cells(&self) -> [String; 7] {
        let spread = |values: &[f64]| Spread::of(values).map_or("–".to_string(), |spread| self.unit.spread(spread));
        let times = Spread::of(&self.times_better());
        let mut goal: Vec<String> = Vec::new();
        goal.extend(
            self.goal
                .ours
                .map(|ours| format!("{} {}", if self.unit == Unit::PerSecond { "≥" } else { "≤" }, self.unit.value(ours))),
        );
        goal.extend(self.goal.times.map(|times| format!("{} ×", (times * 100.0).round() / 100.0)));
        let verdict = match self.is_reached() {
            Some(true) => " ✓",
            Some(false) => " ✗",
            None => "",
        };
        [
            self.name.to_string(),
            if self.services == 0 { String::new() } else { self.services.to_string() },
            self.what.to_string(),
            spread(&self.ours),
            format!("{} {}", self.peer, spread(&self.theirs)),
            times.map_or("–".to_string(), |times| format!("**{:.2}** ({:.2}–{:.2})", times.median, times.min, times.max)),
            format!("{}{verdict}", goal.join(", ")),
        ]
    }
}

impl Unit {
    fn value(self, value: f64) -> String {
        match self {
            Unit::Seconds if value < 1e-3 => format!("{:.1} µs", value * 1e6),
            Unit::Seconds if value < 1.0 => format!("{:.1} ms", value * 1e3),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Bytes => format!("{:.1} MB", value / 1e6),
            Unit::Share => format!("{:.2} %", value * 100.0),
            Unit::PerSecond => format!("{value:.0}/s"),
        }
    }

    fn spread(self, spread: Spread) -> String {
        format!("{} ({}–{})", self.value(spread.median), self.value(spread.min), self.value(spread.max))
    }
}

/// The table in Markdown, and the notes below it.
pub fn markdown(rows: &[Row], taken: &str) -> String {
    let mut text = format!(
        "{taken}\n\nMedian (minimum–maximum) of the rounds; how many times better, round by round.\n\n\
         | row | services | what | Waypost | peer | times better | goal |\n|---|---|---|---|---|---|---|\n"
    );
    for row in rows {
        writeln!(text, "| {} |", row.cells().join(" | ")).expect("a String can be written");
    }
    for row in rows {
        let services = if row.services == 0 { String::new() } else { format!(", {}", row.services) };
        let missed = (row.is_reached() == Some(false)).then(|| limit(row.name)).flatten();
        let remarks: Vec<_> = Some(row.note.as_str()).filter(|note| !note.is_empty()).into_iter().chain(missed).collect();
        if !remarks.is_empty() {
            write!(text, "\n- {}{services}: {}", row.name, remarks.join(". ")).expect("a String can be written");
        }
    }
    text + "\n"
}

/// What a row consists of, for one that misses its goal: by profiles, which docs/performance.md has ("Where the time goes").
fn limit(row: &str) -> Option<&'static str> {
    Some(match row {
        "first-commit" => {
            "Objects into the store, plan, the kernel's own work for the batches (more than half of it) and names, one after the other on one \
             processor; `cargo bench --bench scale` takes them apart by the processor's clock. What is beyond that is waiting for a processor"
        }
        "first-start" => "The API server's own time for the lists, TLS and the decoding of the objects, and then `first-commit`",
        "restart" => "The API server's own time for the lists, their decoding, and reading the tables back; nothing is written",
        "memory-first" | "memory-restart" => {
            "Objects, plan, what is committed and names each hold the same endpoints in their own form, beside the program, its connections and \
             the lists as they are decoded"
        }
        "offline-start" => {
            "Reading the state, plan, and the kernel's own work for tables that are made anew, as in `first-commit`"
        }
        "endpoint-p99" | "endpoint-count-p99" | "wide" | "service-p99" => {
            "Plan and commit take 20 µs to 0.7 ms. The API server's write and its notice are the rest, with what a busy machine keeps each of the \
             threads waiting"
        }
        "storm-p99" => {
            "API server, etcd and the client that writes share the processors with what is measured; `storm-cpu` has our part"
        }
        "idle" => {
            "Watch bookmarks, the signs of life of the loops that answer DNS, and the watchdog, which looks four times a second"
        }
        "dns-cpu" => "Two thirds are what the sockets cost whatever is answered (the responder in the note above)",
        "dns-rate" => "The client has as much work with a question as the server, on the same processors",
        "dns-tcp-cpu" | "dns-tcp-one-cpu" => {
            "Most of it is the kernel's work for segments and its wake-ups, which is the same for every server"
        }
        "dns-cached-cpu" => "What the sockets cost whatever is answered (the responder of `dns-cpu`), and a look into the cache",
        "dns-forwarded-cpu" => {
            "Four datagrams instead of two, two of them one by one; another port for each question, so that it cannot be foreseen (CoreDNS keeps one for \
             ten seconds); two messages read and three written; an entry in the cache"
        }
        "dns-p99" | "dns-changes-p99" => {
            "A thread waits for a processor that API server, etcd, peers and the client have as well"
        }
        "connection-p50" | "connection-rate" => {
            "The kernel's own work for a connection; both programs have one look-up in a map on its way"
        }
        "binary" | "image" => {
            "TLS, the Kubernetes API's types, regular expressions and two DNS libraries; `cargo bloat` lists them"
        }
        _ => return None,
    })
}

/// Everything, round by round.
pub fn json(rows: &[Row], taken: &str) -> String {
    let reached: Vec<_> = rows.iter().map(Row::is_reached).collect();
    let value = serde_json::json!({ "taken": taken, "rows": rows, "reached": reached });
    serde_json::to_string_pretty(&value).expect("plain data")
}
