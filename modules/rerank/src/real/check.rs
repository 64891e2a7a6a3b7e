//! Whether a model's folder will do, in words: what it was read to say, what the model did when it was tried, and a test of its scores.
//!
//! A folder may bring a reference, `reference.json`: a list of `{"query": …, "text": …, "score": …}`, made by whoever trained or converted
//! the model. Its pairs are scored and must come near.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::pipeline::{OpenError, OpenedModel, Settings, SettingsError};
use super::probe::ProbeError;

/// The reference's file in a model's folder.
const REFERENCE: &str = "reference.json";
/// How far a score may be from the reference's, in parts of the larger of it and 1, by how many bits a number has.
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
    Probe(#[from] ProbeError),
    /// The reference cannot be read.
    #[error("{}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The reference is none.
    #[error("{}", file.display())]
    Malformed {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
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
    lines.push(match reference(&settings.model)? {
        Some((file, pairs)) => compared(&model, &file, &pairs)?,
        None => sensible(&model)?,
    });
    Ok(lines)
}

fn reference(folder: &Path) -> Result<Option<(PathBuf, Vec<ReferencePair>)>, CheckError> {
    let file = folder.join(REFERENCE);
    match fs::read(&file) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(pairs) => Ok(Some((file, pairs))),
            Err(source) => Err(CheckError::Malformed { file, source }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CheckError::Unreadable { file, source }),
    }
}

fn compared(model: &OpenedModel, file: &Path, pairs: &[ReferencePair]) -> Result<String, CheckError> {
    let most = match model.precision() {
        "fp32" => APART_MAX,
        "fp16" | "bf16" | "matmul-nbits" => APART_MAX_HALF,
        _ => APART_MAX_INT8,
    };
    let mut worst = 0.0_f32;
    for (index, pair) in pairs.iter().enumerate() {
        let found = model.score(&pair.query, &pair.text)?;
        let apart = (found - pair.score).abs() / pair.score.abs().max(1.0);
        if apart.is_nan() || apart > most {
            return Err(CheckError::Different { file: file.to_owned(), index, expected: pair.score, found });
        }
        worst = worst.max(apart);
    }
    Ok(format!("{} pairs of {REFERENCE}: largest difference {worst:.1e}", pairs.len()))
}

fn sensible(model: &OpenedModel) -> Result<String, CheckError> {
    let (answer, other) = (model.score(QUERY, ANSWER)?, model.score(QUERY, OTHER)?);
    let verdict = if answer > other { "" } else { ": it tells them apart badly, as an untrained model does" };
    Ok(format!("no {REFERENCE}; a question's answer has a score of {answer:.3}, something else one of {other:.3}{verdict}"))
}
