//! A hub of models on this machine that behaves as the Hugging Face hub does: repositories at
//! commits, small files by git's ids behind a redirect within the hub, large ones by sha256 behind
//! a redirect to another server, ranges, tokens, gates; and whatever goes wrong with it.
//!
//! Each request has a connection of its own, so that what becomes of one is no other's affair.
//! Waits are on conditions, never on time.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use brahman_storage::digest::{hex, sha256};
use serde_json::json;
use sha1::{Digest as _, Sha1};

use crate::PATIENCE;

/// The token that opens gated repositories.
pub const TOKEN: &str = "hf_the_right_one";
/// Ends of names of files that are kept as large ones, however small they are.
const LARGE: [&str; 4] = [".onnx", "_data", ".safetensors", "tokenizer.json"];

/// A request, as the hub or the server of its large files saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRequest {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Whether it went to the server of large files.
    pub is_cdn: bool,
    /// First byte that was asked for.
    pub from: Option<usize>,
    /// The token that was sent.
    pub token: Option<String>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is answered.
    None,
    /// With this status and this header beside it.
    Status(u16, Option<(&'static str, String)>),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// It stands still after so many bytes of the body, until [`Hub::release`].
    Stall(usize),
    /// With another body: of the same length its content is wrong, of another its length.
    Body(Vec<u8>),
    /// As if ranges were unknown.
    NoRanges,
    /// It is answered with this header in place of the right one.
    Header(&'static str, String),
}

type Decide = Box<dyn FnMut(&HubRequest) -> Trouble + Send>;

struct Repository {
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
    is_gated: bool,
}

#[derive(Default)]
struct Stalls {
    reached: usize,
    is_released: bool,
}

struct Shared {
    hub: u16,
    cdn: u16,
    repositories: Mutex<BTreeMap<String, Repository>>,
    decide: Mutex<Decide>,
    seen: Mutex<Vec<HubRequest>>,
    stalls: Mutex<Stalls>,
    changed: Condvar,
}

/// A hub, until the test ends.
pub struct Hub {
    shared: Arc<Shared>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("port", &self.shared.hub).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// An empty one.
    #[must_use]
    pub fn start() -> Self {
        let [hub, cdn] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("bound"));
        let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
        let decide: Decide = Box::new(|_| Trouble::None);
        let shared = Arc::new(Shared {
            hub: port(&hub),
            cdn: port(&cdn),
            repositories: Mutex::default(),
            decide: Mutex::new(decide),
            seen: Mutex::default(),
            stalls: Mutex::default(),
            changed: Condvar::new(),
        });
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    let shared = Arc::clone(&shared);
                    // A client that goes away is none of the hub's concern.
                    std::thread::spawn(move || drop(serve(client, &shared, is_cdn)));
                }
            });
        }
        Self { shared }
    }

    /// Its address.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.shared.hub)
    }

    /// Puts a repository there, of the files in a folder, at the commit of their content; or in
    /// place of the one of that name.
    pub fn publish(&self, id: &str, folder: &Path, is_gated: bool) -> String {
        let mut files = BTreeMap::from([("README.md".to_owned(), b"for people".to_vec())]);
        gather(folder, "", &mut files);
        let all: Vec<u8> =
            files.iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes].concat()).collect();
        let commit = hex(&Sha1::digest(all));
        locked(&self.shared.repositories)
            .insert(id.to_owned(), Repository { commit: commit.clone(), files, is_gated });
        commit
    }

    /// From now on, what becomes of a request.
    pub fn when(&self, decide: impl FnMut(&HubRequest) -> Trouble + Send + 'static) {
        *locked(&self.shared.decide) = Box::new(decide);
    }

    /// From now on every request is answered.
    pub fn heal(&self) {
        self.when(|_| Trouble::None);
    }

    /// Requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<HubRequest> {
        locked(&self.shared.seen).clone()
    }

    /// Waits until an answer stands still.
    pub fn stalled(&self) {
        let stalls = locked(&self.shared.stalls);
        let waited =
            self.shared.changed.wait_timeout_while(stalls, PATIENCE, |stalls| stalls.reached == 0);
        assert!(
            waited.is_ok_and(|(stalls, _)| stalls.reached > 0),
            "no answer has come to where it was to stand still"
        );
    }

    /// Lets the answers go on that stand still.
    pub fn release(&self) {
        locked(&self.shared.stalls).is_released = true;
        self.shared.changed.notify_all();
    }
}

fn gather(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            gather(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, fs::read(entry.path()).expect("read"));
        }
    }
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Self {
        Self { status, headers, body }
    }
}

/// One request, and its answer.
fn serve(client: TcpStream, shared: &Shared, is_cdn: bool) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = HubRequest { method, target, is_cdn, from: None, token: None };
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                request.from = value
                    .strip_prefix("bytes=")
                    .and_then(|range| range.trim_end_matches('-').parse().ok());
            }
            "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    let trouble = {
        let mut decide = locked(&shared.decide);
        (*decide)(&request)
    };
    locked(&shared.seen).push(request.clone());
    let mut reply = if is_cdn { blob(shared, &request, &trouble) } else { page(shared, &request) };
    match &trouble {
        Trouble::Status(status, header) => {
            reply = Reply::new(*status, header.iter().cloned().collect(), Vec::new());
        }
        Trouble::Header(name, value) => {
            reply.headers.retain(|(known, _)| known != name);
            reply.headers.push((*name, value.clone()));
        }
        _ => {}
    }
    let mut client = reader.into_inner();
    let headers: String =
        reply.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(
        client,
        "HTTP/1.1 {} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        reply.status,
        reply.body.len()
    )?;
    if request.method == "HEAD" {
        return Ok(());
    }
    match trouble {
        Trouble::Cut(after) => client.write_all(&reply.body[..after.min(reply.body.len())]),
        Trouble::Stall(after) => {
            let after = after.min(reply.body.len());
            client.write_all(&reply.body[..after])?;
            let mut stalls = locked(&shared.stalls);
            stalls.reached += 1;
            shared.changed.notify_all();
            let waited =
                shared.changed.wait_timeout_while(stalls, PATIENCE, |stalls| !stalls.is_released);
            drop(waited);
            client.write_all(&reply.body[after..])
        }
        _ => client.write_all(&reply.body),
    }
}

/// What the hub itself answers.
fn page(shared: &Shared, request: &HubRequest) -> Reply {
    let path = request.target.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (id, rest) = match parts.as_slice() {
        ["api", "models", owner, name, rest @ ..] => (format!("{owner}/{name}"), rest),
        ["api", "resolve-cache", "models", owner, name, rest @ ..] => {
            (format!("{owner}/{name}"), rest)
        }
        [owner, name, rest @ ..] => (format!("{owner}/{name}"), rest),
        _ => return Reply::new(404, Vec::new(), Vec::new()),
    };
    let repositories = locked(&shared.repositories);
    let code = |code: &str| vec![("X-Error-Code", code.to_owned())];
    let Some(repository) = repositories.get(&id) else {
        // Nobody is told what does not exist.
        return Reply::new(
            if request.token.is_some() { 404 } else { 401 },
            code("RepoNotFound"),
            Vec::new(),
        );
    };
    if repository.is_gated && request.token.as_deref() != Some(TOKEN) {
        return Reply::new(
            if request.token.is_some() { 403 } else { 401 },
            code("GatedRepo"),
            Vec::new(),
        );
    }
    let is_known = |revision: &str| revision == "main" || revision == repository.commit;
    match (parts[0], rest) {
        ("api", ["revision", revision]) if is_known(revision) => {
            let siblings: Vec<_> =
                repository.files.keys().map(|name| json!({"rfilename": name})).collect();
            let body = json!({"id": id, "sha": repository.commit, "siblings": siblings})
                .to_string()
                .into_bytes();
            Reply::new(200, vec![("Content-Type", "application/json".to_owned())], body)
        }
        ("api", [revision, name @ ..]) if is_known(revision) && parts[1] == "resolve-cache" => {
            let Some(bytes) = repository.files.get(&name.join("/")) else {
                return Reply::new(404, code("EntryNotFound"), Vec::new());
            };
            let id = hex(&Sha1::new()
                .chain_update(format!("blob {}\0", bytes.len()))
                .chain_update(bytes)
                .finalize());
            ranged(
                bytes,
                request,
                vec![("ETag", format!("\"{id}\"")), ("X-Repo-Commit", repository.commit.clone())],
            )
        }
        (_, ["resolve", revision, name @ ..]) if is_known(revision) => {
            let name = name.join("/");
            let Some(bytes) = repository.files.get(&name) else {
                return Reply::new(404, code("EntryNotFound"), Vec::new());
            };
            let mut headers = vec![("X-Repo-Commit", repository.commit.clone())];
            if !LARGE.iter().any(|end| name.ends_with(end)) {
                headers.push((
                    "Location",
                    format!("/api/resolve-cache/models/{id}/{}/{name}", repository.commit),
                ));
                return Reply::new(307, headers, b"Temporary Redirect".to_vec());
            }
            let sha256 = hex(&sha256(bytes));
            headers.push((
                "Location",
                format!("http://127.0.0.1:{}/blobs/{sha256}?Signature=secret", shared.cdn),
            ));
            headers.push(("X-Linked-ETag", format!("\"{sha256}\"")));
            headers.push(("X-Linked-Size", bytes.len().to_string()));
            // Not the file's.
            headers.push(("ETag", "\"5d41402abc4b2a76b9719d911017c592\"".to_owned()));
            Reply::new(302, headers, b"Found. Redirecting".to_vec())
        }
        _ => Reply::new(404, code("RevisionNotFound"), Vec::new()),
    }
}

/// What the server of large files answers.
fn blob(shared: &Shared, request: &HubRequest, trouble: &Trouble) -> Reply {
    let wanted = request.target.trim_start_matches("/blobs/").split('?').next().unwrap_or_default();
    let repositories = locked(&shared.repositories);
    let found = repositories
        .values()
        .flat_map(|repository| repository.files.values())
        .find(|bytes| hex(&sha256(bytes)) == wanted);
    match (found, trouble) {
        (None, _) => Reply::new(404, Vec::new(), Vec::new()),
        (Some(_), Trouble::Body(other)) => ranged(other, request, Vec::new()),
        (Some(bytes), Trouble::NoRanges) => Reply::new(200, Vec::new(), bytes.clone()),
        (Some(bytes), _) => ranged(bytes, request, Vec::new()),
    }
}

/// A file, or the part of it that is asked for.
fn ranged(bytes: &[u8], request: &HubRequest, mut headers: Vec<(&'static str, String)>) -> Reply {
    headers.push(("Accept-Ranges", "bytes".to_owned()));
    match request.from {
        None => Reply::new(200, headers, bytes.to_vec()),
        Some(from) if from < bytes.len() => {
            headers.push((
                "Content-Range",
                format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
            ));
            Reply::new(206, headers, bytes[from..].to_vec())
        }
        Some(_) => {
            Reply::new(416, vec![("Content-Range", format!("bytes */{}", bytes.len()))], Vec::new())
        }
    }
}
