//! A wheel of Python's registry by its index: found by checksum, resumed where it was cut off. For
//! files of some hundred megabytes, which pip would begin anew each time.
//!
//! The index is asked as pip asks it (PEP 503 and 691). Invariant: a wheel has its checksum before
//! its path is given out. Whoever has a mirror, certificates or passwords in pip's configuration
//! alone has pip, which is asked where this finds nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use brahman_card::chain;
use brahman_storage::digest::sha256_file;
use thiserror::Error;
use ureq::Agent;

use crate::catalogue::Wheel;
use crate::fetch::{Listener, Progress};
use crate::hub::client::starts_at;

/// The index that is asked unless `PIP_INDEX_URL` names another.
const INDEX: &str = "https://pypi.org/simple";
/// How the listing is wanted: as JSON, else as a page.
const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, text/html;q=0.1";
/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a server may be silent.
const SILENT_AT_MOST: Duration = Duration::from_secs(60);
/// Longest listing: that of a package with hundreds of wheels has some 200 KB.
const LISTING_BYTES_MAX: u64 = 32 << 20;
/// Attempts that bring nothing before it is given up.
const ATTEMPTS_MAX: u32 = 5;
/// Connections over which one file may come: each has brought a part of it.
const CONNECTIONS_MAX: u32 = 200;
/// First pause between attempts; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes read at once: often enough for a bar that moves.
const PIECE_BYTES: usize = 256 * 1024;
/// Hexadecimal digits of a checksum that name a part.
const NAME_DIGITS: usize = 16;

/// Why there is no wheel.
#[derive(Debug, Error)]
pub enum WheelError {
    /// The index, or what it leads to, does not answer.
    #[error("{url}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Cause; in a box because it is large.
        #[source]
        source: Box<ureq::Error>,
    },
    /// It answers with an error.
    #[error("{url} answers with HTTP {status}, expected 200")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// It breaks off.
    #[error(
        "{url}: cut off after {bytes} of {expected} bytes; the next `models pull --gpu` goes on from there"
    )]
    Cut {
        /// What was asked for.
        url: String,
        /// Those that are here.
        bytes: u64,
        /// All of them.
        expected: u64,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It has no such file.
    #[error("{url} lists no {package} {version} with sha256 {sha256}")]
    Unlisted {
        /// The listing.
        url: String,
        /// What was looked for.
        package: &'static str,
        /// The one version that is taken.
        version: &'static str,
        /// The one checksum that is taken.
        sha256: &'static str,
    },
    /// It gives another file.
    #[error(
        "{url} gave {bytes} bytes with sha256 {found}, expected {expected}: it is not what was pinned and was not used"
    )]
    Content {
        /// What was asked for.
        url: String,
        /// How much came.
        bytes: u64,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// It cannot be written here.
    #[error("{}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl WheelError {
    /// Whether another way to the registry may do better.
    #[must_use]
    pub fn is_of_index(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Status { .. } | Self::Unlisted { .. })
    }

    /// Whether the same may go well in a while.
    fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Cut { .. } => true,
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

/// A listing, as PEP 691 has it.
#[derive(serde::Deserialize)]
struct Listing {
    files: Vec<ListedFile>,
}

#[derive(serde::Deserialize)]
struct ListedFile {
    url: String,
    hashes: BTreeMap<String, String>,
}

/// The index to ask, by pip's own variable.
#[must_use]
pub fn index() -> String {
    let named = std::env::var("PIP_INDEX_URL").ok().filter(|url| !url.trim().is_empty());
    named.unwrap_or_else(|| INDEX.to_owned())
}

/// Fetches a wheel into a folder, or goes on with what an earlier call has left there, and checks
/// it. Whoever takes it removes it.
///
/// # Errors
/// [`WheelError`].
pub fn fetch(
    wheel: &Wheel,
    index: &str,
    folder: &Path,
    tell: &mut Listener<'_>,
) -> Result<PathBuf, WheelError> {
    let part =
        folder.join(format!("{}.whl.part", &wheel.sha256[..NAME_DIGITS.min(wheel.sha256.len())]));
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT_WITHIN))
        .timeout_recv_response(Some(SILENT_AT_MOST))
        .timeout_per_read(Some(SILENT_AT_MOST))
        .user_agent(concat!("brahman/", env!("CARGO_PKG_VERSION")));
    let agent = Agent::new_with_config(config.build());
    let url = address(&agent, wheel, index)?;
    let what = format!("fetching {}=={}", wheel.package, wheel.version);
    tell(Progress::Begin { what: &what, bytes: Some(wheel.bytes) });
    let came = patiently(&agent, &url, &part, wheel.bytes, tell);
    tell(Progress::End);
    came?;
    let failed = |source| WheelError::File { path: part.clone(), source };
    let (found, bytes) = sha256_file(&part).map_err(failed)?;
    if found == wheel.sha256 {
        return Ok(part);
    }
    // What is left of it would be gone on with.
    fs::remove_file(&part).map_err(failed)?;
    Err(WheelError::Content { url: bare(&url), bytes, found, expected: wheel.sha256 })
}

/// Where the index says that the file with the pinned checksum lies.
fn address(agent: &Agent, wheel: &Wheel, index: &str) -> Result<String, WheelError> {
    let listing = format!("{}/{}/", index.trim_end_matches('/'), wheel.package);
    let url = || bare(&listing);
    let unreachable = |source| WheelError::Unreachable { url: url(), source: Box::new(source) };
    let mut response = agent.get(&listing).header("accept", ACCEPT).call().map_err(unreachable)?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(WheelError::Status { url: url(), status });
    }
    let mut text = String::new();
    let mut body = response.body_mut().as_reader().take(LISTING_BYTES_MAX);
    body.read_to_string(&mut text).map_err(|source| unreachable(ureq::Error::Io(source)))?;
    let link = listed(&text, wheel.sha256).ok_or_else(|| WheelError::Unlisted {
        url: url(),
        package: wheel.package,
        version: wheel.version,
        sha256: wheel.sha256,
    })?;
    Ok(joined(&listing, &link))
}

/// The link of the file that has a checksum, in a listing of either kind.
fn listed(listing: &str, sha256: &str) -> Option<String> {
    if let Ok(listing) = serde_json::from_str::<Listing>(listing) {
        let has_it = |file: &ListedFile| file.hashes.get("sha256").is_some_and(|it| it == sha256);
        return listing.files.into_iter().find(has_it).map(|file| file.url);
    }
    let (before, _) = listing.split_once(&format!("#sha256={sha256}"))?;
    let (_, link) = before.rsplit_once("href=\"")?;
    Some(link.replace("&amp;", "&"))
}

/// Where a link on a page leads.
fn joined(page: &str, link: &str) -> String {
    if link.contains("://") {
        return link.to_owned();
    }
    let host = page.find("://").map_or(0, |at| at + 3);
    let root = page[host..].find('/').map_or(page.len(), |at| host + at);
    if link.starts_with('/') {
        return format!("{}{link}", &page[..root]);
    }
    let folder = page[root..].rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." | "" => {}
            part => parts.push(part),
        }
    }
    format!("{}/{}", &page[..root], parts.join("/"))
}

/// An address without the password in it, for people.
fn bare(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

/// Brings a file whole, over as many connections as that takes.
fn patiently(
    agent: &Agent,
    url: &str,
    part: &Path,
    expected: u64,
    tell: &mut Listener<'_>,
) -> Result<(), WheelError> {
    let (mut failures, mut connections) = (0, 0);
    loop {
        let before = length(part);
        let error = match append(agent, url, part, expected, tell) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        failures = if length(part) > before { 1 } else { failures + 1 };
        connections += 1;
        if !error.is_transient() || failures >= ATTEMPTS_MAX || connections >= CONNECTIONS_MAX {
            return Err(error);
        }
        let pause = PAUSE * 2_u32.pow(failures - 1);
        let words = format!("{}: trying again in {:.1} s", chain(&error), pause.as_secs_f32());
        tell(Progress::Note(&words));
        std::thread::sleep(pause);
    }
}

/// Goes on with a file where it stands, over one connection.
fn append(
    agent: &Agent,
    url: &str,
    part: &Path,
    expected: u64,
    tell: &mut Listener<'_>,
) -> Result<(), WheelError> {
    let failed = |source| WheelError::File { path: part.to_owned(), source };
    let mut file = File::options().create(true).append(true).open(part).map_err(failed)?;
    let mut there = length(part);
    if there > expected {
        // It cannot be a part of it.
        file.set_len(0).map_err(failed)?;
        there = 0;
    }
    if there == expected {
        return Ok(());
    }
    let mut request = agent.get(url).header("accept-encoding", "identity");
    if there > 0 {
        request = request.header("range", format!("bytes={there}-"));
    }
    let mut response = request
        .call()
        .map_err(|source| WheelError::Unreachable { url: bare(url), source: Box::new(source) })?;
    match response.status().as_u16() {
        206 if starts_at(response.headers()) == Some(there) => {}
        // Ranges are not for everybody: it begins anew.
        200 => {
            file.set_len(0).map_err(failed)?;
            there = 0;
        }
        status @ (206 | 416) => {
            file.set_len(0).map_err(failed)?;
            let words = format!("another part than byte {there} and what follows (HTTP {status})");
            let source = io::Error::other(words);
            return Err(WheelError::Cut { url: bare(url), bytes: there, expected, source });
        }
        status => return Err(WheelError::Status { url: bare(url), status }),
    }
    tell(Progress::At(there));
    // One byte more than there may be tells a file that is too long from one that is right.
    let mut body = response.body_mut().as_reader().take(expected - there + 1);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let cut = |source| WheelError::Cut { url: bare(url), bytes: there, expected, source };
        let n = match body.read(&mut piece) {
            Ok(0) if there < expected => return Err(cut(io::ErrorKind::UnexpectedEof.into())),
            Ok(0) => return file.sync_data().map_err(failed),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(cut(error)),
        };
        file.write_all(&piece[..n]).map_err(failed)?;
        there += n as u64;
        tell(Progress::At(there.min(expected)));
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

#[cfg(test)]
mod tests;
