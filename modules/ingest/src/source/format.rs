//! How files are read: as it is said, else by their endings and by how they begin.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::{Flaw, SourceError, WalkRules, builder, glob, is_left_out, is_of_writer, open};

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A row a file.
    Documents,
    /// A row a record.
    Csv,
    /// A row a line.
    Jsonl,
    /// Rows and types as they are.
    Parquet,
}

impl Format {
    /// By name, else by the endings of the paths.
    ///
    /// # Errors
    /// If the name is none, or tables and other things are mixed.
    pub fn of(name: Option<&str>, paths: &[String]) -> Result<Self, SourceError> {
        let bad = |given: &str, flaw: Flaw| SourceError { given: given.to_owned(), flaw };
        match name {
            Some("documents") => return Ok(Self::Documents),
            Some("csv") => return Ok(Self::Csv),
            Some("jsonl") => return Ok(Self::Jsonl),
            Some("parquet") => return Ok(Self::Parquet),
            Some(other) => return Err(bad(other, Flaw::UnknownFormat)),
            None => {}
        }
        let first = paths.first().map_or(Self::Documents, |path| Self::of_file(path));
        match paths.iter().find(|path| Self::of_file(path) != first) {
            Some(other) => {
                // Of what is not there the kind does not matter. A pattern is looked at later.
                let is_absent = |path: &&String| {
                    let found = std::fs::metadata(path.as_str());
                    found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
                        && !path.contains(['*', '?', '[', '{'])
                };
                Err(match paths.iter().find(is_absent) {
                    Some(absent) => bad(absent, Flaw::Unreadable(io::ErrorKind::NotFound.into())),
                    None => bad(other, Flaw::OtherKind),
                })
            }
            None => Ok(first),
        }
    }

    /// Its name, as [`Self::of`] takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Documents => "documents",
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }

    /// That of one file: by its ending, and by how it begins where that says more.
    pub(crate) fn of_file(path: &str) -> Self {
        let ending =
            plain_name(path).extension().map(|ending| ending.to_string_lossy().to_lowercase());
        match ending.as_deref() {
            Some("parquet" | "pq") => Self::Parquet,
            // Whatever it is called.
            _ if is_parquet(Path::new(path)) => Self::Parquet,
            Some("csv" | "tsv") => Self::Csv,
            Some("jsonl" | "ndjson") => Self::Jsonl,
            // A list of objects is a table; anything else is somebody's configuration, and a
            // document.
            Some("json") if is_list(Path::new(path)) => Self::Jsonl,
            _ => Self::Documents,
        }
    }

    /// By name, else by the endings of the paths, else by what lies there; none if nothing does.
    /// Blocks.
    ///
    /// # Errors
    /// As [`Self::of`], and if every file is a table and they are of several kinds, or a path
    /// cannot be used.
    pub fn decide(
        name: Option<&str>,
        paths: &[String],
        rules: &WalkRules,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, SourceError> {
        let by_name = Self::of(name, paths)?;
        if name.is_some() || by_name != Self::Documents {
            return Ok(Some(by_name));
        }
        Self::of_folders(paths, rules, stop)
    }

    /// That of folders and wildcards: a table if every file is one, and of one kind; else they are
    /// documents.
    fn of_folders(
        paths: &[String],
        rules: &WalkRules,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, SourceError> {
        let mut first: Option<(PathBuf, Self)> = None;
        let mut other: Option<PathBuf> = None;
        for given in paths {
            let root = Path::new(given);
            let bad = |flaw: Flaw| SourceError { given: given.clone(), flaw };
            let wildcards =
                glob(given).map_err(|error| bad(error.into()))?.filter(|_| !root.exists());
            let (base, pattern) = wildcards
                .map_or_else(|| (root.to_owned(), None), |(base, pattern)| (base, Some(pattern)));
            for entry in builder(&base, rules).build().flatten() {
                if stop.is_cancelled() {
                    return Err(bad(Flaw::Stopped));
                }
                let path = entry.path();
                let is_wanted = pattern.as_ref().is_none_or(|pattern| pattern.is_match(path));
                let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
                if !is_file || !is_wanted || is_left_out(path, rules) || is_of_writer(path) {
                    continue;
                }
                let kind = Self::of_file(&path.to_string_lossy());
                match &first {
                    // One document makes them all documents.
                    _ if kind == Self::Documents => return Ok(Some(kind)),
                    None => first = Some((path.to_owned(), kind)),
                    Some((_, of_first)) if *of_first != kind => {
                        other = other.or_else(|| Some(path.to_owned()));
                    }
                    Some(_) => {}
                }
            }
        }
        match (first, other) {
            (Some(_), Some(other)) => {
                Err(SourceError { given: other.display().to_string(), flaw: Flaw::OtherKind })
            }
            (first, _) => Ok(first.map(|(_, kind)| kind)),
        }
    }
}

/// Whether a file begins as Parquet does.
fn is_parquet(path: &Path) -> bool {
    let mut magic = [0; 4];
    let is_file = path.metadata().is_ok_and(|meta| meta.is_file());
    is_file
        && std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"PAR1"
}

/// A path without the ending that says how it is compressed, in whatever case.
fn plain_name(path: &str) -> &Path {
    let lower = path.to_ascii_lowercase();
    let compressed = [".gz", ".zst"].into_iter().find(|ending| lower.ends_with(ending));
    Path::new(&path[..path.len() - compressed.map_or(0, str::len)])
}

/// Whether a file begins as a list of objects does, or as several objects, one a line.
fn is_list(path: &Path) -> bool {
    // A pipe would wait for whoever writes to it.
    if !path.metadata().is_ok_and(|meta| meta.is_file()) {
        return false;
    }
    let mut beginning = Vec::new();
    let opened = open(path, &CancellationToken::new())
        .and_then(|file| file.take(LOOKED_BYTES).read_to_end(&mut beginning));
    let text = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&beginning).trim_ascii_start();
    let is_lines = || {
        let mut lines = text
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty());
        lines.next().is_some_and(|line| line.ends_with(b"}"))
            && lines.next().is_some_and(|line| line.starts_with(b"{"))
    };
    opened.is_ok()
        && match text {
            [b'[', rest @ ..] => rest.trim_ascii_start().starts_with(b"{"),
            [b'{', ..] => is_lines(),
            _ => false,
        }
}

/// Bytes that tell a list from a document.
const LOOKED_BYTES: u64 = 64 << 10;
