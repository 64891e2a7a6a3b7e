//! Large arrays: anonymous memory in huge pages for what is read at random, mapped files for what
//! is read rarely.
//!
//! A search touches hundreds of codes all over memory; with 4 KiB pages most of them miss the TLB.
//! Rows are mapped from the file, so opening an index does not read them; a search that finds them
//! on the disk asks for all it needs at once ([`Pages::scattered`]). The file is written once and
//! never changed.
#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe because others could shorten it; ours are immutable once named"
)]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use memmap2::{Advice, Mmap, MmapMut, MmapOptions, UncheckedAdvice};

/// So many reads are announced after one that had to wait for the disk.
const ANNOUNCED: u32 = 16;
/// A read of scattered parts that takes longer than this, and this much a part, waited for the
/// disk.
const FROM_MEMORY_MAX: (Duration, Duration) =
    (Duration::from_micros(200), Duration::from_micros(2));

/// Bytes that start at a page, or numbers.
#[derive(Debug)]
pub enum Pages {
    /// In memory.
    Memory(MmapMut, usize),
    /// Numbers that were in memory already.
    Numbers(Vec<f32>),
    /// In a file; and how many reads are still to be announced.
    File(Mmap, AtomicU32),
}

impl Pages {
    /// Zeroed memory.
    ///
    /// # Errors
    /// If there is not enough.
    pub fn zeroed(bytes: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(bytes.max(1))?;
        // A refusal costs speed only.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        Ok(Self::Memory(map, bytes))
    }

    /// Memory with these bytes.
    ///
    /// # Errors
    /// If there is not enough.
    pub fn copied(bytes: &[u8]) -> io::Result<Self> {
        let mut pages = Self::zeroed(bytes.len())?;
        pages.bytes_mut().copy_from_slice(bytes);
        Ok(pages)
    }

    /// Memory with a part of a file.
    ///
    /// # Errors
    /// If the file ends before.
    pub fn read(file: &mut File, at: u64, bytes: usize) -> io::Result<Self> {
        let mut pages = Self::zeroed(bytes)?;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(pages.bytes_mut())?;
        Ok(pages)
    }

    /// A part of a file, read when it is touched. `at` must be a multiple of the page size.
    ///
    /// # Errors
    /// If the file ends before.
    pub fn map(file: &File, at: u64, bytes: usize) -> io::Result<Self> {
        if file.metadata()?.len() < at + bytes as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file ends before its last section",
            ));
        }
        if bytes == 0 {
            return Self::zeroed(0);
        }
        // SAFETY: the file belongs to a generation, is immutable once written, and is unlinked,
        // never truncated.
        Ok(Self::File(
            unsafe { MmapOptions::new().offset(at).len(bytes).map(file)? },
            AtomicU32::new(ANNOUNCED),
        ))
    }

    /// All bytes, wherever they lie.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Memory(map, bytes) => &map[..*bytes],
            Self::Numbers(numbers) => bytemuck::cast_slice(numbers),
            Self::File(map, _) => map,
        }
    }

    /// All bytes, to be changed; none of a mapped file.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Memory(map, bytes) => &mut map[..*bytes],
            Self::Numbers(numbers) => bytemuck::cast_slice_mut(numbers),
            Self::File(..) => &mut [],
        }
    }

    /// Reads parts that lie anywhere. If they may have to come from the disk, all are asked for
    /// before the first is touched: they then come together, and not one after the other with
    /// megabytes of surroundings each.
    pub fn scattered<T>(
        &self,
        parts: impl ExactSizeIterator<Item = Range<usize>>,
        read: impl FnOnce() -> T,
    ) -> T {
        let Self::File(map, announced) = self else { return read() };
        let longest =
            FROM_MEMORY_MAX.0 + FROM_MEMORY_MAX.1 * u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let left = announced.load(Ordering::Relaxed);
        if left > 0 {
            announced.store(left - 1, Ordering::Relaxed);
            for part in parts.filter(|part| part.start < part.end && part.end <= map.len()) {
                // A refusal costs time only.
                let _ = map.advise_range(Advice::WillNeed, part.start, part.len());
            }
        }
        let began = Instant::now();
        let out = read();
        if began.elapsed() > longest {
            announced.store(ANNOUNCED, Ordering::Relaxed);
        }
        out
    }

    /// Gives back the memory of what was read from a file: it is read again when it is touched. Of
    /// what is in memory alone nothing.
    pub fn release(&self) {
        if let Self::File(map, _) = self {
            // SAFETY: the mapping is of a file that nobody changes, and was never written to: what
            // comes back is what was there.
            #[cfg(target_os = "linux")]
            let _ = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }

    /// As numbers; pages are aligned for them.
    #[must_use]
    pub fn as_f32(&self) -> &[f32] {
        bytemuck::cast_slice(self.bytes())
    }

    /// The same bytes as node numbers.
    #[must_use]
    pub fn as_u32(&self) -> &[u32] {
        bytemuck::cast_slice(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_announced_until_they_are_quick_and_again_after_a_slow_one() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("pages");
        std::fs::write(&path, vec![7; 100_000]).expect("written");
        let pages = Pages::map(&File::open(&path).expect("there"), 0, 100_000).expect("mapped");
        let left = || match &pages {
            Pages::File(_, announced) => announced.load(Ordering::Relaxed),
            Pages::Memory(..) | Pages::Numbers(_) => unreachable!("it was mapped"),
        };
        // A part that is not there is passed over.
        let read = |wait: Duration| {
            let parts = [9_000..9_010, 0..5, 99_999..100_001, 8..8].into_iter();
            pages.scattered(parts, || {
                let began = Instant::now();
                while began.elapsed() < wait {}
                pages.bytes()[9_000]
            })
        };
        // A thread that is interrupted reads slowly as well.
        while left() > 0 {
            assert_eq!(read(Duration::ZERO), 7);
        }
        read(Duration::from_millis(1));
        assert_eq!(left(), ANNOUNCED);
    }
}
