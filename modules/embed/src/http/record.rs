//! What a server was like when it was first asked: kept in the module's state, so that another
//! model behind the same name is noticed, and so that what is cached is served while the server is
//! away.
//!
//! Invariants: a record counts only for the address, model, prompts and revision that it was
//! written for; one that is there and counts is never replaced by what contradicts it.

use std::path::Path;

use brahman_sidecar::{Deadline, chain};
use brahman_storage::checked::{self, CheckedContent, CheckedError};
use brahman_storage::digest::{hex, sha256};
use serde::{Deserialize, Serialize};

use super::dialect::Introduction;
use super::error::{OpenError, ProbeError};
use super::probe::{LongTexts, ProbeReport, probe};
use super::server::Server;
use super::settings::Settings;

/// How a fingerprint begins that trusts a server's name. Those of models on this machine are of
/// hexadecimal digits alone.
const BY_NAME: &str = "by-name-";

/// A server as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// Digest of the settings that it is for.
    settings: String,
    /// The model's name, the server's own word where the settings say none.
    pub model: String,
    /// A known text's vector, of length 1.
    pub vector: Vec<f32>,
    /// Whether vectors came with length 1.
    pub is_unit: bool,
    /// How far apart two vectors of the known text were.
    pub distance: f32,
    /// What becomes of long texts.
    pub long_texts: LongTexts,
    /// Tokens that a text may have, if the server says so.
    pub window: Option<u32>,
    /// Texts that a request may have, if the server says so.
    pub batch: Option<usize>,
}

impl ServerRecord {
    /// Of what was found just now.
    #[must_use]
    pub fn new(
        settings: &Settings,
        model: &str,
        report: ProbeReport,
        window: Option<u32>,
        batch: Option<usize>,
    ) -> Self {
        let ProbeReport { vector, is_unit, distance, long_texts } = report;
        Self {
            settings: digest(settings),
            model: model.to_owned(),
            vector,
            is_unit,
            distance,
            long_texts,
            window,
            batch,
        }
    }

    /// What is kept of this server; none if there is nothing, or of another one.
    ///
    /// # Errors
    /// [`CheckedError`], which names the file.
    pub fn read(file: &Path, settings: &Settings) -> Result<Option<Self>, CheckedError> {
        let Some(CheckedContent { bytes, .. }) = checked::read(file)? else { return Ok(None) };
        let record: Option<Self> = serde_json::from_slice(&bytes)
            .inspect_err(|error| {
                tracing::warn!("{} is of another version: {}", file.display(), chain(error));
            })
            .ok();
        Ok(record.filter(|record| record.settings == digest(settings) && !record.vector.is_empty()))
    }

    /// Keeps it. A disk that does not is told in the log: then nobody is compared with.
    pub fn write(&self, file: &Path) {
        let written = serde_json::to_vec(self).map_err(std::io::Error::from).and_then(|bytes| {
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder)?;
            }
            checked::write(file, &bytes)
        });
        if let Err(error) = written {
            tracing::warn!("{} cannot be written: {}", file.display(), chain(&error));
        }
    }

    /// What vectors depend on, as far as a server's name can say it: its address, the model's name
    /// and the vectors' length, the prompts and the revision. Never that of a model on this
    /// machine.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let parts =
            [self.settings.as_str(), &self.model, &self.vector.len().to_string()].join("\0");
        format!("{BY_NAME}{}", hex(&sha256(parts.as_bytes())))
    }
}

/// The server as it is: asked for its model, and tried.
///
/// # Errors
/// [`OpenError`]: what it answered, and what was expected.
pub async fn examine(
    server: &mut Server,
    before: Option<&ServerRecord>,
) -> Result<ServerRecord, OpenError> {
    let settings = server.settings();
    let about = match settings.dialect.about() {
        Some(path) => {
            let deadline = Deadline::within(settings.timeout * 2);
            match server.page(path, deadline).await {
                Ok(page) => settings.dialect.introduction(&page),
                // Whoever has been told its name can do without.
                Err(error)
                    if settings.model.is_some()
                        && !error.is_outage()
                        && !error.is_out_of_time() =>
                {
                    tracing::warn!(
                        "what the server says of itself is not known: {}",
                        chain(&error)
                    );
                    Introduction::default()
                }
                Err(error) => return Err(error.into()),
            }
        }
        None => Introduction::default(),
    };
    let named = settings.model.clone().or(about.model);
    let model = named.ok_or_else(|| OpenError::Unnamed { base: settings.base.clone() })?;
    server.introduce(&model, about.batch);
    let known_long = before.filter(|before| before.model == model).map(|before| before.long_texts);
    let report = probe(server, known_long).await.map_err(|source| match source {
        ProbeError::Server(error) => OpenError::Server(error),
        source => {
            let settings = server.settings();
            OpenError::Unusable {
                server: format!("{} at {}", settings.dialect.name(), settings.base),
                source,
            }
        }
    })?;
    Ok(ServerRecord::new(server.settings(), &model, report, about.window, about.batch))
}

/// What of the settings vectors depend on.
fn digest(settings: &Settings) -> String {
    let Settings { dialect, base, model, prompts, revision, .. } = settings;
    // As JSON, so that no two lists of texts look alike.
    let parts = serde_json::json!([dialect.name(), base, model, prompts.by_name, revision]);
    hex(&sha256(parts.to_string().as_bytes()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use brahman_models::layout::Prompts;

    use super::*;
    use crate::http::dialect::Dialect;

    pub(crate) fn settings() -> Settings {
        Settings {
            dialect: Dialect::Tei,
            base: "http://x".to_owned(),
            model: None,
            key: None,
            timeout: Duration::from_secs(2),
            check_pause: Duration::from_secs(60),
            concurrency: 2,
            batch: 4,
            prompts: Prompts::default(),
            dimensions: Vec::new(),
            revision: String::new(),
            vectors: PathBuf::new(),
            vectors_bytes: 1 << 20,
        }
    }

    fn record(settings: &Settings, vector: Vec<f32>) -> ServerRecord {
        let report =
            ProbeReport { vector, is_unit: true, distance: 0.0, long_texts: LongTexts::Refused };
        ServerRecord::new(settings, "m", report, Some(512), None)
    }

    #[test]
    fn a_record_counts_for_its_own_server_alone() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("state/embed-http.server.json");
        assert_eq!(ServerRecord::read(&file, &settings()).expect("none"), None);
        let kept = record(&settings(), vec![0.6, 0.8]);
        kept.write(&file);
        assert_eq!(ServerRecord::read(&file, &settings()).expect("read"), Some(kept));
        let other = Settings { revision: "2".to_owned(), ..settings() };
        assert_eq!(ServerRecord::read(&file, &other).expect("of another"), None);
        std::fs::write(&file, b"{\"half\": ").expect("written");
        assert_eq!(ServerRecord::read(&file, &settings()).expect("of another version"), None);
    }

    #[test]
    fn a_fingerprint_is_of_the_name_and_says_so() {
        let own = record(&settings(), vec![1.0, 0.0]).fingerprint();
        assert!(own.starts_with(BY_NAME) && own.len() == BY_NAME.len() + 64);
        assert_eq!(
            own,
            record(&settings(), vec![0.0, 1.0]).fingerprint(),
            "numbers are no part of it"
        );
        let by_name = [("query".to_owned(), "q: ".to_owned())].into();
        let others = [
            record(&settings(), vec![1.0, 0.0, 0.0]),
            record(&Settings { base: "http://y".to_owned(), ..settings() }, vec![1.0, 0.0]),
            record(&Settings { revision: "2".to_owned(), ..settings() }, vec![1.0, 0.0]),
            record(
                &Settings { prompts: Prompts { by_name, default_name: None }, ..settings() },
                vec![1.0, 0.0],
            ),
        ];
        assert!(others.iter().all(|other| other.fingerprint() != own));
    }
}
