//! What a repository holds at a commit, and its files: each fetched once, resumed where it was cut
//! off, and held to what the hub says of it.
//!
//! Addresses and headers are those of the hub's own client: `/api/models/ID/revision/REV` lists,
//! `/ID/resolve/COMMIT/FILE` says by HEAD what a file is (`x-linked-etag`, `x-linked-size`, or
//! `etag` and the length) and leads to where it lies. Invariants: no more bytes are written than
//! the hub announces; requests are repeated only while they get on, or a bounded number of times.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use brahman_card::chain;
use serde::Deserialize;
use ureq::Body;
use ureq::http::{HeaderMap, Response};

use super::error::HubError;
use super::request::{Repository, is_commit};
use super::settings::HubSettings;
use super::store::{Content, ContentId, FILES_MAX, FileLock, GIT_BYTES_MAX, Store, content};
use crate::fetch::{Listener, Progress};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a server may be silent: the hub answers in a second, and a slow line brings a piece in
/// far less.
const SILENT_AT_MOST: Duration = Duration::from_secs(60);
/// Attempts at a request that does not get on.
const ATTEMPTS_MAX: u32 = 5;
/// Connections over which one file may come: each has brought a part of it.
const CONNECTIONS_MAX: u32 = 200;
/// First pause between attempts; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause that is waited out: of a longer one a person is told.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Redirects within the hub that are followed, as of a repository that was renamed.
const REDIRECTS_MAX: usize = 5;
/// Longest description of a repository.
const REPLY_BYTES_MAX: u64 = 32 << 20;
/// Longest name of a file.
const NAME_BYTES_MAX: usize = 512;
/// Bytes read at once: often enough for a bar that moves.
const PIECE_BYTES: usize = 256 * 1024;
/// Bytes that stay free on a disk.
const SPARE_BYTES: u64 = 32 << 20;

/// A request's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Head,
}

/// What a repository holds at a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision names now.
    pub commit: String,
    /// Files, from the repository's root on, by name.
    pub files: Vec<String>,
}

/// A file that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// Where: a file of the hub's cache.
    pub path: PathBuf,
    /// Of its content, in hex.
    pub sha256: String,
    /// Its length in bytes, as the hub says it.
    pub bytes: u64,
    /// How much of it came over the network just now.
    pub fetched: u64,
}

/// What the hub says of a file.
#[derive(Clone, Debug)]
struct Announcement {
    id: ContentId,
    bytes: u64,
    /// Where it lies.
    location: String,
}

/// A repository's description, as far as it is of interest.
#[derive(Debug, Deserialize)]
struct Description {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The hub, and its cache on this machine.
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    agent: ureq::Agent,
}

/// A repository in the hub's cache that nobody writes to while this lives.
#[derive(Debug)]
pub struct HeldRepository {
    store: Store,
    _locks: Vec<FileLock>,
}

impl HeldRepository {
    /// Takes it out of the cache, from where other programs have it, too. Gives where it was.
    ///
    /// # Errors
    /// [`HubError::Cache`].
    pub fn forget(self) -> Result<PathBuf, HubError> {
        let folder = self.store.folder().to_owned();
        match self.store.remove() {
            Ok(()) => Ok(folder),
            Err(source) => Err(HubError::Cache { path: folder, source }),
        }
    }
}

impl Hub {
    /// The hub of these settings. Nobody is asked yet.
    #[must_use]
    pub fn new(settings: HubSettings) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_recv_response(Some(SILENT_AT_MOST))
            .timeout_per_read(Some(SILENT_AT_MOST))
            .user_agent(concat!("brahman/", env!("CARGO_PKG_VERSION")));
        Self { settings, agent: ureq::Agent::new_with_config(config.build()) }
    }

    /// How it is reached.
    #[must_use]
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// What a repository holds at its revision: by the hub's word, or offline by its cache.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn listing(
        &self,
        repository: &Repository,
        tell: &mut Listener<'_>,
    ) -> Result<Listing, HubError> {
        let store = Store::of(&self.settings.cache, repository);
        if self.settings.is_offline {
            let commit = store
                .commit(&repository.revision)
                .ok_or_else(|| self.offline(repository.to_string()))?;
            let files = store.files(&commit);
            return Ok(Listing { commit, files });
        }
        let listing = patiently(tell, || self.described(repository))?;
        store.note_commit(&repository.revision, &listing.commit)?;
        Ok(listing)
    }

    /// A file of a repository at a commit: from the hub's cache if it is there, else from the hub.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn file(
        &self,
        repository: &Repository,
        commit: &str,
        name: &str,
        tell: &mut Listener<'_>,
    ) -> Result<HubFile, HubError> {
        let store = Store::of(&self.settings.cache, repository);
        let named = format!("{}/{name}", repository.id());
        if let Some(id) = store.linked(commit, name) {
            let path = store.blob(&id);
            if let Some(content) = right(&path, &id)? {
                return Ok(HubFile {
                    path,
                    sha256: content.sha256,
                    bytes: content.bytes,
                    fetched: 0,
                });
            }
        }
        if self.settings.is_offline {
            return Err(self.offline(format!("{named}@{commit}")));
        }
        let announced = patiently(tell, || self.announced(repository, commit, name))?;
        let _lock = store.lock(&announced.id, &named, tell)?;
        let path = store.blob(&announced.id);
        // Another process may have fetched it while this one waited, or another commit has the
        // same.
        let (content, fetched) = match right(&path, &announced.id)? {
            Some(content) => (content, 0),
            None => {
                tell(Progress::Begin {
                    what: &format!("fetching {named}"),
                    bytes: Some(announced.bytes),
                });
                let fetched = self.fetch(&store, (repository, commit, name), &announced, tell);
                tell(Progress::End);
                fetched?
            }
        };
        store.link(commit, name, &announced.id)?;
        Ok(HubFile { path, sha256: content.sha256, bytes: content.bytes, fetched })
    }

    /// Keeps every process from writing a repository's files in the hub's cache, so that it can be
    /// taken away.
    ///
    /// # Errors
    /// [`HubError::InUse`], or [`HubError::Cache`].
    pub fn hold(&self, repository: &Repository) -> Result<HeldRepository, HubError> {
        let store = Store::of(&self.settings.cache, repository);
        Ok(HeldRepository { _locks: store.lock_all()?, store })
    }

    fn offline(&self, what: String) -> HubError {
        HubError::Offline { what, cache: self.settings.cache.clone() }
    }

    fn described(&self, repository: &Repository) -> Result<Listing, HubError> {
        let url = format!(
            "{}/api/models/{}/revision/{}",
            self.settings.endpoint,
            repository.id(),
            encoded(&repository.revision, false)
        );
        let (url, mut response) = self.follow(Method::Get, url)?;
        self.accept(&response, &url, repository, "a repository of models at that revision")?;
        let mut text = Vec::new();
        let read = response.body_mut().as_reader().take(REPLY_BYTES_MAX).read_to_end(&mut text);
        let (bytes, file) = (text.len() as u64, url.clone());
        read.map_err(|source| HubError::Cut { file, bytes, expected: bytes.max(1), source })?;
        let refuse = |why: String| HubError::Reply { url: url.clone(), why };
        let unparsed = |source| HubError::Unparsed { url: url.clone(), source };
        let description: Description = serde_json::from_slice(&text).map_err(unparsed)?;
        let commit = description
            .sha
            .filter(|sha| is_commit(sha))
            .ok_or_else(|| refuse("it names no commit".to_owned()))?;
        let count = description.siblings.len();
        if count > FILES_MAX {
            return Err(refuse(format!("{count} files, expected at most {FILES_MAX}")));
        }
        let mut files: Vec<String> =
            description.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        if let Some(bad) = files.iter().find(|name| !is_plain(name)) {
            return Err(refuse(format!("a file is called {bad:?}")));
        }
        files.sort();
        Ok(Listing { commit, files })
    }

    fn announced(
        &self,
        repository: &Repository,
        commit: &str,
        name: &str,
    ) -> Result<Announcement, HubError> {
        let (base, file) = (&self.settings.endpoint, encoded(name, true));
        let (url, response) = self
            .follow(Method::Head, format!("{base}/{}/resolve/{commit}/{file}", repository.id()))?;
        let is_elsewhere = response.status().is_redirection();
        if !is_elsewhere {
            self.accept(&response, &url, repository, "a file of that name at that revision")?;
        }
        let headers = response.headers();
        let etag =
            text(headers, "x-linked-etag").or_else(|| text(headers, "etag")).unwrap_or_default();
        // Of a redirect the length is that of its own text.
        let length = text(headers, "x-linked-size")
            .or_else(|| text(headers, "content-length").filter(|_| !is_elsewhere));
        let location =
            text(headers, "location").filter(|_| is_elsewhere).unwrap_or_else(|| url.clone());
        match (ContentId::of(&etag), length.and_then(|length| length.parse().ok())) {
            (Some(ContentId::Git(_)), Some(bytes)) if bytes > GIT_BYTES_MAX => {
                Err(HubError::Unchecked { url, etag })
            }
            (Some(id), Some(bytes)) => Ok(Announcement { id, bytes, location }),
            _ => Err(HubError::Unchecked { url, etag }),
        }
    }

    /// Fetches a file, over as many connections as it takes, and gives it its name once its content
    /// is right. Also how much of it came.
    fn fetch(
        &self,
        store: &Store,
        (repository, commit, name): (&Repository, &str, &str),
        announced: &Announcement,
        tell: &mut Listener<'_>,
    ) -> Result<(Content, u64), HubError> {
        let partial = store.partial(&announced.id);
        let named = format!("{}/{name}", repository.id());
        let begun_at = length(&partial);
        room_for(&partial, announced.bytes.saturating_sub(begun_at))?;
        let (mut location, mut idle, mut came) = (announced.location.clone(), 0, 0);
        for connection in 1.. {
            let mut bytes = 0;
            let outcome =
                self.append(&named, &location, announced, (partial.as_path(), &mut bytes), tell);
            came += bytes;
            idle = if bytes > 0 { 0 } else { idle + 1 };
            match outcome {
                Ok(()) => break,
                Err(error)
                    if error.is_transient()
                        && idle < ATTEMPTS_MAX
                        && connection < CONNECTIONS_MAX =>
                {
                    pause(&error, idle, tell)?;
                    // Where it lies is told for some hours only.
                    location =
                        patiently(tell, || self.announced(repository, commit, name))?.location;
                }
                Err(error) => return Err(error),
            }
        }
        let failed = |source| HubError::Cache { path: partial.clone(), source };
        let found = content(&partial, &announced.id).map_err(failed)?;
        if found.found != announced.id.text() {
            // What is left of it would be gone on with.
            fs::remove_file(&partial).map_err(failed)?;
            let (kind, expected) = (announced.id.kind(), announced.id.text().to_owned());
            if begun_at > 0 {
                tell(Progress::Note(&format!(
                    "what had come of {named} before was not a part of it: fetching it from its beginning"
                )));
                let (found, more) =
                    self.fetch(store, (repository, commit, name), announced, tell)?;
                return Ok((found, came + more));
            }
            return Err(HubError::Content { file: named, kind, found: found.found, expected });
        }
        let blob = store.blob(&announced.id);
        let placed = File::open(&partial)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&partial, &blob));
        placed.map_err(failed)?;
        Ok((found, came))
    }

    /// Goes on with a file where it stands, over one connection; counts the bytes that come.
    fn append(
        &self,
        named: &str,
        location: &str,
        announced: &Announcement,
        (partial, came): (&Path, &mut u64),
        tell: &mut Listener<'_>,
    ) -> Result<(), HubError> {
        let failed = |source: io::Error| written(partial, announced.bytes, source);
        let expected = announced.bytes;
        let mut there = length(partial);
        if there > expected {
            // It cannot be a part of it.
            fs::remove_file(partial).map_err(failed)?;
            there = 0;
        }
        let mut file = File::options().create(true).append(true).open(partial).map_err(failed)?;
        if there == expected {
            return Ok(());
        }
        let mut response = self.send(Method::Get, location, (there > 0).then_some(there))?;
        match response.status().as_u16() {
            206 if starts_at(response.headers()) == Some(there) => {}
            // Ranges are not for everybody: it begins anew.
            200 => {
                file.set_len(0).map_err(failed)?;
                there = 0;
            }
            status @ (206 | 416) => {
                file.set_len(0).map_err(failed)?;
                return Err(HubError::Cut {
                    file: named.to_owned(),
                    bytes: there,
                    expected,
                    source: io::Error::other(format!(
                        "another part than byte {there} and what follows (HTTP {status})"
                    )),
                });
            }
            status @ (401 | 403) if !self.is_own(location) => {
                return Err(HubError::Expired { url: bare(location), status });
            }
            status => return Err(refusal(status, response.headers(), &bare(location))),
        }
        if let Some(rest) = response.body().content_length()
            && there + rest != expected
        {
            return Err(HubError::Length { file: named.to_owned(), found: there + rest, expected });
        }
        tell(Progress::At(there));
        let mut piece = vec![0; PIECE_BYTES];
        let mut body = response.body_mut().as_reader();
        loop {
            let cut =
                |source| HubError::Cut { file: named.to_owned(), bytes: there, expected, source };
            let n = match body.read(&mut piece) {
                Ok(0) if there < expected => return Err(cut(io::ErrorKind::UnexpectedEof.into())),
                Ok(0) => return file.sync_data().map_err(failed),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(cut(error)),
            };
            if there + n as u64 > expected {
                return Err(HubError::Length {
                    file: named.to_owned(),
                    found: there + n as u64,
                    expected,
                });
            }
            file.write_all(&piece[..n]).map_err(failed)?;
            there += n as u64;
            *came += n as u64;
            tell(Progress::At(there));
        }
    }

    /// Sends a request, and again to where the hub itself leads within itself.
    fn follow(
        &self,
        method: Method,
        mut url: String,
    ) -> Result<(String, Response<Body>), HubError> {
        for _ in 0..REDIRECTS_MAX {
            let response = self.send(method, &url, None)?;
            let location =
                text(response.headers(), "location").filter(|_| response.status().is_redirection());
            // What has the file's own headers says all that is wanted.
            let is_last = response.headers().contains_key("x-linked-etag");
            match location {
                Some(to) if to.starts_with('/') && !to.starts_with("//") => {
                    url = format!("{}{to}", origin(&self.settings.endpoint));
                }
                Some(to) if !is_last && self.is_own(&to) => url = to,
                _ => return Ok((url, response)),
            }
        }
        Err(HubError::Reply {
            url,
            why: format!("it leads elsewhere more than {REDIRECTS_MAX} times"),
        })
    }

    fn send(
        &self,
        method: Method,
        url: &str,
        from: Option<u64>,
    ) -> Result<Response<Body>, HubError> {
        let mut request = match method {
            Method::Get => self.agent.get(url),
            Method::Head => self.agent.head(url),
        };
        // Packed, a file would be of another length and ETag.
        request = request.header("accept-encoding", "identity");
        if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_own(url)) {
            request = request.header("authorization", token.header());
        }
        if let Some(from) = from {
            request = request.header("range", format!("bytes={from}-"));
        }
        request
            .call()
            .map_err(|source| HubError::Unreachable { url: bare(url), source: Box::new(source) })
    }

    /// Whether an address is the hub's, which alone may see the token.
    fn is_own(&self, url: &str) -> bool {
        url.strip_prefix(origin(&self.settings.endpoint))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Refuses a reply that is none of success.
    fn accept(
        &self,
        response: &Response<Body>,
        url: &str,
        repository: &Repository,
        what: &'static str,
    ) -> Result<(), HubError> {
        let (status, headers) = (response.status().as_u16(), response.headers());
        match status {
            200..=299 => Ok(()),
            401 | 403 => {
                let code = text(headers, "x-error-code").unwrap_or_default();
                let page = format!("{}/{}", self.settings.endpoint, repository.id());
                Err(HubError::denied(
                    repository.id(),
                    status,
                    code == "GatedRepo",
                    self.settings.token.as_ref(),
                    page,
                ))
            }
            404 => Err(HubError::NotFound { url: bare(url), what }),
            _ => Err(refusal(status, headers, &bare(url))),
        }
    }
}

/// What a status is that is none of success.
fn refusal(status: u16, headers: &HeaderMap, url: &str) -> HubError {
    let url = url.to_owned();
    match status {
        429 => {
            let after = text(headers, "retry-after")
                .and_then(|after| after.trim().parse().ok())
                .map(Duration::from_secs);
            HubError::Limited { url, after }
        }
        404 => HubError::NotFound { url, what: "the file that the hub announces" },
        _ => HubError::Status { url, status },
    }
}

/// Tries again what may go well in a while.
fn patiently<T>(
    tell: &mut Listener<'_>,
    mut work: impl FnMut() -> Result<T, HubError>,
) -> Result<T, HubError> {
    let mut failures = 0;
    loop {
        match work() {
            Err(error) if error.is_transient() && failures + 1 < ATTEMPTS_MAX => {
                failures += 1;
                pause(&error, failures, tell)?;
            }
            outcome => return outcome,
        }
    }
}

/// Waits before another attempt, or gives the error back if that would take longer than a person
/// waits.
fn pause(error: &HubError, failures: u32, tell: &mut Listener<'_>) -> Result<(), HubError> {
    let doubled = PAUSE * 2_u32.pow(failures.saturating_sub(1).min(ATTEMPTS_MAX));
    let length = error.retry_after().unwrap_or(doubled);
    if let HubError::Limited { url, after } = error
        && length > PAUSE_MAX
    {
        return Err(HubError::Limited { url: url.clone(), after: *after });
    }
    tell(Progress::Note(&format!(
        "{}: trying again in {:.1} s",
        chain(error),
        length.as_secs_f32()
    )));
    thread::sleep(length);
    Ok(())
}

/// A file's content, if it is there and is what its name says. One that is not is taken away: it
/// would be taken for it.
fn right(path: &Path, id: &ContentId) -> Result<Option<Content>, HubError> {
    let failed = |source| HubError::Cache { path: path.to_owned(), source };
    match content(path, id) {
        Ok(content) if content.found == id.text() => Ok(Some(content)),
        Ok(_) => fs::remove_file(path).map(|()| None).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Refuses to begin what the disk has no room for. Where that cannot be told, writing will tell.
fn room_for(partial: &Path, needed: u64) -> Result<(), HubError> {
    let Some(folder) = partial.parent() else { return Ok(()) };
    match free(folder) {
        Some(free) if needed.saturating_add(SPARE_BYTES) > free => {
            Err(HubError::DiskFull { folder: folder.to_owned(), needed, free })
        }
        _ => Ok(()),
    }
}

fn free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// What could not be written.
fn written(partial: &Path, expected: u64, source: io::Error) -> HubError {
    match (source.kind(), partial.parent()) {
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, Some(folder)) => {
            HubError::DiskFull {
                folder: folder.to_owned(),
                needed: expected.saturating_sub(length(partial)),
                free: free(folder).unwrap_or(0),
            }
        }
        _ => HubError::Cache { path: partial.to_owned(), source },
    }
}

/// A header's text.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Where a part of a file begins: `bytes 100-199/200`.
pub(crate) fn starts_at(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-range")?
        .trim()
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
}

/// An address without what a server has put behind it to sign it.
fn bare(url: &str) -> String {
    url.split('?').next().unwrap_or(url).to_owned()
}

/// `http://host:port` of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or(url, |at| &url[..host + at])
}

/// A text as a part of an address; its slashes stay, if it is a path.
fn encoded(text: &str, is_path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'.' | b'~')
            || is_path && byte == b'/'
        {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Whether a name leads to a file below a folder, and nowhere else.
fn is_plain(name: &str) -> bool {
    let is_step = |step: &str| !step.is_empty() && step != "." && step != "..";
    name.len() <= NAME_BYTES_MAX
        && !name.contains(['\\', '\0'])
        && !name.contains(char::is_control)
        && name.split('/').all(is_step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(endpoint: &str) -> Hub {
        let cache = PathBuf::from("/nowhere");
        Hub::new(HubSettings {
            endpoint: endpoint.to_owned(),
            token: None,
            is_offline: false,
            cache,
        })
    }

    #[test]
    fn the_token_goes_to_the_hub_alone() {
        let hub = hub("https://huggingface.co");
        assert!(hub.is_own("https://huggingface.co/a/b") && hub.is_own("https://huggingface.co"));
        for other in [
            "https://huggingface.co.evil.org/a",
            "http://huggingface.co/a",
            "https://cdn-lfs.huggingface.co/a",
            "https://cas/x",
        ] {
            assert!(!hub.is_own(other), "{other}");
        }
        assert!(
            self::hub("http://mirror:8080/hf").is_own("http://mirror:8080/a/b"),
            "a mirror below a path redirects within its host"
        );
    }

    #[test]
    fn names_become_addresses_and_lead_nowhere_else() {
        assert_eq!(encoded("onnx/model q4.onnx", true), "onnx/model%20q4.onnx");
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert!(is_plain("onnx/model.onnx") && is_plain("1_Pooling/config.json"));
        for name in ["", "/etc/passwd", "../x", "a//b", "a/./b", "a\\b", "a\nb"] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert_eq!(bare("https://cdn/x?Signature=secret"), "https://cdn/x");
        assert_eq!((origin("http://h:1/p/q"), origin("http://h:1")), ("http://h:1", "http://h:1"));
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let partial = folder.path().join("x.incomplete");
        fs::write(&partial, "abc").expect("written");
        let error = written(&partial, 10, io::ErrorKind::StorageFull.into());
        assert!(matches!(&error, HubError::DiskFull { needed: 7, .. }), "{error}");
        assert!(
            error.to_string().contains("goes on where it stopped") && !error.is_transient(),
            "{error}"
        );
        room_for(&partial, 1).expect("there is room for a byte");
        assert!(matches!(room_for(&partial, u64::MAX / 2), Err(HubError::DiskFull { .. })));
    }

    #[test]
    fn a_pause_that_is_too_long_is_told_and_not_waited_out() {
        let error =
            HubError::Limited { url: "u".to_owned(), after: Some(Duration::from_secs(3600)) };
        let told = pause(&error, 1, &mut |_| panic!("nothing is waited for")).expect_err("an hour");
        assert!(
            told.to_string().contains("in 3600 s") && told.to_string().contains("HF_TOKEN"),
            "{told}"
        );
    }
}
