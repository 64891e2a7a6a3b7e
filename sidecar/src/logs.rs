//! The files in which modules' output is kept: init writes them, `brahman logs` reads them, also
//! when no mesh runs.
//!
//! ```text
//! logs/<label>.log                                   what is being written
//! logs/<label>.log.1 …                               what was before, the highest number first
//!
//! {"brahman_log":1}                                  the first line of each, with the format
//! {"at_ms":…,"pid":…,"stream":"stderr","text":"…"}   then one for each line of output
//! ```
//!
//! Invariants: a file takes [`LOG_BYTES_MAX`] and a label [`LOGS_KEPT`] files more than that; a
//! line that was cut off (a full disk, a kill) damages itself alone; a file of a newer format is
//! neither read nor written to. Nothing here waits for anything but the disk: whoever must not wait
//! for that has a thread between.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use brahman_card::interface::init::Line;
use serde::Deserialize;
use thiserror::Error;

use crate::place;

/// Bytes after which a file is put aside: a day of a module that has something to say.
pub const LOG_BYTES_MAX: u64 = 2 << 20;
/// Files kept behind the one that is written: with it ten MiB for each label.
pub const LOGS_KEPT: u32 = 4;
/// The name of the folder below the state.
pub const FOLDER: &str = "logs";
/// Under which label init's own lines are kept, which no Card may have.
pub const INIT_LABEL: &str = "init";
/// What stands for systemd's journal where a folder of logs would be named.
pub const JOURNAL: &str = "journal";
/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// How a file's name goes on behind its label.
const SUFFIX: &str = ".log";
/// Longest line that is read: init cuts at 8 KiB, which JSON's escapes make six times as long at
/// most.
const LINE_BYTES_MAX: u64 = 256 * 1024;

/// Why logs cannot be read.
#[derive(Debug, Error)]
pub enum LogError {
    /// The disk does not give them.
    #[error("the logs in {} cannot be read", .path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A later version of this program has written one.
    #[error("{} is of log format {format}, expected at most {max}: a newer brahman has written it", .path.display(), max = FORMAT)]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
}

/// The first line of a file.
#[derive(Deserialize)]
struct FileHead {
    brahman_log: u32,
}

fn head() -> String {
    format!("{{\"brahman_log\":{FORMAT}}}\n")
}

fn file_of(folder: &Path, label: &str, number: u32) -> PathBuf {
    folder.join(if number == 0 {
        format!("{label}{SUFFIX}")
    } else {
        format!("{label}{SUFFIX}.{number}")
    })
}

/// The label and the number in a file's name, if it is one of ours.
fn parse_name(name: &str) -> Option<(&str, u32)> {
    if let Some(label) = name.strip_suffix(SUFFIX) {
        return Some((label, 0)).filter(|(label, _)| !label.is_empty());
    }
    let (stem, number) = name.rsplit_once('.')?;
    let label = stem.strip_suffix(SUFFIX).filter(|label| !label.is_empty())?;
    number.parse().ok().filter(|number| *number > 0).map(|number| (label, number))
}

/// Writes lines to the files of their labels.
#[derive(Debug)]
pub struct LogWriter {
    folder: PathBuf,
    files: HashMap<String, OpenLog>,
    bytes_max: u64,
}

#[derive(Debug)]
struct OpenLog {
    file: File,
    bytes: u64,
}

impl LogWriter {
    /// Into this folder, which is made once there is a line.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), files: HashMap::new(), bytes_max: LOG_BYTES_MAX }
    }

    /// Writes one line. After a failure it may be there in part, which nothing is the worse for.
    ///
    /// # Errors
    /// As the file system gives them: the line is given up, and the next is tried anew.
    pub fn write(&mut self, label: &str, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        // Taken out: after a failure it is opened anew, which mends what was cut off.
        let mut open = match self.files.remove(label).filter(OpenLog::is_there) {
            Some(open) => open,
            None => self.open(label)?,
        };
        if open.bytes >= self.bytes_max {
            self.rotate(label)?;
            open = self.open(label)?;
        }
        open.put(&text)?;
        self.files.insert(label.to_owned(), open);
        Ok(())
    }

    fn open(&self, label: &str) -> io::Result<OpenLog> {
        let path = file_of(&self.folder, label, 0);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                place::private_dir(&self.folder)?;
                options.open(&path)?
            }
            opened => opened?,
        };
        if format_of(&file)?.is_some_and(|format| format > FORMAT) {
            self.rotate(label)?;
            return OpenLog::begin(options.open(&path)?);
        }
        OpenLog::begin(file)
    }

    /// Puts what was written aside. The oldest file is replaced with that.
    fn rotate(&self, label: &str) -> io::Result<()> {
        for number in (0..LOGS_KEPT).rev() {
            match fs::rename(
                file_of(&self.folder, label, number),
                file_of(&self.folder, label, number + 1),
            ) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl OpenLog {
    /// Goes on behind what is in a file.
    fn begin(mut file: File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let mut open = Self { bytes, file: file.try_clone()? };
        if bytes == 0 {
            open.put(head().as_bytes())?;
            return Ok(open);
        }
        let mut last = [0];
        file.seek(SeekFrom::Start(bytes - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            // What was cut off ends here.
            open.put(b"\n")?;
        }
        Ok(open)
    }

    fn put(&mut self, text: &[u8]) -> io::Result<()> {
        self.file.write_all(text)?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Whether the file still has a name: somebody may have cleared the folder.
    fn is_there(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| meta.nlink() > 0)
    }
}

/// The format that a file's first line says; none if it says nothing.
fn format_of(file: &File) -> io::Result<Option<u32>> {
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    let mut line = Vec::new();
    BufReader::new(file.take(256)).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice::<FileHead>(&line).ok().map(|head| head.brahman_log))
}

/// What was read of logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReading {
    /// In the order of time, and each with its label.
    pub lines: Vec<Line>,
    /// Lines that were cut off, and could not be read for that.
    pub torn: u64,
}

/// Which lines are asked for.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Of one label only.
    pub label: Option<String>,
    /// From this time on, as Unix time in milliseconds.
    pub since_ms: u64,
    /// No more than so many, the newest.
    pub lines: Option<usize>,
    /// Those that have this in them.
    pub contains: Option<String>,
}

/// The labels of which a folder has logs. A folder that is not there has none.
///
/// # Errors
/// [`LogError::Unreadable`].
pub fn labels(folder: &Path) -> Result<BTreeSet<String>, LogError> {
    let unreadable = |source| LogError::Unreadable { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut labels = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        labels.extend(name.to_str().and_then(parse_name).map(|(label, _)| label.to_owned()));
    }
    Ok(labels)
}

/// Reads what a folder of logs has, while it is written or not.
///
/// # Errors
/// [`LogError`].
pub fn read(folder: &Path, query: &LogQuery) -> Result<LogReading, LogError> {
    let labels = match &query.label {
        Some(label) => BTreeSet::from([label.clone()]),
        None => labels(folder)?,
    };
    let mut all = LogReading::default();
    for label in &labels {
        let of_one = read_label(folder, label, query)?;
        all.torn += of_one.torn;
        all.lines.extend(of_one.lines);
    }
    // Lines of one millisecond and label stay in their order.
    all.lines.sort_by_key(|line| line.at_ms);
    if let Some(most) = query.lines {
        all.lines.drain(..all.lines.len().saturating_sub(most));
    }
    Ok(all)
}

fn read_label(folder: &Path, label: &str, query: &LogQuery) -> Result<LogReading, LogError> {
    let (mut files, mut known) = (Vec::new(), BTreeSet::new());
    // From the newest: what is put aside meanwhile is met again under its next name, and nothing is
    // missed.
    for number in 0..=LOGS_KEPT {
        let path = file_of(folder, label, number);
        let unreadable = |source| LogError::Unreadable { path: path.clone(), source };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(unreadable)?,
        };
        let meta = file.metadata().map_err(unreadable)?;
        if meta.is_file() && known.insert((meta.dev(), meta.ino())) {
            files.push((path, file));
        }
    }
    let (mut lines, mut torn) = (VecDeque::new(), 0);
    for (path, file) in files.into_iter().rev() {
        let unreadable = |source| LogError::Unreadable { path: path.clone(), source };
        let mut reader = BufReader::new(file);
        let (mut text, mut is_first) = (Vec::new(), true);
        loop {
            text.clear();
            if reader
                .by_ref()
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut text)
                .map_err(unreadable)?
                == 0
            {
                break;
            }
            if std::mem::take(&mut is_first)
                && let Ok(head) = serde_json::from_slice::<FileHead>(&text)
            {
                if head.brahman_log > FORMAT {
                    return Err(LogError::Newer { path, format: head.brahman_log });
                }
                continue;
            }
            let Ok(mut line) = serde_json::from_slice::<Line>(&text) else {
                torn += 1;
                continue;
            };
            if line.at_ms < query.since_ms
                || query.contains.as_ref().is_some_and(|part| !line.text.contains(part.as_str()))
            {
                continue;
            }
            line.label = Some(label.to_owned());
            if query.lines.is_some_and(|most| lines.len() >= most) {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    }
    Ok(LogReading { lines: lines.into(), torn })
}

/// Whether standard error is systemd's journal: `$JOURNAL_STREAM` names its device and inode, and
/// is inherited by what is started from such a process with another one.
#[must_use]
pub fn is_journal() -> bool {
    let Ok(said) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|found| said == format!("{}:{}", found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at_ms: u64, text: &str) -> Line {
        Line { at_ms, pid: 7, stream: "stderr".into(), text: text.into(), label: None }
    }

    fn texts(folder: &Path, query: &LogQuery) -> Vec<String> {
        read(folder, query).expect("read").lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn what_was_written_is_read_by_label_and_time_after_the_writer_has_gone() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let folder = state.path().join("logs");
        assert!(texts(&folder, &LogQuery::default()).is_empty(), "no folder has no lines");
        for at in 1..=3 {
            let mut writer = LogWriter::new(&folder);
            writer.write("embed", &line(at * 10, &format!("embed {at}"))).expect("written");
            writer.write("index", &line(at * 10 + 5, "it is \"index\"\u{1b}\n")).expect("written");
        }
        let of = |label: &str| LogQuery { label: Some(label.into()), ..LogQuery::default() };
        assert_eq!(texts(&folder, &of("embed")), ["embed 1", "embed 2", "embed 3"]);
        assert_eq!(
            texts(&folder, &LogQuery { lines: Some(2), ..of("embed") }),
            ["embed 2", "embed 3"]
        );
        assert_eq!(texts(&folder, &LogQuery { since_ms: 25, ..LogQuery::default() }).len(), 3);
        assert_eq!(
            texts(&folder, &LogQuery { contains: Some("\"index\"".into()), ..LogQuery::default() })
                .len(),
            3
        );
        let all = read(&folder, &LogQuery::default()).expect("read").lines;
        assert!(
            all.windows(2).all(|two| two[0].at_ms <= two[1].at_ms)
                && all[0].label.as_deref() == Some("embed"),
            "{all:?}"
        );
        let names: Vec<_> = labels(&folder).expect("listed").into_iter().collect();
        assert_eq!(names, ["embed", "index"]);
    }

    #[test]
    fn files_are_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut writer = LogWriter { bytes_max: 200, ..LogWriter::new(folder.path()) };
        for at in 0..100 {
            writer.write("x", &line(at, &format!("line {at}"))).expect("written");
        }
        let names = fs::read_dir(folder.path()).expect("listed").count();
        assert_eq!(names, 1 + LOGS_KEPT as usize);
        let kept = texts(folder.path(), &LogQuery::default());
        assert!(kept.len() < 100 && kept.last().is_some_and(|last| last == "line 99"), "{kept:?}");
        let first: usize = kept[0].trim_start_matches("line ").parse().expect("a number");
        assert_eq!(kept.len(), 100 - first, "without a gap");
    }

    #[test]
    fn a_line_that_was_cut_off_damages_itself_alone() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut writer = LogWriter::new(folder.path());
        writer.write("x", &line(1, "one")).expect("written");
        let path = file_of(folder.path(), "x", 0);
        let whole = fs::read(&path).expect("there");
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).expect("cut");
            LogWriter::new(folder.path()).write("x", &line(2, "two")).expect("written");
            let reading = read(folder.path(), &LogQuery::default()).expect("read");
            assert_eq!(reading.lines.last().map(|line| line.text.as_str()), Some("two"), "{cut}");
            assert!(reading.torn <= 1, "{cut}");
        }
    }

    #[test]
    fn a_folder_that_is_cleared_is_made_again_and_a_newer_format_is_left_alone() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let folder = state.path().join("logs");
        let mut writer = LogWriter::new(&folder);
        writer.write("x", &line(1, "one")).expect("written");
        fs::remove_dir_all(&folder).expect("cleared");
        writer.write("x", &line(2, "two")).expect("written");
        assert_eq!(texts(&folder, &LogQuery::default()), ["two"]);
        let path = file_of(&folder, "x", 0);
        fs::write(&path, "{\"brahman_log\":2}\nwho knows\n").expect("written");
        let refused = read(&folder, &LogQuery::default()).expect_err("it is newer").to_string();
        assert!(refused.contains("x.log") && refused.contains("format 2"), "{refused}");
        LogWriter::new(&folder).write("x", &line(3, "three")).expect("written");
        assert!(fs::read_to_string(file_of(&folder, "x", 1)).expect("aside").contains("who knows"));
    }

    #[test]
    fn a_disk_that_is_full_costs_the_line() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::os::unix::fs::symlink("/dev/full", file_of(folder.path(), "x", 0)).expect("linked");
        let mut writer = LogWriter::new(folder.path());
        assert!(writer.write("x", &line(1, "one")).is_err());
        fs::remove_file(file_of(folder.path(), "x", 0)).expect("removed");
        writer.write("x", &line(2, "two")).expect("written again");
    }

    #[test]
    fn names_are_told_apart() {
        assert_eq!(parse_name("x.log"), Some(("x", 0)));
        assert_eq!(parse_name("x.log.3"), Some(("x", 3)));
        assert_eq!(parse_name("x.log.1.log"), Some(("x.log.1", 0)));
        for other in [".log", "x.log.0", "x.txt", "x.log.a", ".log.1"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
