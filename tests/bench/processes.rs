//! What the kernel says of processes.

use std::fs;

/// What a process has used, by the kernel's account.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Used {
    /// CPU seconds, user and system.
    pub(crate) cpu: f64,
    /// Largest resident memory in MiB.
    pub(crate) memory: f64,
}

/// What process `pid` has used so far; zero once it has ended.
pub(crate) fn used(pid: u32) -> Used {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name can hold anything; the fields follow its closing parenthesis. Some of them can be negative.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    // utime and stime are the 12th and 13th, in ticks of 1/100 s (sysconf(_SC_CLK_TCK) on Linux).
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let ticks = number(11) + number(12);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: f64 =
        peak.and_then(|text| text.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0.0);
    Used { cpu: ticks as f64 / 100.0, memory: kilobytes / 1024.0 }
}

/// The processor's name and the number of them.
pub(crate) fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{count} × {}", name.trim_start_matches([' ', '\t', ':']))
}

/// The load average of the last minute: whether the machine was busy with something else.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}
