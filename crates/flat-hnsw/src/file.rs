//! `graph.flat`: an index in one file that is opened without being read whole. Format:
//! `docs/FORMAT.md`.
//!
//! A page of header (magic, length, JSON, checksum), then sections at multiples of 4096. Codes and
//! graph are read into memory and their checksums are compared then; vectors are mapped, and
//! compared by [`verify`]. Invariants: a file is written once; every list in a file that opens
//! names nodes that exist.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::FlatIndex;
use crate::build::Parameters;
use crate::code::{Quantiser, stride};
use crate::graph::NONE;
use crate::pages::Pages;
use crate::store::Store;

const MAGIC: &[u8; 8] = b"BRFLAT\x00\x01";
const PAGE: u64 = 4096;
/// Most rows: node numbers have 31 bits.
const ROWS_MAX: u64 = 1 << 31;
/// Bytes that are read at once to compare a checksum.
const VERIFIED_AT_ONCE: usize = 1 << 20;
/// Longest vector.
pub(crate) const DIM_MAX: usize = 1 << 16;

/// What the file says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Header {
    rows: u64,
    dim: usize,
    parameters: Parameters,
    /// As bits, so that no digit is lost.
    scale_bits: u32,
    residual_max_bits: u32,
    top_level: usize,
    sections: BTreeMap<String, Section>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Section {
    at: u64,
    bytes: u64,
    crc32: u32,
}

fn bad(why: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Writes and fsyncs an index; the caller fsyncs the folder.
///
/// # Errors
/// As the file system gives them.
pub fn write(flat: &FlatIndex, path: &Path) -> io::Result<()> {
    let numbers = |list: &[u32]| bytemuck::cast_slice::<u32, u8>(list).to_vec();
    let (upper_at, upper, top) =
        (numbers(&flat.upper_at), numbers(&flat.upper), numbers(&flat.top));
    let parts: [(&str, &[u8]); 7] = [
        ("codes", flat.store.codes.bytes()),
        ("base", flat.base.bytes()),
        ("levels", &flat.levels),
        ("upper_at", &upper_at),
        ("upper", &upper),
        ("top", &top),
        ("vectors", flat.store.vectors.bytes()),
    ];
    let mut at = PAGE;
    let mut sections = BTreeMap::new();
    for (name, bytes) in parts {
        let section = Section { at, bytes: bytes.len() as u64, crc32: crc32fast::hash(bytes) };
        sections.insert(name.to_owned(), section);
        at = (at + section.bytes).next_multiple_of(PAGE);
    }
    let header = Header {
        rows: flat.store.len() as u64,
        dim: flat.store.dim(),
        parameters: flat.parameters,
        scale_bits: flat.store.quantiser.scale.to_bits(),
        residual_max_bits: flat.store.quantiser.residual_max.to_bits(),
        top_level: flat.top_level,
        sections,
    };
    let json = serde_json::to_vec(&header)?;
    let length = u32::try_from(json.len())
        .ok()
        .filter(|n| u64::from(*n) + 16 <= PAGE)
        .ok_or_else(|| bad("the header is too long"))?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
    file.write_all(MAGIC)?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&crc32fast::hash(&json).to_le_bytes())?;
    file.write_all(&json)?;
    let mut written = 16 + u64::from(length);
    for (name, bytes) in parts {
        let at = header.sections[name].at;
        file.write_all(&vec![0; usize::try_from(at - written).map_err(bad)?])?;
        file.write_all(bytes)?;
        written = at + bytes.len() as u64;
    }
    file.flush()?;
    file.get_ref().sync_all()
}

fn read_header(file: &mut File) -> io::Result<Header> {
    let mut start = [0_u8; 16];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut start).map_err(|_| bad("it is shorter than its header"))?;
    if start[..7] != MAGIC[..7] {
        return Err(bad("it is not a graph.flat file"));
    }
    if start[7] != MAGIC[7] {
        return Err(bad(format!(
            "it has version {}, this program reads version {}",
            start[7], MAGIC[7]
        )));
    }
    let word =
        |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
    let (length, crc) = (word(8), word(12));
    if u64::from(length) + 16 > PAGE {
        return Err(bad("its header is too long"));
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).map_err(|_| bad("it is shorter than its header"))?;
    if crc32fast::hash(&json) != crc {
        return Err(bad("its header's checksum does not match"));
    }
    let header: Header = serde_json::from_slice(&json).map_err(bad)?;
    let p = header.parameters;
    if header.rows >= ROWS_MAX || !(1..=DIM_MAX).contains(&header.dim) || !(2..=512).contains(&p.m)
    {
        return Err(bad("its header has numbers out of bounds"));
    }
    Ok(header)
}

impl Header {
    fn section(&self, name: &str, expected: Option<u64>) -> io::Result<Section> {
        let section =
            *self.sections.get(name).ok_or_else(|| bad(format!("it has no section `{name}`")))?;
        if !section.at.is_multiple_of(PAGE) || section.at.checked_add(section.bytes).is_none() {
            return Err(bad(format!("section `{name}` is misaligned")));
        }
        match expected {
            Some(bytes) if bytes != section.bytes => {
                Err(bad(format!("section `{name}` has {} bytes, expected {bytes}", section.bytes)))
            }
            _ => Ok(section),
        }
    }
}

/// Reads a section into memory and compares its checksum.
fn load(file: &mut File, name: &str, section: Section) -> io::Result<Pages> {
    // Its length is the file's word: believe it only as far as there is a file.
    if section.at + section.bytes > file.metadata()?.len() {
        return Err(bad(format!("it ends within section `{name}`")));
    }
    let pages = Pages::read(file, section.at, usize::try_from(section.bytes).map_err(bad)?)?;
    if crc32fast::hash(pages.bytes()) != section.crc32 {
        return Err(bad(format!("the checksum of section `{name}` does not match")));
    }
    Ok(pages)
}

/// Opens an index: reads codes and graph, maps the vectors.
///
/// # Errors
/// `InvalidData` with what is wrong; the caller names the file.
pub fn open(path: &Path) -> io::Result<FlatIndex> {
    let mut file = File::open(path)?;
    let header = read_header(&mut file)?;
    let (rows, m) = (header.rows, header.parameters.m as u64);
    let has_graph = header.top_level > 0;
    let codes =
        load(&mut file, "codes", header.section("codes", Some(rows * stride(header.dim) as u64))?)?;
    let base = load(
        &mut file,
        "base",
        header.section("base", Some(if has_graph { rows * 2 * m * 4 } else { 0 }))?,
    )?;
    let levels = load(&mut file, "levels", header.section("levels", Some(rows))?)?.bytes().to_vec();
    let mut numbers = |name: &str, expected: Option<u64>| -> io::Result<Vec<u32>> {
        let section = header.section(name, expected)?;
        if !section.bytes.is_multiple_of(4) {
            return Err(bad(format!("section `{name}` is not a whole number of entries")));
        }
        Ok(load(&mut file, name, section)?.as_u32().to_vec())
    };
    let (upper_at, upper, top) =
        (numbers("upper_at", Some(rows * 4))?, numbers("upper", None)?, numbers("top", None)?);
    let exists = |list: &[u32]| list.iter().all(|n| *n == NONE || u64::from(*n) < rows);
    if !exists(base.as_u32()) || !exists(&upper) || !top.iter().all(|n| u64::from(*n) < rows) {
        return Err(bad("a list names a node that does not exist"));
    }
    let section = header.section("vectors", Some(rows * header.dim as u64 * 4))?;
    let vectors = Pages::map(&file, section.at, usize::try_from(section.bytes).map_err(bad)?)?;
    let quantiser = Quantiser {
        scale: f32::from_bits(header.scale_bits),
        residual_max: f32::from_bits(header.residual_max_bits),
    };
    let rows = usize::try_from(rows).map_err(bad)?;
    Ok(FlatIndex {
        store: Store::from_pages(header.dim, rows, quantiser, codes, vectors),
        parameters: header.parameters,
        base,
        levels,
        upper_at,
        upper,
        top,
        top_level: header.top_level,
        idle: Mutex::default(),
    })
}

/// Reads the whole file and compares every checksum.
///
/// # Errors
/// `InvalidData` with what is wrong.
pub fn verify(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let header = read_header(&mut file)?;
    let mut buffer = vec![0; VERIFIED_AT_ONCE];
    for (name, section) in &header.sections {
        verify_section(&mut file, name, *section, &mut buffer)?;
    }
    Ok(())
}

/// Compares the checksum of a section, a part in memory at a time.
fn verify_section(
    file: &mut File,
    name: &str,
    section: Section,
    buffer: &mut [u8],
) -> io::Result<()> {
    file.seek(SeekFrom::Start(section.at))?;
    let (mut left, mut hasher) = (section.bytes, crc32fast::Hasher::new());
    while left > 0 {
        let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..part]).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => bad(format!("it ends within section `{name}`")),
            _ => error,
        })?;
        hasher.update(&buffer[..part]);
        left -= part as u64;
    }
    if hasher.finalize() == section.crc32 {
        Ok(())
    } else {
        Err(bad(format!("the checksum of section `{name}` does not match")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::SearchParameters;
    use crate::sample::unit_vectors;

    fn built(rows: usize) -> FlatIndex {
        let parameters = Parameters { m: 8, ef_construction: 40, seed: 3 };
        FlatIndex::build(&unit_vectors(5, rows, 20), 20, parameters, 2, &|_| true).expect("built").0
    }

    #[test]
    fn an_opened_index_answers_as_the_one_that_was_written() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for rows in [0, 3, 2000] {
            let path = folder.path().join(format!("{rows}.flat"));
            let flat = built(rows);
            write(&flat, &path).expect("written");
            assert!(write(&flat, &path).is_err(), "a file is written once");
            let opened = open(&path).expect("opens");
            verify(&path).expect("whole");
            let query = unit_vectors(9, 1, 20);
            let ask = SearchParameters { k: 5, ef: 50, live: None };
            assert_eq!(opened.search(&query, &ask), flat.search(&query, &ask));
            assert_eq!(
                opened.insert(&query, 1, &|_| true).expect("inserted").search(&query, &ask)[0].row
                    as usize,
                rows
            );
        }
    }

    #[test]
    fn a_flipped_byte_anywhere_is_found() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("graph.flat");
        write(&built(1500), &path).expect("written");
        let good = std::fs::read(&path).expect("there");
        let header = read_header(&mut File::open(&path).expect("there")).expect("whole");
        for (name, section) in header.sections.iter().filter(|(_, s)| s.bytes > 0) {
            let mut bytes = good.clone();
            bytes[usize::try_from(section.at + section.bytes / 2).expect("small")] ^= 4;
            std::fs::write(&path, bytes).expect("damaged");
            let error = verify(&path).expect_err("damage").to_string();
            assert!(error.contains(name.as_str()), "{error}");
            assert_eq!(
                open(&path).is_err(),
                name != "vectors",
                "what is mapped is compared by verify only"
            );
        }
    }

    proptest! {
        #[test]
        fn a_file_of_any_bytes_is_refused_or_opened_but_never_a_panic(
            cut in 0_usize..60_000,
            at in 0_usize..5_000,
            byte in any::<u8>(),
        ) {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let path = folder.path().join("graph.flat");
            write(&built(600), &path).expect("written");
            let mut bytes = std::fs::read(&path).expect("there");
            if let Some(b) = bytes.get_mut(at) {
                *b = byte;
            }
            bytes.truncate(cut.max(1));
            std::fs::write(&path, bytes).expect("written");
            if let Ok(flat) = open(&path) {
                let _ = flat.search(
                    &unit_vectors(1, 1, flat.store.dim()),
                    &SearchParameters { k: 3, ef: 10, live: None },
                );
            }
        }
    }
}
