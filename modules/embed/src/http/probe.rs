//! What a server does with known texts: asked once before anything is offered, and compared with
//! what it did at first.
//!
//! Invariant: a server whose answers cannot be right (a vector of nothing, all texts alike, one
//! text unlike itself, an order of its own) is not used.

use brahman_sidecar::{Deadline, chain};

use super::error::{ProbeError, ServerError};
use super::server::{ATTEMPTS, Server};
use crate::real::cache::is_sound;
use crate::real::head::unit;

/// The text whose vector is kept, and one of another meaning.
const TEXT: &str = "The quick brown fox jumps over the lazy dog.";
const OTHER: &str = "Quarterly revenue grew by four per cent in Europe.";
/// Words of a text that is longer than the windows of most models, 512 to 8,192 tokens.
const LONG_WORDS: usize = 12_000;
/// Two vectors of length 1 of the same text may be so far apart: half precision, and batches of
/// other sizes.
const APART_MAX: f32 = 0.1;
/// Two texts with a larger cosine are the same to a model.
const ALIKE: f32 = 0.9999;
/// Least cosine of a known text's vectors of two days, which differ by what [`APART_MAX`] allows.
const COSINE_MIN: f32 = 0.99;

/// What becomes of a text that is longer than the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LongTexts {
    /// It is refused.
    Refused,
    /// Its end is left out, and nothing is said.
    Cut,
    /// All of it counts: the window is longer than what was tried.
    Whole,
    /// There was no answer in time.
    Untried,
}

impl LongTexts {
    /// As replies have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Cut => "cut",
            Self::Whole => "whole",
            Self::Untried => "untried",
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeReport {
    /// The known text's vector, of length 1.
    pub vector: Vec<f32>,
    /// Whether vectors came with length 1.
    pub is_unit: bool,
    /// How far apart the known text's two vectors were, of length 1 each.
    pub distance: f32,
    /// What became of a long text.
    pub long_texts: LongTexts,
}

/// Asks for known texts, and looks whether the answers can be right. What becomes of long ones,
/// which cost most, is asked only if it is not known from earlier.
///
/// # Errors
/// [`ProbeError`].
pub async fn probe(
    server: &Server,
    known_long: Option<LongTexts>,
) -> Result<ProbeReport, ProbeError> {
    let (first, is_unit) = known(server, &[TEXT]).await?;
    let (both, _) = known(server, &[OTHER, TEXT]).await?;
    let ([alone], [other, beside]) = (first.as_slice(), both.as_slice()) else {
        return Err(ProbeError::NoNumbers);
    };
    if alone.len() != beside.len() {
        let (url, model) = (server.url(), server.model().to_owned());
        return Err(ServerError::Dimension {
            url,
            model,
            got: beside.len(),
            expected: alone.len(),
        }
        .into());
    }
    if cosine(other, beside) > ALIKE {
        return Err(ProbeError::Constant);
    }
    let apart = distance(alone, beside);
    if distance(alone, other) < apart {
        return Err(ProbeError::Order);
    }
    if apart.is_nan() || apart > APART_MAX {
        return Err(ProbeError::Unstable { distance: apart, most: APART_MAX });
    }
    let long_texts = match known_long.filter(|known| *known != LongTexts::Untried) {
        Some(known) => known,
        None => long_texts(server).await?,
    };
    Ok(ProbeReport { vector: alone.clone(), is_unit, distance: apart, long_texts })
}

/// Whether a known text still has the vector that it had: the model behind the name is then the
/// same.
///
/// # Errors
/// [`ServerError::Dimension`] or [`ServerError::OtherModel`] if it is not; else why that is not
/// known.
pub async fn compare(
    server: &Server,
    before: &[f32],
    attempts: u32,
    deadline: Deadline,
) -> Result<(), ServerError> {
    let answer = server.vectors(&[TEXT.to_owned()], false, deadline, attempts).await?;
    let now = unit(answer.vectors.into_iter().next().unwrap_or_default());
    is_same(server, before, &now)
}

/// The same of a vector that is there.
///
/// # Errors
/// [`ServerError::Dimension`] or [`ServerError::OtherModel`].
pub fn is_same(server: &Server, before: &[f32], now: &[f32]) -> Result<(), ServerError> {
    let (url, model) = (server.url(), server.model().to_owned());
    if before.len() != now.len() {
        return Err(ServerError::Dimension { url, model, got: now.len(), expected: before.len() });
    }
    let cosine = cosine(before, now);
    if cosine.is_nan() || cosine < COSINE_MIN {
        return Err(ServerError::OtherModel { url, model, cosine });
    }
    Ok(())
}

/// Vectors of known texts, scaled to length 1, and whether they came so.
async fn known(server: &Server, texts: &[&str]) -> Result<(Vec<Vec<f32>>, bool), ProbeError> {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    let deadline = Deadline::within(server.settings().timeout * 2);
    let answer = server.vectors(&texts, false, deadline, ATTEMPTS).await?;
    if !answer.vectors.iter().all(|vector| is_sound(vector, false)) {
        return Err(ProbeError::NoNumbers);
    }
    let lengths: Vec<usize> = answer.vectors.iter().map(Vec::len).collect();
    if let Some(got) = lengths.iter().find(|length| **length != lengths[0]) {
        let (url, model) = (server.url(), server.model().to_owned());
        return Err(ServerError::Dimension { url, model, got: *got, expected: lengths[0] }.into());
    }
    let is_unit = answer.vectors.iter().all(|vector| is_sound(vector, true));
    Ok((answer.vectors.into_iter().map(unit).collect(), is_unit))
}

/// Two long texts that differ in their ends: whether that shows.
async fn long_texts(server: &Server) -> Result<LongTexts, ServerError> {
    let begin = "word ".repeat(LONG_WORDS);
    let mut vectors = Vec::with_capacity(2);
    for end in [TEXT, OTHER] {
        let deadline = Deadline::within(server.settings().timeout);
        match server.vectors(&[format!("{begin}{}", end.repeat(8))], false, deadline, 1).await {
            Ok(answer) => vectors.extend(answer.vectors.into_iter().map(unit)),
            Err(ServerError::Refused { .. }) => return Ok(LongTexts::Refused),
            Err(error @ ServerError::Denied { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!("what becomes of long texts is not known: {}", chain(&error));
                return Ok(LongTexts::Untried);
            }
        }
    }
    let [one, other] = vectors.as_slice() else { return Ok(LongTexts::Untried) };
    // Rounding differs from call to call; what eight sentences add to a long text is more than
    // that.
    Ok(if cosine(one, other) > 1.0 - 1e-6 { LongTexts::Cut } else { LongTexts::Whole })
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() { f32::NAN } else { a.iter().zip(b).map(|(a, b)| a * b).sum() }
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        f32::NAN
    } else {
        a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
    }
}
