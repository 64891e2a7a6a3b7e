//! Whether a model's folder will do, in words: what it was read to say, what the model did when it
//! was tried, and a test of its scores.
//!
//! A folder may bring a reference, `reference.json`: a list of
//! `{"query": …, "text": …, "score": …}`, made by whoever trained or converted the model. Its pairs
//! are scored and must come near.

use std::path::{Path, PathBuf};

use brahman_models::reference::{self, REFERENCE, ReferenceError};
use brahman_models::trial::TrialError;
use thiserror::Error;

use super::pipeline::{OpenError, OpenedModel, Settings, SettingsError};

/// How far a score may be from the reference's, in parts of the larger of it and 1, by how many
/// bits a number has.
const APART_MAX: f32 = 1e-3;
const APART_MAX_HALF: f32 = 2e-2;
const APART_MAX_INT8: f32 = 2e-1;
/// A question, its answer, and something else.
const QUERY: &str = "How many people live in Berlin?";
const ANSWER: &str = "Berlin has a population of some 3.7 million.";
const OTHER: &str = "The quarterly report is due on Friday.";

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
    /// The scores are others.
    #[error("pair {index} in {} has a score of {expected}, and the model gives {found}", file.display())]
    Different {
        /// Which file.
        file: PathBuf,
        /// Place of the pair in it, from 0.
        index: usize,
        /// In the reference.
        expected: f32,
        /// By the model.
        found: f32,
    },
}

/// A pair and its score, as the reference has them.
#[derive(Debug, serde::Deserialize)]
struct ReferencePair {
    query: String,
    text: String,
    score: f32,
}

/// Opens a model, tries it, and compares its scores. Gives what was found, a line each.
///
/// # Errors
/// [`CheckError`]: why it will not do.
pub fn check(settings: &Settings) -> Result<Vec<String>, CheckError> {
    let model = OpenedModel::open(settings)?;
    let mut lines = model.description();
    lines.push(match reference::read::<ReferencePair>(&settings.model)? {
        Some((file, pairs)) => compared(&model, &file, &pairs)?,
        None => sensible(&model)?,
    });
    Ok(lines)
}

fn compared(
    model: &OpenedModel,
    file: &Path,
    pairs: &[ReferencePair],
) -> Result<String, CheckError> {
    let most = reference::bound(model.precision(), APART_MAX, APART_MAX_HALF, APART_MAX_INT8);
    let mut worst = 0.0_f32;
    for (index, pair) in pairs.iter().enumerate() {
        let found = model.score(&pair.query, &pair.text)?;
        let apart = (found - pair.score).abs() / pair.score.abs().max(1.0);
        if apart.is_nan() || apart > most {
            return Err(CheckError::Different {
                file: file.to_owned(),
                index,
                expected: pair.score,
                found,
            });
        }
        worst = worst.max(apart);
    }
    Ok(format!("{} pairs of {REFERENCE}: largest difference {worst:.1e}", pairs.len()))
}

fn sensible(model: &OpenedModel) -> Result<String, CheckError> {
    let (answer, other) = (model.score(QUERY, ANSWER)?, model.score(QUERY, OTHER)?);
    let verdict =
        if answer > other { "" } else { ": it tells them apart badly, as an untrained model does" };
    Ok(format!(
        "no {REFERENCE}; a question's answer has a score of {answer:.3}, something else one of {other:.3}{verdict}"
    ))
}
