//! The main memory, and what a process takes of it and of the processors' time, as the kernel
//! tells.
//!
//! Invariant: a figure that cannot be read is none, never 0.

use std::fs;
use std::path::Path;

use crate::gate::Measurement;

/// Text of one of the kernel's files at most.
const FILE_BYTES_MAX: usize = 64 * 1024;

fn text(path: &str) -> Option<String> {
    let mut text = fs::read_to_string(path).ok()?;
    text.truncate(text.floor_char_boundary(FILE_BYTES_MAX));
    Some(text)
}

/// The MiB of a line such as `MemTotal:  16303428 kB`.
fn field_mib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024)
}

/// The main memory, of which no more than `budget` is shared out, nor more than this process's
/// control group may have.
#[must_use]
pub fn main_memory(budget_mib: Option<u64>) -> Option<Measurement> {
    let told = text("/proc/meminfo")?;
    let (total, free) = (field_mib(&told, "MemTotal")?, field_mib(&told, "MemAvailable"));
    let group = text("/sys/fs/cgroup/memory.max")
        .and_then(|limit| limit.trim().parse::<u64>().ok())
        .map(|bytes| bytes >> 20);
    let capacity_mib = [Some(total), group, budget_mib].into_iter().flatten().min()?;
    Some(Measurement { capacity_mib, free_mib: free })
}

/// What a process holds of the main memory.
#[must_use]
pub fn resident_mib(pid: u32) -> Option<u64> {
    field_mib(&text(&format!("/proc/{pid}/status"))?, "VmRSS")
}

/// The processors' time that a process has had so far, in nanoseconds, over the threads that it has
/// now.
#[must_use]
pub fn processor_ns(pid: u32) -> Option<u64> {
    let threads = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).ok()?;
    let of = |entry: std::io::Result<fs::DirEntry>| {
        let told = fs::read_to_string(entry.ok()?.path().join("schedstat")).ok()?;
        told.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(threads.filter_map(of).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read_and_others_are_none() {
        let told =
            "MemTotal:       16303428 kB\nMemFree:          102400 kB\nHugePages_Total:       0\n";
        assert_eq!(
            (field_mib(told, "MemTotal"), field_mib(told, "MemFree")),
            (Some(15921), Some(100))
        );
        assert_eq!(
            (field_mib(told, "Mem"), field_mib(told, "HugePages_Total"), field_mib(told, "VmRSS")),
            (None, None, None)
        );
    }

    #[test]
    fn this_process_has_memory_and_time_and_one_that_is_not_there_has_none() {
        let own = std::process::id();
        assert!(resident_mib(own).is_some_and(|mib| mib > 0));
        assert!(processor_ns(own).is_some());
        assert_eq!((resident_mib(u32::MAX), processor_ns(u32::MAX)), (None, None));
        let all = main_memory(None).expect("there is a kernel");
        let some = main_memory(Some(64)).expect("there is a kernel");
        assert!(all.capacity_mib > 64 && some.capacity_mib == 64);
    }
}
