//! What to read: paths to a list of files and the way they are to be read.

mod format;
mod hidden;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use brahman_storage::BUCKET_MARKER;
use flate2::read::MultiGzDecoder;
use globset::{GlobBuilder, GlobMatcher};
use ignore::WalkBuilder;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use format::Format;
pub use hidden::{HiddenEntries, HidingRule};

/// Most files one call reads: a monorepo, not a whole disk by mistake.
const FILES_MAX: usize = 1_000_000;
/// The file that init locks in its state, and how its text begins.
const STATE_LOCK: &str = ".lock";
const STATE_MARK: &[u8; 14] = b"brahman-state ";
/// init's socket, beside the mesh's.
const INIT_SOCKET: &str = "init.sock";

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
    #[error(
        "is of another kind than the first path: ingest each kind into its own dataset, or use --format"
    )]
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
    #[error(
        "is a symbolic link, which is not followed: name what it leads to, if it is to be read"
    )]
    Link,
    /// What is to be watched is not there: it would never begin.
    #[error("does not exist: create the folder first, then watch it")]
    Absent,
    /// What is watched is a folder: a file is replaced by editors, and its watch would go with it.
    #[error("is not a folder: watch the folder that the file is in")]
    NoFolder,
    /// What is ingested from it would be found there as new files, for ever.
    #[error(
        "is within a bucket or the state of a mesh, where every ingest makes files: watch a folder of yours"
    )]
    OfMesh,
    /// More than one call reads.
    #[error("has more than {FILES_MAX} files: give folders further down")]
    TooMany,
    /// Nobody waits for it any more.
    #[error("the read was stopped")]
    Stopped,
}

/// Whether a name is one that writers of tables keep for themselves, such as `_SUCCESS`.
pub(crate) fn is_of_writer(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"_"))
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

/// What reads until it is told to stop: however long a file is, and however much it unpacks to, an
/// end is heard of at once.
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

/// Opens a file for reading from its beginning; gzip and zstd are undone, told by their first
/// bytes. Once `stop` is cancelled reading fails.
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
    /// Files that a .gitignore names, and hidden ones, are found as well; what version control
    /// keeps for itself is not.
    pub no_ignore: bool,
    /// The ids that files have already, by their paths: they keep them, whatever else is read with
    /// them.
    pub known: HashMap<PathBuf, String>,
    /// Of what is read as tables, files of another kind are left out and named: the kind was found,
    /// not said, and they came later.
    pub of_kind: bool,
}

/// [`walk`] by the usual rules.
///
/// # Errors
/// As [`walk`].
pub fn files(paths: &[String], stop: &CancellationToken) -> Result<Walk, SourceError> {
    walk(paths, &WalkRules::default(), stop)
}

/// Every file below the paths, in order of name; a path may have wildcards (`**` for any depth).
/// Hidden files, what a .gitignore names, what editors and downloads have not finished, and folders
/// that are buckets, states or run folders of a mesh are passed over, and told. Links are not
/// followed: they and what is no file are given apart.
///
/// # Errors
/// If a path is relative, absent, or there are too many files, or `stop` is cancelled meanwhile.
pub fn walk(
    paths: &[String],
    rules: &WalkRules,
    stop: &CancellationToken,
) -> Result<Walk, SourceError> {
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
        if let Some((base, pattern)) =
            glob(given).map_err(|e| bad(e.into()))?.filter(|_| !root.exists())
        {
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
        let real = folders
            .entry(folder.to_owned())
            .or_insert_with(|| folder.canonicalize().unwrap_or_else(|_| folder.to_owned()));
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
    let no_ignore = rules.no_ignore;
    if no_ignore {
        walk.standard_filters(false);
    }
    walk.filter_entry(move |entry| {
        let is_folder = entry.depth() > 0 && entry.file_type().is_some_and(|kind| kind.is_dir());
        let is_hidden = no_ignore && is_version_control(entry.path());
        let is_left_out = is_hidden || is_folder && is_of_mesh(entry.path());
        !is_left_out
    });
    walk
}

/// Whether a folder is a bucket of a mesh: what lies there was ingested, and a dataset that read it
/// would grow by itself for ever.
pub(crate) fn is_bucket(folder: &Path) -> bool {
    folder.join(BUCKET_MARKER).is_file()
}

/// Whether a folder is the state of a mesh: every ingest makes files there, and those of its logs
/// are written to all the time. Its lock says so, whether the mesh runs or not.
pub(crate) fn is_state(folder: &Path) -> bool {
    let lock = folder.join(STATE_LOCK);
    // A pipe of that name would keep whoever opens it waiting.
    if !lock.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return false;
    }
    let mut begins = [0; STATE_MARK.len()];
    std::fs::File::open(lock).and_then(|mut file| file.read_exact(&mut begins)).is_ok()
        && begins == *STATE_MARK
}

/// Whether a folder is where a mesh has its sockets, and what goes with the machine's next start.
fn is_run_folder(folder: &Path) -> bool {
    let init = folder.join(INIT_SOCKET);
    init.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket())
}

/// Whether a mesh writes what lies in a folder.
fn is_of_mesh(folder: &Path) -> bool {
    is_bucket(folder) || is_state(folder) || is_run_folder(folder)
}

/// Whether a name is passed over by the rules.
fn is_left_out(path: &Path, rules: &WalkRules) -> bool {
    if rules.no_ignore { is_unfinished(path) } else { is_passed_over(path) }
}

/// Adds the files below a folder that are wanted, what could not be read, what is not read, and
/// what is hidden.
fn below(
    root: &Path,
    rules: &WalkRules,
    pattern: Option<&GlobMatcher>,
    stop: &CancellationToken,
    found: &mut Walk,
) -> Result<(), Flaw> {
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
            found.skipped.push((
                entry.into_path(),
                if kind.is_symlink() { Flaw::Link } else { Flaw::Special },
            ));
        }
        if found.files.len() + found.skipped.len() > FILES_MAX {
            return Err(Flaw::TooMany);
        }
    }
    let there = found.files[files..]
        .iter()
        .map(|file| file.path.as_path())
        .chain(folders.iter().map(PathBuf::as_path));
    let given: HashSet<&Path> =
        there.chain(found.skipped[skipped..].iter().map(|(path, _)| path.as_path())).collect();
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
    path.file_name()
        .is_some_and(|name| [".git", ".hg", ".svn", ".jj"].iter().any(|own| name == *own))
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
    name == "4913"
        || [".swp", ".swx", "~", ".part", ".crdownload", ".tmp"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// The folder above the first wildcard of a path, and the whole as a pattern; none if there is no
/// wildcard.
fn glob(path: &str) -> Result<Option<(PathBuf, GlobMatcher)>, globset::Error> {
    if !path.contains(['*', '?', '[', '{']) {
        return Ok(None);
    }
    let plain = path.split('/').take_while(|part| !part.contains(['*', '?', '[', '{']));
    let base: PathBuf = std::iter::once("/").chain(plain).collect();
    Ok(Some((base, GlobBuilder::new(path).literal_separator(true).build()?.compile_matcher())))
}

/// Gives each file an id of its own. One that has had an id keeps it; of the others, where two
/// folders have files of one name, the first is called by that, and the absolute path tells the
/// next one from it.
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
mod tests;
