//! Whether a model's folder will do, in words: what it was read to say, what the model did when it
//! was tried, and a test of its vectors.
//!
//! A folder may bring a reference, `reference.json`: a list of `{"text": …, "vector": […]}`, made
//! by whoever trained or converted the model. Its texts are embedded without a prompt and must come
//! near.

use std::path::{Path, PathBuf};

use brahman_models::reference::{self, REFERENCE, ReferenceError};
use brahman_models::trial::TrialError;
use thiserror::Error;

use super::head::unit;
use super::pipeline::{OpenError, OpenedModel, Settings, SettingsError};

/// Least cosine to a vector of the reference, by how many bits a number has.
const COSINE_MIN: f32 = 0.9999;
const COSINE_MIN_HALF: f32 = 0.999;
const COSINE_MIN_INT8: f32 = 0.98;
/// Two sentences that mean the same, and one that has nothing to do with them.
const SENTENCES: [&str; 3] = [
    "A man is playing a guitar on the stage.",
    "Somebody plays guitar for an audience.",
    "The quarterly report is due on Friday.",
];

/// Why a model will not do.
#[derive(Debug, Error)]
pub enum CheckError {
    /// It does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The settings make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// It does not run.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// The reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The vectors are others.
    #[error("the vector of text {index} in {} has a cosine of {cosine:.5} to the model's, expected at least {least}", file.display())]
    Different {
        /// Which file.
        file: PathBuf,
        /// Place of the text in it, from 0.
        index: usize,
        /// Between the two; not a number if they have different lengths.
        cosine: f32,
        /// What would do.
        least: f32,
    },
}

/// A text and its vector, as the reference has them.
#[derive(Debug, serde::Deserialize)]
struct ReferenceText {
    text: String,
    vector: Vec<f32>,
}

/// Opens a model, tries it, and compares its vectors. Gives what was found, a line each.
///
/// # Errors
/// [`CheckError`]: why it will not do.
pub fn check(settings: &Settings) -> Result<Vec<String>, CheckError> {
    let model = OpenedModel::open(settings)?;
    let mut lines = model.description();
    lines.push(match reference::read::<ReferenceText>(&settings.model)? {
        Some((file, texts)) => compared(&model, &file, &texts)?,
        None => sensible(&model)?,
    });
    Ok(lines)
}

fn compared(
    model: &OpenedModel,
    file: &Path,
    texts: &[ReferenceText],
) -> Result<String, CheckError> {
    let bare: Vec<&str> = texts.iter().map(|one| one.text.as_str()).collect();
    let vectors = model.vectors(&bare)?;
    let least = reference::bound(model.precision(), COSINE_MIN, COSINE_MIN_HALF, COSINE_MIN_INT8);
    let mut worst = 1.0_f32;
    for (index, (one, vector)) in texts.iter().zip(&vectors).enumerate() {
        let cosine = cosine(&one.vector, vector);
        if cosine.is_nan() || cosine < least {
            return Err(CheckError::Different { file: file.to_owned(), index, cosine, least });
        }
        worst = worst.min(cosine);
    }
    Ok(format!("{} texts of {REFERENCE}: least cosine {worst:.6}", texts.len()))
}

fn sensible(model: &OpenedModel) -> Result<String, CheckError> {
    let vectors = model.vectors(&SENTENCES)?;
    let between = |a: usize, b: usize| {
        vectors.get(a).zip(vectors.get(b)).map_or(f32::NAN, |(a, b)| cosine(a, b))
    };
    let (alike, other) = (between(0, 1), between(0, 2).max(between(1, 2)));
    let verdict = if alike > other {
        ""
    } else {
        ": it tells them apart badly, as an untrained model does or one pooled in the wrong way"
    };
    Ok(format!(
        "no {REFERENCE}; two sentences that mean the same have a cosine of {alike:.3}, of another to them at most {other:.3}{verdict}"
    ))
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::NAN;
    }
    let (a, b) = (unit(a.to_vec()), unit(b.to_vec()));
    a.iter().zip(&b).map(|(x, y)| x * y).sum()
}
