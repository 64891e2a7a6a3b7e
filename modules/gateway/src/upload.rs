//! `POST /v1/ingest/files`: a file that comes as a body, and becomes a dataset.
//!
//! Invariants: what comes is written to a folder that nobody else enters, and is gone when the call
//! is over, whatever came of it; its name is a file's name and no path; its length is bounded, and
//! so are its time and the number of such files at once; what a life that was cut off has left is
//! removed by the next.

use std::fs::{File, OpenOptions};
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brahman_card::Fault;
use brahman_card::interface::Method as _;
use brahman_card::interface::ingest::{FilesIn, method};
use brahman_sidecar::{CallOptions, chain, place};
use hyper::StatusCode;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::http::request::Parts;
use tokio::sync::mpsc;

use crate::answer::{self, Answer};
use crate::caller::Caller;
use crate::mesh::Mesh;
use crate::places::Places;
use crate::plain::decoded;
use crate::refusal::Refusal;

/// Longest file: what is longer is on this machine already, or should come by way of a bucket.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Longest name of a file, as file systems have it.
const NAME_BYTES_MAX: usize = 200;
/// Files on their way at once.
const FILES_MAX: usize = 8;
/// How long nothing of a file may come.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Bytes a second that have to come in the long run: who sends slower holds a place for nothing.
const RATE_MIN: u64 = 16 * 1024;
/// Pieces of a file that may wait to be written.
const PIECES_WAITING: usize = 16;

static PLACES: LazyLock<Places> = LazyLock::new(|| Places::new(FILES_MAX));

/// Removes what an earlier life of this gateway was taking in when it was killed.
///
/// # Errors
/// As the file system gives them; no folder is none.
pub(crate) fn clear(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// How long a file of which so many bytes have come may have been on its way.
fn allowed(bytes: u64) -> Duration {
    STALL_MAX + Duration::from_secs(bytes / RATE_MIN)
}

/// A folder for one file, which goes with this.
struct UploadFolder(PathBuf);

impl UploadFolder {
    fn make(within: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path =
            within.join(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        place::private_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for UploadFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "an uploaded file stays behind");
        }
    }
}

/// What the query says: `dataset`, `name`, and `format` unless the name tells.
struct UploadTerms {
    dataset: String,
    name: String,
    format: Option<String>,
}

impl UploadTerms {
    fn read(query: &str) -> Result<Self, Refusal> {
        let (mut dataset, mut name, mut format) = (None, None, None);
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = decoded(&value.replace('+', " "))
                .ok_or_else(|| Refusal::parameter(key, "expected UTF-8, escaped as in a URL"))?;
            match key {
                "dataset" => dataset = Some(value),
                "name" => name = Some(value),
                "format" => format = Some(value),
                _ => {
                    return Err(Refusal::parameter(
                        key,
                        "not known here: expected dataset, name and format",
                    ));
                }
            }
        }
        let dataset = dataset
            .ok_or_else(|| Refusal::parameter("dataset", "expected the name of a dataset"))?;
        let name = name.ok_or_else(|| {
            Refusal::parameter("name", "expected the file's name, whose ending says what it is")
        })?;
        let is_name = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && !name.starts_with('.')
            && !name.contains(['/', '\\', '\0']);
        if !is_name {
            return Err(Refusal::parameter(
                "name",
                format!("expected a file's name of at most {NAME_BYTES_MAX} bytes, and no path"),
            ));
        }
        Ok(Self { dataset, name, format })
    }
}

/// Takes a file in, and has it ingested.
pub(crate) async fn files(
    mesh: &Mesh,
    caller: &Caller,
    head: &Parts,
    body: Incoming,
    folder: &Path,
) -> Result<Answer, Refusal> {
    caller.allow(method::Files::NAME)?;
    let UploadTerms { dataset, name, format } =
        UploadTerms::read(head.uri.query().unwrap_or_default())?;
    let full = || {
        Fault::overloaded(
            format!("as many files are on their way as may be, of {FILES_MAX} in all"),
            1000,
        )
    };
    let _place = PLACES.take(1, caller.is_remote()).ok_or_else(full)?;
    let unwritable =
        |error: io::Error| Fault::internal(format!("the file cannot be kept: {}", chain(&error)));
    let upload = UploadFolder::make(folder).map_err(unwritable)?;
    let path = upload.0.join(name);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(unwritable)?;
    store(body, file).await?;
    let ask =
        FilesIn { dataset, paths: vec![path.display().to_string()], format, ..FilesIn::default() };
    // The file is the gateway's own, whoever sent it: who may ingest at all was asked above.
    let options = CallOptions { uid: None, ..caller.options() };
    let given =
        mesh.client().call_method::<method::Files>(&ask, &options).await.map_err(Fault::from)?;
    let mut answer = answer::json(StatusCode::OK, &given.value);
    answer::sign(&mut answer, given.provider.as_deref(), given.mock);
    Ok(answer)
}

/// Writes a body to a file, off the I/O thread.
async fn store(mut body: Incoming, mut file: File) -> Result<(), Refusal> {
    let (pieces, mut waiting) = mpsc::channel::<Bytes>(PIECES_WAITING);
    let writing = tokio::task::spawn_blocking(move || -> io::Result<()> {
        while let Some(piece) = waiting.blocking_recv() {
            file.write_all(&piece)?;
        }
        file.flush()
    });
    let (begun, mut bytes) = (Instant::now(), 0_u64);
    loop {
        let until = (begun + allowed(bytes)).min(Instant::now() + STALL_MAX);
        let next = tokio::time::timeout_at(
            until.into(),
            poll_fn(|context| Pin::new(&mut body).poll_frame(context)),
        );
        let frame = match next.await {
            Err(_) => {
                return Err(Refusal::new(
                    StatusCode::REQUEST_TIMEOUT,
                    Fault::deadline_exceeded("the file was on its way"),
                ));
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(Refusal::parameter("(body)", format!("it could not be read: {error}")));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len() as u64;
        if bytes > FILE_BYTES_MAX {
            let fault =
                Fault::overloaded(format!("the file has more than {FILE_BYTES_MAX} bytes"), 0);
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, fault));
        }
        // Whoever writes has failed, and says so below.
        if pieces.send(data).await.is_err() {
            break;
        }
    }
    drop(pieces);
    let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    written.map_err(|error| {
        Fault::internal(format!("the file cannot be kept: {}", chain(&error))).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_a_byte_now_and_then_is_cut() {
        assert_eq!((allowed(0), allowed(RATE_MIN - 1)), (STALL_MAX, STALL_MAX));
        assert_eq!(allowed(60 * RATE_MIN), STALL_MAX + Duration::from_secs(60));
    }

    #[test]
    fn what_an_earlier_life_left_is_removed() {
        let folder = std::env::temp_dir().join(format!("brahman-uploads-{}", std::process::id()));
        let upload = UploadFolder::make(&folder).expect("made");
        std::fs::write(upload.0.join("rows.csv"), "id\n").expect("written");
        // As if it had been killed.
        std::mem::forget(upload);
        clear(&folder).expect("removed");
        assert!(!folder.exists());
        clear(&folder).expect("nothing is there");
    }

    #[test]
    fn a_files_name_is_no_path() {
        let terms = UploadTerms::read("dataset=notes&name=a%20b.md").expect("terms");
        assert_eq!(
            (terms.dataset.as_str(), terms.name.as_str(), terms.format),
            ("notes", "a b.md", None)
        );
        for query in [
            "",
            "dataset=notes",
            "dataset=n&name=..%2fx",
            "dataset=n&name=.x",
            "dataset=n&name=%00",
            "dataset=n&name=a&x=1",
        ] {
            assert!(UploadTerms::read(query).is_err(), "{query}");
        }
    }
}
