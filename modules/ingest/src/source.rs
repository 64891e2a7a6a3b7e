//! What to read: paths to a list of files and the way they are to be read.

mod hidden;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use globset::{GlobBuilder, GlobMatcher};
use ignore::WalkBuilder;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use hidden::{HiddenEntries, HidingRule};

/// Most files one call reads: a monorepo, not a whole disk by mistake.
const FILES_MAX: usize = 1_000_000;

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

/// A file, and the name that its row or rows go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Absolute path of the file.
    pub path: PathBuf,
    /// Path below the folder that was given, or the file's own name.
    pub id: String,
}

/// A path that cannot be used, or the name of a format that is none.
#[derive(Debug, Error)]
#[error("{given}")]
pub struct SourceError {
    /// The path as it was given.
    pub given: String,
    /// What is wrong with it.
    #[source]
    pub flaw: Flaw,
}

/// What is wrong with a path, or with the name of a format, and what was expected.
#[derive(Debug, Error)]
pub enum Flaw {
    /// There is no such format.
    #[error("is not a format: expected documents, csv, jsonl or parquet")]
    UnknownFormat,
    /// One dataset has one kind of source.
    #[error("is of another kind than the first path: ingest each kind into its own dataset, or use --format")]
    OtherKind,
    /// Nobody knows below which folder it lies.
    #[error("is relative, expected an absolute path")]
    Relative,
    /// Its wildcards make no sense.
    #[error(transparent)]
    Pattern(#[from] globset::Error),
    /// Its wildcards stand for nothing.
    #[error("matches no file below {}", .folder.display())]
    NoMatch {
        /// Where files were looked for.
        folder: PathBuf,
    },
    /// It is not there, or cannot be looked at.
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// A device, a socket or a pipe.
    #[error("is neither a file nor a folder")]
    Special,
    /// A link below a folder: what it leads to may be anywhere, or be read twice.
    #[error("is a symbolic link, which is not followed: name what it leads to, if it is to be read")]
    Link,
    /// What is to be watched is not there: it would never begin.
    #[error("does not exist: create the folder first, then watch it")]
    Absent,
    /// What is watched is a folder: a file is replaced by editors, and its watch would go with it.
    #[error("is not a folder: watch the folder that the file is in")]
    NoFolder,
    /// More than one call reads.
    #[error("has more than {FILES_MAX} files: give folders further down")]
    TooMany,
    /// Nobody waits for it any more.
    #[error("the read was stopped")]
    Stopped,
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
                    found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) && !path.contains(['*', '?', '[', '{'])
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
        let ending = plain_name(path).extension().map(|ending| ending.to_string_lossy().to_lowercase());
        match ending.as_deref() {
            Some("parquet" | "pq") => Self::Parquet,
            // Whatever it is called.
            _ if is_parquet(Path::new(path)) => Self::Parquet,
            Some("csv" | "tsv") => Self::Csv,
            Some("jsonl" | "ndjson") => Self::Jsonl,
            // A list of objects is a table; anything else is somebody's configuration, and a document.
            Some("json") if is_list(Path::new(path)) => Self::Jsonl,
            _ => Self::Documents,
        }
    }

    /// By name, else by the endings of the paths, else by what lies there; none if nothing does. Blocks.
    ///
    /// # Errors
    /// As [`Self::of`], and if every file is a table and they are of several kinds, or a path cannot be used.
    pub fn decide(name: Option<&str>, paths: &[String], rules: &WalkRules, stop: &CancellationToken) -> Result<Option<Self>, SourceError> {
        let by_name = Self::of(name, paths)?;
        if name.is_some() || by_name != Self::Documents {
            return Ok(Some(by_name));
        }
        Self::of_folders(paths, rules, stop)
    }

    /// That of folders and wildcards: a table if every file is one, and of one kind; else they are documents.
    fn of_folders(paths: &[String], rules: &WalkRules, stop: &CancellationToken) -> Result<Option<Self>, SourceError> {
        let mut first: Option<(PathBuf, Self)> = None;
        let mut other: Option<PathBuf> = None;
        for given in paths {
            let root = Path::new(given);
            let bad = |flaw: Flaw| SourceError { given: given.clone(), flaw };
            let wildcards = glob(given).map_err(|error| bad(error.into()))?.filter(|_| !root.exists());
            let (base, pattern) = wildcards.map_or_else(|| (root.to_owned(), None), |(base, pattern)| (base, Some(pattern)));
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
                    Some((_, of_first)) if *of_first != kind => other = other.or_else(|| Some(path.to_owned())),
                    Some(_) => {}
                }
            }
        }
        match (first, other) {
            (Some(_), Some(other)) => Err(SourceError { given: other.display().to_string(), flaw: Flaw::OtherKind }),
            (first, _) => Ok(first.map(|(_, kind)| kind)),
        }
    }
}

/// Whether a name is one that writers of tables keep for themselves, such as `_SUCCESS`.
pub(crate) fn is_of_writer(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"_"))
}

/// Whether a file begins as Parquet does.
fn is_parquet(path: &Path) -> bool {
    let mut magic = [0; 4];
    let is_file = path.metadata().is_ok_and(|meta| meta.is_file());
    is_file && std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"PAR1"
}

/// A path as text: bytes that are no UTF-8 as `\xE9`, so that two paths are two texts.
pub(crate) fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02X}");
        }
    }
    text
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
    let opened = open(path, &CancellationToken::new()).and_then(|file| file.take(LOOKED_BYTES).read_to_end(&mut beginning));
    let text = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&beginning).trim_ascii_start();
    let is_lines = || {
        let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        lines.next().is_some_and(|line| line.ends_with(b"}")) && lines.next().is_some_and(|line| line.starts_with(b"{"))
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

/// What reads until it is told to stop: however long a file is, and however much it unpacks to, an end is heard of at once.
struct Stoppable<R> {
    inner: R,
    stop: CancellationToken,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Not `Interrupted`, which readers take for a reason to try again.
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the read was stopped"));
        }
        self.inner.read(buffer)
    }
}

/// Opens a file for reading from its beginning; gzip and zstd are undone, told by their first bytes. Once `stop` is cancelled
/// reading fails.
///
/// # Errors
/// As the file system gives them.
pub fn open(path: &Path, stop: &CancellationToken) -> io::Result<Box<dyn Read + Send>> {
    let mut file = std::fs::File::open(path)?;
    let mut magic = [0; 4];
    let known = file.read(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    let inner: Box<dyn Read + Send> = match &magic[..known] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(BufReader::new(file))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    };
    Ok(Box::new(Stoppable { inner, stop: stop.clone() }))
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walk {
    /// In order of name.
    pub files: Vec<File>,
    /// Folders and entries that could not be read: what lies there is missing.
    pub unread: Vec<ignore::Error>,
    /// Links, pipes, sockets and devices, which are not read, and why.
    pub skipped: Vec<(PathBuf, Flaw)>,
    /// What rules have kept from being found.
    pub hidden: HiddenEntries,
    /// Files that were given more than once, by two paths or by one twice: they are read once.
    pub twice: Vec<PathBuf>,
}

/// How folders are walked, and what files are called.
#[derive(Clone, Debug, Default)]
pub struct WalkRules {
    /// Files that a .gitignore names, and hidden ones, are found as well; what version control keeps for itself is not.
    pub no_ignore: bool,
    /// The ids that files have already, by their paths: they keep them, whatever else is read with them.
    pub known: HashMap<PathBuf, String>,
    /// Of what is read as tables, files of another kind are left out and named: the kind was found, not said, and they came later.
    pub of_kind: bool,
}

/// [`walk`] by the usual rules.
///
/// # Errors
/// As [`walk`].
pub fn files(paths: &[String], stop: &CancellationToken) -> Result<Walk, SourceError> {
    walk(paths, &WalkRules::default(), stop)
}

/// Every file below the paths, in order of name; a path may have wildcards (`**` for any depth). Hidden files, what a .gitignore names,
/// and what editors and downloads have not finished are passed over, and told. Links are not followed: they and what is no file are given
/// apart.
///
/// # Errors
/// If a path is relative, absent, or there are too many files, or `stop` is cancelled meanwhile.
pub fn walk(paths: &[String], rules: &WalkRules, stop: &CancellationToken) -> Result<Walk, SourceError> {
    let mut walk = Walk::default();
    // Where files are, whatever their folder was called when it was given.
    let (mut seen, mut begins) = (HashSet::new(), 0);
    for given in paths {
        only_new(&mut walk, &mut begins, &mut seen);
        let bad = |flaw: Flaw| SourceError { given: given.clone(), flaw };
        let root = Path::new(given);
        if !root.is_absolute() {
            return Err(bad(Flaw::Relative));
        }
        if let Some((base, pattern)) = glob(given).map_err(|e| bad(e.into()))?.filter(|_| !root.exists()) {
            let before = walk.files.len();
            below(&base, rules, Some(&pattern), stop, &mut walk).map_err(bad)?;
            if walk.files.len() == before && walk.unread.is_empty() {
                return Err(bad(Flaw::NoMatch { folder: base }));
            }
            continue;
        }
        let meta = root.metadata().map_err(|e| bad(e.into()))?;
        if meta.is_file() {
            let id = root.file_name().map(|name| path_text(Path::new(name))).unwrap_or_default();
            walk.files.push(File { path: root.to_owned(), id });
            continue;
        }
        if !meta.is_dir() {
            return Err(bad(Flaw::Special));
        }
        below(root, rules, None, stop, &mut walk).map_err(bad)?;
    }
    only_new(&mut walk, &mut begins, &mut seen);
    assign_ids(&mut walk.files, &rules.known);
    Ok(walk)
}

/// Takes out the files that were found before, of those from `begins` on.
fn only_new(walk: &mut Walk, begins: &mut usize, seen: &mut HashSet<PathBuf>) {
    let mut folders: HashMap<PathBuf, PathBuf> = HashMap::new();
    for file in walk.files.split_off(*begins) {
        let folder = file.path.parent().unwrap_or(Path::new("/"));
        // Links below a folder are not followed, so one answer is that of all files in it.
        let real = folders.entry(folder.to_owned()).or_insert_with(|| folder.canonicalize().unwrap_or_else(|_| folder.to_owned()));
        if seen.insert(real.join(file.path.file_name().unwrap_or_default())) {
            walk.files.push(file);
        } else {
            walk.twice.push(file.path);
        }
    }
    *begins = walk.files.len();
}

/// How a folder is walked.
fn builder(root: &Path, rules: &WalkRules) -> WalkBuilder {
    let mut walk = WalkBuilder::new(root);
    walk.require_git(false).follow_links(false).sort_by_file_path(Path::cmp);
    if rules.no_ignore {
        walk.standard_filters(false).filter_entry(|entry| !is_version_control(entry.path()));
    }
    walk
}

/// Whether a name is passed over by the rules.
fn is_left_out(path: &Path, rules: &WalkRules) -> bool {
    if rules.no_ignore { is_unfinished(path) } else { is_passed_over(path) }
}

/// Adds the files below a folder that are wanted, what could not be read, what is not read, and what is hidden.
fn below(root: &Path, rules: &WalkRules, pattern: Option<&GlobMatcher>, stop: &CancellationToken, found: &mut Walk) -> Result<(), Flaw> {
    let wanted = |path: &Path| pattern.is_none_or(|pattern| pattern.is_match(path));
    let (files, skipped) = (found.files.len(), found.skipped.len());
    let mut folders = Vec::new();
    for entry in builder(root, rules).build() {
        if stop.is_cancelled() {
            return Err(Flaw::Stopped);
        }
        let entry = match entry {
            Ok(entry) if entry.file_type().is_some_and(|kind| kind.is_dir()) => {
                folders.push(entry.into_path());
                continue;
            }
            Ok(entry) if !is_left_out(entry.path(), rules) && wanted(entry.path()) => entry,
            Ok(_) => continue,
            Err(error) => {
                found.unread.push(error);
                continue;
            }
        };
        let kind = entry.file_type();
        if kind.is_some_and(|kind| kind.is_file()) {
            let id = path_text(entry.path().strip_prefix(root).unwrap_or(entry.path()));
            found.files.push(File { path: entry.into_path(), id });
        } else if let Some(kind) = kind.filter(|kind| !kind.is_dir() && entry.depth() > 0) {
            found.skipped.push((entry.into_path(), if kind.is_symlink() { Flaw::Link } else { Flaw::Special }));
        }
        if found.files.len() + found.skipped.len() > FILES_MAX {
            return Err(Flaw::TooMany);
        }
    }
    let there = found.files[files..].iter().map(|file| file.path.as_path()).chain(folders.iter().map(PathBuf::as_path));
    let given: HashSet<&Path> = there.chain(found.skipped[skipped..].iter().map(|(path, _)| path.as_path())).collect();
    // Of a folder it is not known whether anything in it was meant.
    let is_wanted = |path: &Path, is_folder: bool| {
        let is_kept_out = rules.no_ignore && is_version_control(path);
        !is_kept_out && if is_folder { pattern.is_none() } else { wanted(path) }
    };
    found.hidden.look(&folders, &given, is_wanted, stop);
    Ok(())
}

/// Whether a folder is what version control keeps for itself: no rule needs to hide it.
fn is_version_control(path: &Path) -> bool {
    path.file_name().is_some_and(|name| [".git", ".hg", ".svn", ".jj"].iter().any(|own| name == *own))
}

/// Whether a name is one that editors and downloads use for what is not finished, or a hidden one.
#[must_use]
pub fn is_passed_over(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    name.starts_with('.') || is_unfinished(path)
}

/// Whether a name is one that editors and downloads use for what is not finished.
fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    // 4913 is the name that vim tries a folder with.
    name == "4913" || [".swp", ".swx", "~", ".part", ".crdownload", ".tmp"].iter().any(|end| name.ends_with(end))
}

/// The folder above the first wildcard of a path, and the whole as a pattern; none if there is no wildcard.
fn glob(path: &str) -> Result<Option<(PathBuf, GlobMatcher)>, globset::Error> {
    if !path.contains(['*', '?', '[', '{']) {
        return Ok(None);
    }
    let plain = path.split('/').take_while(|part| !part.contains(['*', '?', '[', '{']));
    let base: PathBuf = std::iter::once("/").chain(plain).collect();
    Ok(Some((base, GlobBuilder::new(path).literal_separator(true).build()?.compile_matcher())))
}

/// Gives each file an id of its own. One that has had an id keeps it; of the others, where two folders have files of one name, the first
/// is called by that, and the absolute path tells the next one from it.
fn assign_ids(files: &mut [File], known: &HashMap<PathBuf, String>) {
    let (mut taken, mut others) = (HashSet::new(), Vec::new());
    for (at, file) in files.iter_mut().enumerate() {
        match known.get(&file.path).filter(|id| !taken.contains(*id)) {
            Some(id) => {
                file.id.clone_from(id);
                taken.insert(id.clone());
            }
            None => others.push(at),
        }
    }
    for at in others {
        let file = &mut files[at];
        if !taken.insert(file.id.clone()) {
            let whole = path_text(&file.path);
            let mut others = (2..).map(|n| format!("{whole}#{n}"));
            file.id.clone_from(&whole);
            while !taken.insert(file.id.clone()) {
                file.id = others.next().unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(paths: &[String]) -> Result<Walk, SourceError> {
        files(paths, &CancellationToken::new())
    }

    #[test]
    fn what_is_told_to_stop_reads_no_further() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), vec![b'x'; 1 << 20]).expect("written");
        let stop = CancellationToken::new();
        let mut reader = open(file.path(), &stop).expect("opens");
        let mut some = [0; 10];
        reader.read_exact(&mut some).expect("read");
        stop.cancel();
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("a.md"), "a").expect("written");
        assert!(files(&[folder.path().display().to_string()], &stop).is_err());
    }

    #[test]
    fn a_folder_is_walked_in_order_without_hidden_and_ignored_files() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in [("b.md", "b"), ("a/x.rs", "x"), (".hidden", "h"), ("target/o", "o"), (".gitignore", "target/\n")] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let ids: Vec<String> = found(&[folder.path().display().to_string()]).expect("files").files.into_iter().map(|f| f.id).collect();
        assert_eq!(ids, ["a/x.rs", "b.md"]);
        assert!(found(&["relative".into()]).is_err());
    }

    #[test]
    fn links_and_pipes_are_not_read_and_are_named() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("a.md"), "a").expect("written");
        std::os::unix::fs::symlink(folder.path().join("a.md"), folder.path().join("b.md")).expect("linked");
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).expect("linked");
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("c.md")).expect("bound");
        let walk = found(&[folder.path().display().to_string()]).expect("walked");
        let names: Vec<String> = walk.skipped.iter().map(|(path, _)| path.file_name().unwrap_or_default().display().to_string()).collect();
        assert_eq!((walk.files.len(), names), (1, vec!["b.md".to_owned(), "c.md".to_owned(), "loop".to_owned()]));
        assert!(matches!(walk.skipped[0].1, Flaw::Link) && matches!(walk.skipped[1].1, Flaw::Special));
    }

    #[test]
    fn wildcards_name_files_at_any_depth_and_none_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for name in ["a.md", "b.txt", "x/c.md", "x/y/d.md", "od[d].md"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, name).expect("written");
        }
        let of = |pattern: &str| -> Vec<String> {
            let found = found(&[folder.path().join(pattern).display().to_string()]);
            found.map(|found| found.files.into_iter().map(|f| f.id).collect()).unwrap_or_default()
        };
        assert_eq!(of("**/*.md"), ["a.md", "od[d].md", "x/c.md", "x/y/d.md"]);
        assert_eq!(of("*.{md,txt}"), ["a.md", "b.txt", "od[d].md"]);
        assert_eq!(of("x/*.md"), ["c.md"]);
        assert_eq!(of("od[d].md"), ["od[d].md"], "a file of that very name");
        assert!(of("*.csv").is_empty() && of("[").is_empty());
    }

    #[test]
    fn a_file_keeps_its_id_when_folders_are_added_in_any_order() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for name in ["a/x.md", "a/only.md", "b/x.md"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).and_then(|()| std::fs::write(path, name)).expect("written");
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        let ids = |folders: &[&str], known: &HashMap<PathBuf, String>| {
            let paths: Vec<String> = folders.iter().map(|name| path(name)).collect();
            let rules = WalkRules { known: known.clone(), ..WalkRules::default() };
            let found = walk(&paths, &rules, &CancellationToken::new()).expect("walked");
            found.files.into_iter().map(|file| (file.path, file.id)).collect::<HashMap<_, _>>()
        };
        let one = ids(&["a"], &HashMap::new());
        assert_eq!(one[Path::new(&path("a/x.md"))], "x.md");
        for folders in [["a", "b"], ["b", "a"]] {
            let both = ids(&folders, &one);
            assert!(one.iter().all(|(path, id)| both[path] == *id), "{folders:?}");
            assert_eq!(both[Path::new(&path("b/x.md"))], path("b/x.md"));
        }
        // As earlier versions called them: both by their absolute paths.
        let old: HashMap<PathBuf, String> = ["a/x.md", "b/x.md"].map(|name| (path(name).into(), path(name))).into();
        assert_eq!(ids(&["a"], &old)[Path::new(&path("a/x.md"))], path("a/x.md"));
        // Without any that is known the first folder's are called as if they were alone.
        assert_eq!(ids(&["a", "b"], &HashMap::new())[Path::new(&path("a/x.md"))], "x.md");
    }

    #[test]
    fn a_folder_that_is_given_twice_is_read_once() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(folder.path().join("in")).expect("made");
        std::fs::write(folder.path().join("in/a.md"), "a").expect("written");
        let links = tempfile::tempdir().expect("a temporary directory");
        let link = links.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).expect("linked");
        let given = [folder.path().to_owned(), folder.path().join("in"), folder.path().join("in/a.md"), link];
        let walk = found(&given.map(|path| path.display().to_string())).expect("walked");
        assert_eq!((walk.files.len(), walk.files[0].id.as_str(), walk.twice.len()), (1, "in/a.md", 3));
    }

    #[test]
    fn names_that_are_no_text_are_told_from_one_another() {
        use std::os::unix::ffi::OsStringExt as _;
        let folder = tempfile::tempdir().expect("a temporary directory");
        for byte in [0xe8, 0xe9] {
            let name = std::ffi::OsString::from_vec([b"caf".as_slice(), &[byte], b".md"].concat());
            std::fs::write(folder.path().join(name), "x").expect("written");
        }
        let ids: Vec<String> = found(&[folder.path().display().to_string()]).expect("walked").files.into_iter().map(|f| f.id).collect();
        assert_eq!(ids, ["caf\\xE8.md", "caf\\xE9.md"]);
    }

    #[test]
    fn a_folder_of_tables_is_one_and_a_folder_with_a_document_is_documents() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        let decide = |paths: &[String]| Format::decide(None, paths, &WalkRules::default(), &CancellationToken::new());
        let of = || decide(&[folder.path().display().to_string()]);
        assert_eq!(of().ok(), Some(None), "nothing is of no kind");
        write("a.csv", "a\n1\n");
        write("b.TSV", "a\n2\n");
        write("_SUCCESS", "");
        assert_eq!(of().ok(), Some(Some(Format::Csv)));
        write("c.jsonl", "{}\n");
        assert!(of().is_err_and(|error| error.given.ends_with("c.jsonl")));
        let glob = [format!("{}/*.[ct]sv", folder.path().display())];
        assert_eq!(decide(&glob).ok(), Some(Some(Format::Csv)));
        write("README.md", "x");
        assert_eq!(of().ok(), Some(Some(Format::Documents)));
        write("part-00000", "PAR1");
        assert_eq!(Format::of(None, &[folder.path().join("part-00000").display().to_string()]).ok(), Some(Format::Parquet));
    }

    #[test]
    fn kinds_are_told_by_their_endings_and_not_mixed() {
        let of = |paths: &[&str]| Format::of(None, &paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["/a/x.csv", "/b.tsv"]).ok(), Some(Format::Csv));
        assert_eq!(of(&["/a/X.CSV", "/b.Csv.GZ"]).ok(), Some(Format::Csv));
        for (text, format) in [
            ("[\n {\"a\": 1}]", Format::Jsonl),
            ("{\"a\": 1}\n{\"a\": 2}\n", Format::Jsonl),
            ("{\n \"name\": \"x\"\n}\n", Format::Documents),
            ("[1, 2]", Format::Documents),
        ] {
            let file = tempfile::Builder::new().suffix(".json").tempfile().expect("a temporary file");
            std::fs::write(file.path(), text).expect("written");
            assert_eq!(of(&[&file.path().display().to_string()]).ok(), Some(format), "{text}");
        }
        assert_eq!(of(&["/a", "/b.md"]).ok(), Some(Format::Documents));
        assert!(of(&["/a", "/b.csv"]).is_err());
        assert!(Format::of(Some("xml"), &[]).is_err());
    }
}
