//! `org.brahman.Embed` for any engine.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use brahman_card::interface::embed::{
    self, EmbedBulkIn, EmbedBulkOut, EmbedFileIn, EmbedFileOut, EmbedTextIn, EmbedTextOut,
    FailedText, TokenizeIn, TokenizeOut, UnknownTokens,
};
use brahman_card::wire::MESSAGE_BYTES_MAX;
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Deadline, Reply, Service, chain};
use brahman_storage::digest::{hex, sha256};

use crate::bulk::{self, BulkTerms};
use crate::engine::{
    ChosenPrompt, Embedding, Engine, FILE_BYTES_SEEN, Identity, PromptRequest, Treatment,
};
use crate::real::head::cut;

/// Texts in one call: a message holds 16 MiB, so this only stops lists of empty strings.
const TEXTS_MAX: usize = 65_536;
/// Bytes of a vector's number in a reply, with its comma: `-0.034471426,`.
const NUMBER_BYTES: usize = 13;
/// Of a text's tokens so many per cent may be unknown before a reply warns of it.
const UNKNOWN_PER_CENT: u32 = 20;

/// Answers the interface by way of an engine.
#[derive(Debug)]
pub struct EmbedService<E> {
    engine: Arc<E>,
}

/// Built by hand in place of [`EmbedTextOut`] because the vectors, which are most of it, are shared
/// and need no copy.
#[derive(serde::Serialize)]
struct SharedReply<'a> {
    model: &'a str,
    dim: usize,
    vectors: Vec<&'a [f32]>,
    cached: usize,
    truncated: Vec<embed::Truncation>,
    device: &'a str,
    elapsed_us: u64,
    fingerprint: String,
    mock: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    normalized: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<Vec<UnknownTokens>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<Vec<FailedText>>,
}

impl<E: Engine> EmbedService<E> {
    /// A service for this engine.
    #[must_use]
    pub fn new(engine: Arc<E>) -> Self {
        Self { engine }
    }

    async fn texts(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        let EmbedTextIn { texts, truncate, role, prompt_name, prompt, dimensions, partial } =
            call.parameters()?;
        let identity = self.engine.identity();
        let short = identity.cut(dimensions)?;
        let dim = short.unwrap_or(identity.dim);
        // Said before anything is computed.
        let fit = (MESSAGE_BYTES_MAX / (dim.max(1) * NUMBER_BYTES)).min(TEXTS_MAX);
        if texts.len() > fit {
            let why = format!(
                "{} texts, expected at most {fit}, whose vectors of {dim} numbers fit a reply; EmbedBulk takes any number",
                texts.len()
            );
            return Err(Fault::invalid_parameter("texts", why));
        }
        let chosen =
            self.engine.prompt(&PromptRequest::read(role.as_deref(), prompt_name, prompt)?)?;
        let wish = Treatment {
            truncate: truncate.unwrap_or(false),
            deadline: call.deadline,
            prompt: Arc::clone(&chosen.text),
        };
        let mut done = Arc::clone(&self.engine).texts(texts, wish).await?;
        if !partial.unwrap_or(false)
            && let Some(fault) = done.iter().find_map(|one| one.as_ref().err())
        {
            return Err(fault.clone());
        }
        if let Some(dim) = short {
            for one in done.iter_mut().flatten() {
                one.vector = cut(&one.vector, dim, identity.normalized).into();
            }
        }
        let unknown: Vec<UnknownTokens> = done
            .iter()
            .enumerate()
            .filter_map(|(i, one)| unknown_of(i, one.as_ref().ok()?))
            .collect();
        let warnings = self.warnings(&chosen, done.iter().flatten());
        let failed: Vec<FailedText> = done
            .iter()
            .enumerate()
            .filter_map(|(i, one)| Some(failure(i, one.as_ref().err()?)))
            .collect();
        Reply::of(&SharedReply {
            model: &identity.model,
            dim,
            vectors: done
                .iter()
                .map(|one| one.as_ref().map(|one| &*one.vector).unwrap_or_default())
                .collect(),
            cached: done.iter().flatten().filter(|one| one.cached).count(),
            truncated: done
                .iter()
                .enumerate()
                .filter_map(|(i, one)| one.as_ref().ok()?.truncation(i))
                .collect(),
            device: &identity.device,
            elapsed_us: started.elapsed().as_micros().try_into().unwrap_or(u64::MAX),
            fingerprint: identity.fingerprint_of(short),
            mock: identity.mock,
            warnings,
            prompt: put_before(&chosen),
            precision: precision(identity),
            normalized: Some(identity.normalized),
            unknown: Some(unknown).filter(|unknown| !unknown.is_empty()),
            failed: Some(failed).filter(|failed| !failed.is_empty()),
        })
    }

    async fn file(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        let EmbedFileIn { path, truncate, role, prompt_name, prompt, dimensions } =
            call.parameters()?;
        call.allow_paths()?;
        let identity = self.engine.identity();
        let short = identity.cut(dimensions)?;
        let chosen =
            self.engine.prompt(&PromptRequest::read(role.as_deref(), prompt_name, prompt)?)?;
        let (seen, bytes_total) = read_head(&path)?;
        let sha = hex(&sha256(&seen));
        let bytes_seen = seen.len() as u64;
        let no_text = not_utf8(&seen, bytes_seen < bytes_total);
        let wish = Treatment {
            truncate: truncate.unwrap_or(true),
            deadline: call.deadline,
            prompt: Arc::clone(&chosen.text),
        };
        let done = Arc::clone(&self.engine).file(Path::new(&path), seen, wish).await?;
        let mut warnings = self.warnings(&chosen, std::iter::once(&done)).unwrap_or_default();
        warnings.extend(no_text);
        let vector = short.map_or_else(
            || done.vector.to_vec(),
            |dim| cut(&done.vector, dim, identity.normalized),
        );
        Reply::of(&EmbedFileOut {
            model: identity.model.clone(),
            dim: vector.len() as u64,
            vector,
            sha256: sha,
            bytes_seen,
            bytes_total,
            cached: done.cached,
            truncated: done.truncation(0),
            device: identity.device.clone(),
            elapsed_us: started.elapsed().as_micros().try_into().unwrap_or(u64::MAX),
            fingerprint: identity.fingerprint_of(short),
            mock: identity.mock,
            warnings: Some(warnings).filter(|warnings| !warnings.is_empty()),
            prompt: put_before(&chosen).map(str::to_owned),
            precision: precision(identity),
            normalized: Some(identity.normalized),
            unknown: (done.unknown > 0).then_some(done.unknown.into()),
        })
    }

    fn bulk(&self, call: &Call) -> Result<Reply, Fault> {
        let EmbedBulkIn { truncate, role, prompt_name, prompt, dimensions, partial } =
            call.parameters()?;
        if !call.upgrade {
            return Err(Fault::invalid_parameter(
                "upgrade",
                "EmbedBulk leaves Varlink: call it with `upgrade`",
            ));
        }
        let identity = self.engine.identity();
        let short = identity.cut(dimensions)?;
        let chosen =
            self.engine.prompt(&PromptRequest::read(role.as_deref(), prompt_name, prompt)?)?;
        let out = EmbedBulkOut {
            model: identity.model.clone(),
            dim: short.unwrap_or(identity.dim) as u64,
            fingerprint: identity.fingerprint_of(short),
            device: identity.device.clone(),
            mock: identity.mock,
            prompt: put_before(&chosen).map(str::to_owned),
            precision: precision(identity),
            normalized: Some(identity.normalized),
            similarity: identity.similarity.clone(),
            warnings: self.warnings(&chosen, std::iter::empty()),
        };
        let engine = Arc::clone(&self.engine);
        let treatment = Treatment {
            truncate: truncate.unwrap_or(false),
            deadline: Deadline::NEVER,
            prompt: chosen.text,
        };
        let terms = BulkTerms { treatment, cut: short, partial: partial.unwrap_or(false) };
        let uid = call.uid;
        Reply::upgrade(&out, move |upgraded| bulk::converse(upgraded, uid, engine, terms))
    }

    async fn tokenize(&self, call: &Call) -> Result<Reply, Fault> {
        let TokenizeIn { texts, role, prompt_name, prompt, offsets } = call.parameters()?;
        if texts.len() > TEXTS_MAX {
            return Err(Fault::invalid_parameter(
                "texts",
                format!("{} texts, expected at most {TEXTS_MAX}", texts.len()),
            ));
        }
        let chosen =
            self.engine.prompt(&PromptRequest::read(role.as_deref(), prompt_name, prompt)?)?;
        let prompt = Arc::clone(&chosen.text);
        let texts =
            Arc::clone(&self.engine).tokenize(texts, prompt, offsets.unwrap_or(false)).await?;
        let identity = self.engine.identity();
        Reply::of(&TokenizeOut {
            model: identity.model.clone(),
            fingerprint: identity.fingerprint.clone(),
            mock: identity.mock,
            max_tokens: self.engine.info().max_tokens,
            texts,
            prompt: put_before(&chosen).map(str::to_owned),
        })
    }

    /// The engine's own degradations, the choice of the prompt, and texts that the model hardly
    /// knows a word of.
    fn warnings<'a>(
        &self,
        chosen: &ChosenPrompt,
        done: impl Iterator<Item = &'a Embedding>,
    ) -> Option<Vec<String>> {
        let mut all = self.engine.warnings().unwrap_or_default();
        all.extend(chosen.warning.clone());
        let strange = done.filter(|one| {
            one.unknown > 0
                && one.unknown.saturating_mul(100)
                    >= looked_at(one).saturating_mul(UNKNOWN_PER_CENT)
        });
        match strange.count() {
            0 => {}
            count => all.push(format!(
                "{count} of the texts have {UNKNOWN_PER_CENT} % or more tokens that {} does not know (`unknown`): to the model they look alike",
                self.engine.identity().model
            )),
        }
        Some(all).filter(|all| !all.is_empty())
    }
}

/// Tokens that were embedded.
fn looked_at(one: &Embedding) -> u32 {
    one.kept.min(one.tokens).max(1)
}

fn put_before(chosen: &ChosenPrompt) -> Option<&str> {
    Some(&*chosen.text).filter(|text| !text.is_empty())
}

fn precision(identity: &Identity) -> Option<String> {
    Some(identity.precision.clone()).filter(|precision| !precision.is_empty())
}

fn unknown_of(index: usize, one: &Embedding) -> Option<UnknownTokens> {
    (one.unknown > 0).then_some(UnknownTokens { index: index as u64, unknown: one.unknown.into() })
}

fn failure(index: usize, fault: &Fault) -> FailedText {
    FailedText {
        index: index as u64,
        error: fault.name.to_string(),
        message: fault.message().to_owned(),
    }
}

/// What to say of bytes that are no text; a character that was cut in two at the end is none of
/// them.
fn not_utf8(seen: &[u8], is_cut: bool) -> Option<String> {
    let error = std::str::from_utf8(seen).err()?;
    if error.error_len().is_none() && is_cut {
        return None;
    }
    let at = error.valid_up_to();
    Some(format!(
        "the file is not UTF-8 text (byte {at}): what is no character was embedded as U+FFFD"
    ))
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
            "Tokenize" => self.tokenize(&call).await,
            "Info" => Reply::of(&self.engine.info()),
            _ => Err(call.unknown()),
        }
    }
}

/// The documented shape of the reply that `texts` builds by hand: a field that one of the two has
/// and the other has not does not compile.
#[expect(dead_code, reason = "holds the hand-built reply to the interface's type at compile time")]
fn shape(out: &EmbedTextOut) -> SharedReply<'_> {
    let EmbedTextOut {
        model,
        dim,
        vectors,
        cached,
        truncated,
        device,
        elapsed_us,
        fingerprint,
        mock,
        warnings,
        prompt,
        precision,
        normalized,
        unknown,
        failed,
    } = out;
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    SharedReply {
        model,
        dim: number(*dim),
        vectors: vectors.iter().map(Vec::as_slice).collect(),
        cached: number(*cached),
        truncated: truncated.clone(),
        device,
        elapsed_us: *elapsed_us,
        fingerprint: fingerprint.clone(),
        mock: *mock,
        warnings: warnings.clone(),
        prompt: prompt.as_deref(),
        precision: precision.clone(),
        normalized: *normalized,
        unknown: unknown.clone(),
        failed: failed.clone(),
    }
}

/// The first bytes of a regular file, and its length.
fn read_head(path: &str) -> Result<(Vec<u8>, u64), Fault> {
    let unreadable = |why: String| {
        Fault::of(
            &embed::error::FileUnreadable { path: path.to_owned() },
            false,
            format!("cannot read {path}: {why}"),
        )
    };
    if !Path::new(path).is_absolute() {
        return Err(Fault::invalid_parameter(
            "path",
            format!("`{path}` is relative, expected an absolute path"),
        ));
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

#[cfg(test)]
mod tests {
    use super::not_utf8;

    #[test]
    fn bytes_that_are_no_text_are_said() {
        assert_eq!(not_utf8("naïve".as_bytes(), false), None);
        assert_eq!(not_utf8(&"naï".as_bytes()[..3], true), None, "cut in two");
        assert!(
            not_utf8(&"naï".as_bytes()[..3], false).is_some_and(|said| said.contains("byte 2"))
        );
        assert!(not_utf8(b"na\xefve", true).is_some_and(|said| said.contains("UTF-8")));
    }
}
