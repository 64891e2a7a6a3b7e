//! `org.brahman.Embed` for any engine.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use brahman_card::interface::embed::{self, EmbedBulkIn, EmbedBulkOut, EmbedFileIn, EmbedFileOut, EmbedTextIn, EmbedTextOut};
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Reply, Service, chain};
use brahman_storage::digest::{hex, sha256};

use crate::bulk;
use crate::engine::{Engine, FILE_BYTES_SEEN, Treatment};

/// Texts in one call: a message holds 16 MiB, so this only stops lists of empty strings.
const TEXTS_MAX: usize = 65_536;

/// Answers the interface by way of an engine.
#[derive(Debug)]
pub struct EmbedService<E> {
    engine: Arc<E>,
}

impl<E: Engine> EmbedService<E> {
    /// A service for this engine.
    #[must_use]
    pub fn new(engine: Arc<E>) -> Self {
        Self { engine }
    }

    async fn texts(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        let EmbedTextIn { texts, truncate } = call.parameters()?;
        if texts.len() > TEXTS_MAX {
            return Err(Fault::invalid_parameter(
                "texts",
                format!("{} texts, expected at most {TEXTS_MAX}; EmbedBulk takes any number", texts.len()),
            ));
        }
        let wish = Treatment { truncate: truncate.unwrap_or(false), deadline: call.deadline };
        let done = Arc::clone(&self.engine).texts(texts, wish).await?;
        let identity = self.engine.identity();
        // Built by hand because the vectors, which are most of it, are shared and need no copy.
        #[derive(serde::Serialize)]
        struct Out<'a> {
            model: &'a str,
            dim: usize,
            vectors: Vec<&'a [f32]>,
            cached: usize,
            truncated: Vec<embed::Truncation>,
            device: &'a str,
            elapsed_us: u64,
            fingerprint: &'a str,
            mock: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            warnings: Option<Vec<String>>,
        }
        Reply::of(&Out {
            model: &identity.model,
            dim: identity.dim,
            vectors: done.iter().map(|e| &*e.vector).collect(),
            cached: done.iter().filter(|e| e.cached).count(),
            truncated: done.iter().enumerate().filter_map(|(i, e)| e.truncation(i)).collect(),
            device: &identity.device,
            elapsed_us: started.elapsed().as_micros().try_into().unwrap_or(u64::MAX),
            fingerprint: &identity.fingerprint,
            mock: identity.mock,
            warnings: self.engine.warnings(),
        })
    }

    async fn file(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        let EmbedFileIn { path, truncate } = call.parameters()?;
        call.allow_paths()?;
        let (seen, bytes_total) = read_head(&path)?;
        let sha = hex(&sha256(&seen));
        let bytes_seen = seen.len() as u64;
        let wish = Treatment { truncate: truncate.unwrap_or(true), deadline: call.deadline };
        let done = Arc::clone(&self.engine).file(Path::new(&path), seen, wish).await?;
        let identity = self.engine.identity();
        Reply::of(&EmbedFileOut {
            model: identity.model.clone(),
            dim: identity.dim as u64,
            vector: done.vector.to_vec(),
            sha256: sha,
            bytes_seen,
            bytes_total,
            cached: done.cached,
            truncated: done.truncation(0),
            device: identity.device.clone(),
            elapsed_us: started.elapsed().as_micros().try_into().unwrap_or(u64::MAX),
            fingerprint: identity.fingerprint.clone(),
            mock: identity.mock,
            warnings: self.engine.warnings(),
        })
    }

    fn bulk(&self, call: &Call) -> Result<Reply, Fault> {
        let EmbedBulkIn { truncate } = call.parameters()?;
        if !call.upgrade {
            return Err(Fault::invalid_parameter("upgrade", "EmbedBulk leaves Varlink: call it with `upgrade`"));
        }
        let identity = self.engine.identity();
        let out = EmbedBulkOut {
            model: identity.model.clone(),
            dim: identity.dim as u64,
            fingerprint: identity.fingerprint.clone(),
            device: identity.device.clone(),
            mock: identity.mock,
        };
        let engine = Arc::clone(&self.engine);
        let truncate = truncate.unwrap_or(false);
        let uid = call.uid;
        Reply::upgrade(&out, move |upgraded| bulk::converse(upgraded, uid, engine, truncate))
    }
}

impl<E: Engine> Service for EmbedService<E> {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&embed::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        match call.method() {
            "EmbedText" => self.texts(&call).await,
            "EmbedFile" => self.file(&call).await,
            "EmbedBulk" => self.bulk(&call),
            "Info" => Reply::of(&self.engine.info()),
            _ => Err(call.unknown()),
        }
    }
}

/// The documented shape of the reply that `texts` builds by hand.
#[expect(dead_code, reason = "holds the hand-built reply to the interface's type at compile time")]
fn shape(out: EmbedTextOut) -> (String, u64, Vec<Vec<f32>>) {
    (out.model, out.dim, out.vectors)
}

/// The first bytes of a regular file, and its length.
fn read_head(path: &str) -> Result<(Vec<u8>, u64), Fault> {
    let unreadable =
        |why: String| Fault::of(&embed::error::FileUnreadable { path: path.to_owned() }, false, format!("cannot read {path}: {why}"));
    if !Path::new(path).is_absolute() {
        return Err(Fault::invalid_parameter("path", format!("`{path}` is relative, expected an absolute path")));
    }
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    let meta = std::fs::metadata(path).map_err(|e| unreadable(chain(&e)))?;
    if !meta.is_file() {
        return Err(unreadable("not a regular file".into()));
    }
    let mut seen = Vec::new();
    let file = File::open(path).map_err(|e| unreadable(chain(&e)))?;
    file.take(FILE_BYTES_SEEN as u64).read_to_end(&mut seen).map_err(|e| unreadable(chain(&e)))?;
    Ok((seen, meta.len()))
}
