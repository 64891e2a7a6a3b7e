//! Large arrays: anonymous memory in huge pages for what is read at random, mapped files for what is read rarely.
//!
//! A search touches hundreds of codes all over memory; with 4 KiB pages most of them miss the TLB. Rows are mapped from
//! the file, so opening an index does not read them. The file is written once and never changed.
#![expect(unsafe_code, reason = "mapping a file is unsafe because others could shorten it; ours are immutable once named")]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use memmap2::{Advice, Mmap, MmapMut, MmapOptions};

/// Bytes that start at a page.
#[derive(Debug)]
pub enum Pages {
    /// In memory.
    Memory(MmapMut, usize),
    /// In a file.
    File(Mmap),
}

fn bad(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
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
            return Err(bad("the file ends before its last section"));
        }
        if bytes == 0 {
            return Self::zeroed(0);
        }
        // SAFETY: the file belongs to a generation, is immutable once written, and is unlinked, never truncated.
        Ok(Self::File(unsafe { MmapOptions::new().offset(at).len(bytes).map(file)? }))
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Memory(map, bytes) => &map[..*bytes],
            Self::File(map) => map,
        }
    }

    /// All bytes, to be changed; none of a mapped file.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Memory(map, bytes) => &mut map[..*bytes],
            Self::File(_) => &mut [],
        }
    }

    /// As numbers; pages are aligned for them.
    #[must_use]
    pub fn as_f32(&self) -> &[f32] {
        bytemuck::cast_slice(self.bytes())
    }

    /// As node numbers.
    #[must_use]
    pub fn as_u32(&self) -> &[u32] {
        bytemuck::cast_slice(self.bytes())
    }
}
