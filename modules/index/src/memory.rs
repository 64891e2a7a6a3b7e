//! What memory a refresh takes, and what there is: said before anything is embedded, not found out
//! after hours by being killed.
//!
//! Invariant: what is needed is computed from counts alone; where nobody can say what there is,
//! nothing is refused.

use std::fs;
use std::path::Path;

use crate::agent::File;

/// Of the machine's memory, what a refresh may take unless `[memory]` says otherwise: the rest is
/// for those beside it.
const SHARE_PER_CENT: u64 = 80;
/// Bytes of a vector as it is given.
const NUMBER: u64 = 4;
/// What building takes at its peak, in per cent of the vectors alone: they are there once, beside
/// their codes and the graph. Measured on a million of 384 numbers.
const BUILD_PER_CENT: u64 = 200;
/// The same of texts: as they were read, as rows, and as they are written.
const TEXT_PER_CENT: u64 = 300;

/// Bytes that making an index of so many chunks takes.
#[must_use]
pub fn needed(chunks: u64, dim: u64, text_bytes: u64) -> u64 {
    let vectors = chunks.saturating_mul(dim).saturating_mul(NUMBER);
    let of = |bytes: u64, per_cent: u64| bytes.saturating_mul(per_cent) / 100;
    of(vectors, BUILD_PER_CENT).saturating_add(of(text_bytes, TEXT_PER_CENT))
}

/// Bytes that a refresh may take: what the module's file says, else a share of what the machine, or
/// the group of processes, has.
#[must_use]
pub fn limit(settings: &Path) -> Option<u64> {
    let file =
        fs::read_to_string(settings).ok().and_then(|text| toml::from_str::<File>(&text).ok());
    if let Some(mib) = file.and_then(|file| file.memory.refresh_mib) {
        return Some(mib.saturating_mul(1 << 20));
    }
    let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| group_limit(&text));
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let least = [group, machine].into_iter().flatten().min()?;
    Some(least / 100 * SHARE_PER_CENT)
}

/// The least limit of the control groups that a process is in.
fn group_limit(cgroup: &str) -> Option<u64> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let top = Path::new("/sys/fs/cgroup");
    let own = Path::new(own.trim()).strip_prefix("/").ok()?;
    let folders = own.ancestors().map(|folder| top.join(folder).join("memory.max"));
    folders.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

/// Bytes of the machine's memory, of what `/proc/meminfo` says.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_grows_with_vectors_and_texts_and_never_overflows() {
        let million = needed(1_000_000, 384, 0);
        assert!((3_000_000_000..3_100_000_000).contains(&million), "{million}");
        assert_eq!(needed(0, 384, 100), 300);
        assert!(needed(u64::MAX, u64::MAX, u64::MAX) >= u64::MAX / 100);
    }

    #[test]
    fn the_file_says_it_or_the_machine_does() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("index.toml");
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       16 kB\n"), Some(16 << 10));
        assert_eq!((total("nothing"), group_limit("1:name=x:/y")), (None, None));
        std::fs::write(&file, "[memory]\nrefresh_mib = 3\n").expect("written");
        assert_eq!(limit(&file), Some(3 << 20));
    }
}
