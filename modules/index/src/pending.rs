//! Vectors of a refresh that is not committed yet, so that one which was killed embeds nothing
//! twice.
//!
//! `pending.log`: the model's fingerprint, then records of a text's sha256, its vector and a
//! checksum; each batch is fdatasynced. A torn or damaged record ends it: what follows is embedded
//! again.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How the first line begins.
const HEAD: &[u8] = b"brahman pending 1 ";
/// Longest such line: a fingerprint is a hash.
const HEAD_MAX: usize = 4096;

/// Bytes read at once as a file is opened.
const READ_AT_ONCE: usize = 1 << 20;

/// The file, and what it held when it was opened.
#[derive(Debug)]
pub struct Pending {
    path: PathBuf,
    file: File,
    /// Where the records of texts begin, by the sha256 of the text.
    known: HashMap<[u8; 32], u64>,
    dim: usize,
    /// Records that were damaged, and those behind them: their texts are embedded again.
    pub lost: u64,
}

impl Pending {
    /// Opens the file of this model; one of another model is begun anew.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn open(path: &Path, fingerprint: &str, dim: usize) -> io::Result<Self> {
        let mut head = HEAD.to_vec();
        head.extend(format!("{fingerprint} {dim}\n").into_bytes());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let length = file.metadata()?.len();
        let mut start = Vec::new();
        (&file).take(HEAD_MAX as u64).read_to_end(&mut start)?;
        let mut known = HashMap::new();
        let record = record_bytes(dim);
        let mut whole = 0;
        if start.starts_with(&head) {
            whole = head.len() as u64;
            file.seek(SeekFrom::Start(whole))?;
            let (mut reader, mut part) =
                (BufReader::with_capacity(READ_AT_ONCE, &file), vec![0; record]);
            while length - whole >= record as u64 {
                reader.read_exact(&mut part)?;
                let Some(hash) = intact(&part).and_then(|(hash, _)| hash.try_into().ok()) else {
                    break;
                };
                known.insert(hash, whole);
                whole += record as u64;
            }
        }
        // What is shorter than a record was being written when the module ended, and had not been
        // acknowledged.
        let of_another =
            start.starts_with(HEAD) && !start.starts_with(&head) && start.contains(&b'\n');
        let lost = if of_another {
            0
        } else {
            length.saturating_sub(whole.max(head.len() as u64)) / record as u64
        };
        if lost > 0 {
            tracing::warn!("{}: {lost} vectors are damaged and are made again", path.display());
        }
        file.set_len(whole)?;
        if whole == 0 {
            file.write_all(&head)?;
        }
        file.sync_all()?;
        Ok(Self { path: path.to_owned(), file, known, dim, lost })
    }

    /// The vector of a text, by its sha256, if it was added before the file was opened.
    ///
    /// # Errors
    /// If it cannot be read, or is not what it was.
    pub fn vector(&self, hash: &[u8; 32]) -> io::Result<Option<Vec<f32>>> {
        let Some(at) = self.known.get(hash) else { return Ok(None) };
        let mut part = vec![0; record_bytes(self.dim)];
        self.file.read_exact_at(&mut part, *at)?;
        let (_, vector) = intact(&part).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "a record changed while it was read")
        })?;
        Ok(Some(vector.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }

    /// Adds vectors; on return they are durable.
    ///
    /// # Errors
    /// As the file system gives them.
    pub fn add<'a>(
        &mut self,
        records: impl Iterator<Item = (&'a [u8; 32], &'a [f32])>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (hash, vector) in records {
            let from = bytes.len();
            bytes.extend_from_slice(hash);
            bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
            bytes.extend(crc32fast::hash(&bytes[from..]).to_le_bytes());
        }
        let before = self.file.metadata()?.len();
        self.file.write_all(&bytes).and_then(|()| self.file.sync_data()).inspect_err(|_| {
            // What a full disk took of a batch is none.
            let _ = self.file.set_len(before);
        })
    }

    /// Removes the file: everything in it is in a generation now.
    pub fn done(self) {
        let _ = fs::remove_file(self.path);
    }
}

/// Bytes of a record of vectors of `dim` numbers.
fn record_bytes(dim: usize) -> usize {
    32 + dim * 4 + 4
}

/// The hash and the vector of a record whose checksum is right.
fn intact(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, crc) = record.split_last_chunk::<4>()?;
    (crc32fast::hash(content).to_le_bytes() == *crc).then(|| content.split_at(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_known_after_a_cut_and_another_model_knows_nothing() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("pending.log");
        let vectors: Vec<([u8; 32], [f32; 2])> =
            (0..5).map(|i| ([i; 32], [f32::from(i), 1.0])).collect();
        let mut pending = Pending::open(&path, "f", 2).expect("opens");
        pending.add(vectors.iter().map(|(h, v)| (h, &v[..]))).expect("added");
        let length = fs::metadata(&path).expect("there").len();
        OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("there")
            .set_len(length - 3)
            .expect("cut");
        let mut again = Pending::open(&path, "f", 2).expect("opens");
        assert_eq!((again.known.len(), again.lost), (4, 0), "a torn end is no damage");
        assert_eq!(again.vector(&[3; 32]).expect("read"), Some(vec![3.0, 1.0]));
        assert_eq!(again.vector(&[4; 32]).expect("read"), None);
        again.add(std::iter::once((&[9; 32], &[9.0, 9.0][..]))).expect("added");
        assert_eq!(Pending::open(&path, "f", 2).expect("opens").known.len(), 5);
        let mut bytes = fs::read(&path).expect("there");
        let middle = bytes.len() - 2 * 44 - 3;
        bytes[middle] ^= 1;
        fs::write(&path, &bytes).expect("damaged");
        let damaged = Pending::open(&path, "f", 2).expect("opens");
        assert_eq!((damaged.known.len(), damaged.lost), (2, 3), "what is lost is counted");
        let other = Pending::open(&path, "g", 2).expect("opens");
        assert!(other.known.is_empty() && other.lost == 0);
        other.done();
        bytes[3] ^= 1;
        fs::write(&path, &bytes).expect("damaged");
        assert_eq!(Pending::open(&path, "f", 2).expect("opens").lost, 5);
    }
}
