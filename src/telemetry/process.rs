//! The `process_*` metrics that every Prometheus client library exposes, read from `/proc/self`. A
//! value that cannot be read is absent.

use std::fmt;
use std::fs;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Unit in which Linux reports CPU time to programs (`USER_HZ`): 100 on every platform for which
/// Rust has a standard library.
const TICKS_PER_SECOND: f64 = 100.0;

/// A collector of the metrics of this process.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    /// Start of the process, Unix time in seconds. It is measured here, because `/proc/stat`, which
    /// holds the boot time, is hidden from a confined service.
    start_seconds: Option<f64>,
}

impl ProcessCollector {
    /// Creates the collector, with the current time as the start of the process.
    pub fn started_now() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self { start_seconds: now.ok().map(|now| now.as_secs_f64()) }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some(seconds) = cpu_seconds(&stat) {
            let help = "User and system CPU time";
            let kind = MetricType::Counter;
            let counter = ConstCounter::new(seconds);
            counter.encode(encoder.encode_descriptor(
                "process_cpu_seconds",
                help,
                None,
                kind,
            )?)?;
        }
        for (name, help, value) in [
            ("process_open_fds", "Open file descriptors", open_fds()),
            ("process_max_fds", "Limit of open file descriptors", max_fds(&limits)),
            ("process_threads", "Threads", field(&status, "Threads:")),
            ("process_resident_memory_bytes", "Resident memory", kilobytes(&status, "VmRSS:")),
            ("process_virtual_memory_bytes", "Virtual memory", kilobytes(&status, "VmSize:")),
        ] {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let Some(seconds) = self.start_seconds else { return Ok(()) };
        let (name, help) = ("process_start_time_seconds", "Start of the process, Unix time");
        let kind = MetricType::Gauge;
        ConstGauge::new(seconds).encode(encoder.encode_descriptor(name, help, None, kind)?)
    }
}

/// Adds fields 14 and 15 of `/proc/self/stat`. The process name before them may contain any
/// characters.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn open_fds() -> Option<u64> {
    // One of the descriptors is the folder that is being read.
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    Some((entries as u64).saturating_sub(1))
}

/// Returns the soft limit, or `None` if there is no limit.
fn max_fds(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    field(status, name)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_in_proc_files() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 5 0 100 1 2";
        assert!((cpu_seconds(stat).expect("a time") - 3.0).abs() < f64::EPSILON);
        let limits = "Max processes  5  6  processes\nMax open files   1024   524288   files\n";
        assert_eq!(max_fds(limits), Some(1024));
        assert_eq!(max_fds("Max open files unlimited unlimited files\n"), None);
        let status = "VmSize:\t  20 kB\nVmRSS:\t 3 kB\nThreads:\t4\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(3072));
        assert_eq!(field(status, "Threads:"), Some(4));
        assert_eq!((cpu_seconds(""), max_fds(""), field("", "Threads:")), (None, None, None));
    }
}
