//! The process, as Prometheus's client libraries show it.
//!
//! Not the collector of the `prometheus` crate: its CPU time has whole seconds, of which an agent uses a few in an hour, and it looks its process
//! up by a number that `/proc` may not have, where that belongs to another process namespace.

use nix::sys::resource::{Resource, getrlimit};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Opts, core::GenericCounter};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// What `/proc` counts processor time and starts in: on Linux a hundredth of a second, whatever the kernel's own clock (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The metrics `process_…` of this process.
pub(super) struct ProcessMetrics {
    cpu: GenericCounter<prometheus::core::AtomicF64>,
    start: Gauge,
    resident: Gauge,
    virtual_memory: Gauge,
    threads: Gauge,
    open_files: Gauge,
    max_files: Gauge,
}

impl ProcessMetrics {
    pub(super) fn new() -> Result<ProcessMetrics, prometheus::Error> {
        Ok(ProcessMetrics {
            cpu: GenericCounter::with_opts(Opts::new("process_cpu_seconds_total", "User and system CPU time, in seconds"))?,
            start: Gauge::new("process_start_time_seconds", "When the process was started, in seconds since 1970")?,
            resident: Gauge::new("process_resident_memory_bytes", "Resident memory, in bytes")?,
            virtual_memory: Gauge::new("process_virtual_memory_bytes", "Virtual memory, in bytes")?,
            threads: Gauge::new("process_threads", "Threads of the process")?,
            open_files: Gauge::new("process_open_fds", "Open file descriptors")?,
            max_files: Gauge::new("process_max_fds", "How many file descriptors may be open")?,
        })
    }

    fn gauges(&self) -> [&Gauge; 6] {
        [&self.start, &self.resident, &self.virtual_memory, &self.threads, &self.open_files, &self.max_files]
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.cpu.desc().into_iter().chain(self.gauges().into_iter().flat_map(|gauge| gauge.desc())).collect()
    }

    /// What cannot be read is left out.
    fn collect(&self) -> Vec<MetricFamily> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{file}")).unwrap_or_default();
        let Some(seen) = Seen::of(&read("self/stat"), &read("self/status"), &read("stat")) else { return Vec::new() };
        // The counter may have been raised by another listener's page meanwhile.
        self.cpu.inc_by((seen.cpu_seconds - self.cpu.get()).max(0.0));
        self.start.set(seen.start);
        self.resident.set(seen.resident_bytes);
        self.virtual_memory.set(seen.virtual_bytes);
        self.threads.set(seen.threads);
        self.open_files.set(fs::read_dir("/proc/self/fd").map_or(0.0, |files| files.count() as f64));
        self.max_files.set(getrlimit(Resource::RLIMIT_NOFILE).map_or(0.0, |(soft, _)| soft as f64));
        let mut families = self.cpu.collect();
        families.extend(self.gauges().into_iter().flat_map(Collector::collect));
        families
    }
}

/// What the files of `/proc` say.
#[derive(Debug, PartialEq)]
struct Seen {
    cpu_seconds: f64,
    start: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    threads: f64,
}

impl Seen {
    /// From the process's `stat` and `status`, and from the host's `stat`, which has the time of its boot.
    fn of(stat: &str, status: &str, host: &str) -> Option<Seen> {
        // The name before it may contain anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let field = |number: usize| fields.split(' ').nth(number - 3)?.parse::<f64>().ok();
        let line = |text: &str, key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key))?;
            value.split_whitespace().next()?.parse::<f64>().ok()
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let booted = line(host, "btime ").filter(|booted| *booted < now)?;
        Some(Seen {
            cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            start: booted + field(22)? / TICKS_PER_SECOND,
            resident_bytes: line(status, "VmRSS:")? * 1024.0,
            virtual_bytes: line(status, "VmSize:")? * 1024.0,
            threads: line(status, "Threads:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_understood_whatever_the_process_is_called() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 9 0 1234 5000 60 18446744073709551615";
        let status = "Name:\ta ) b\nVmSize:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t9\n";
        let seen = Seen::of(stat, status, "cpu 1 2 3\nbtime 1000\n").unwrap();
        let expected =
            Seen { cpu_seconds: 3.0, start: 1012.34, resident_bytes: 1_048_576.0, virtual_bytes: 2_097_152.0, threads: 9.0 };
        assert_eq!(seen, expected);
    }

    #[test]
    fn this_process_is_seen() {
        let metrics = ProcessMetrics::new().unwrap();
        let families = metrics.collect();
        assert_eq!(families.len(), 7);
        for family in families.iter().filter(|family| family.name() != "process_cpu_seconds_total") {
            assert!(family.get_metric()[0].get_gauge().get_value() > 0.0, "{}", family.name());
        }
    }
}
