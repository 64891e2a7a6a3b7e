//! What an index may be asked to be, and what it is where nothing is asked for.

use std::collections::HashSet;

use brahman_card::Fault;
use brahman_card::interface::index::CreateIn;
use flat_hnsw::build::Parameters;

use super::ENGINE_DEFAULT;
use crate::agent::is_recall;
use crate::chunk::{Chunker, OVERLAP_DEFAULT, SIZE_DEFAULT};
use crate::cutter::TOKENS_RANGE;
use crate::engine::{self, Engine, ParameterError};
use crate::fusion::{Fusion, Method};
use crate::generation::EF_DEFAULT;
use crate::{analyser, segment};

/// A whole number of a call within its bounds, or what stands for none.
pub(super) fn bounded(
    what: &str,
    value: Option<u64>,
    least: u64,
    most: u64,
    default: usize,
) -> Result<usize, Fault> {
    match value {
        None => Ok(default),
        Some(n) if (least..=most).contains(&n) => Ok(usize::try_from(n).unwrap_or(default)),
        Some(n) => Err(Fault::invalid_parameter(what, format!("{n}, expected {least} to {most}"))),
    }
}

/// The engine of a name, if it can build by these parameters.
pub(super) fn builder(name: &str, parameters: &Parameters) -> Result<&'static dyn Engine, Fault> {
    let engine = engine::named(name).map_err(|error| Fault::invalid_parameter("engine", error))?;
    let refused = |e: ParameterError| {
        Fault::invalid_parameter(e.parameter, format!("{}, expected {}", e.value, e.expected))
    };
    engine.check(parameters).map_err(refused)?;
    Ok(engine)
}

pub(super) fn engine(parameters: &CreateIn) -> String {
    parameters.engine.clone().unwrap_or_else(|| ENGINE_DEFAULT.into())
}

/// How a graph is built unless the index says otherwise.
pub(super) fn graph_parameters(parameters: &CreateIn) -> Parameters {
    let number = |n: Option<u64>, default: usize| {
        n.map_or(default, |n| usize::try_from(n).unwrap_or(default))
    };
    Parameters {
        m: number(parameters.m, 16),
        ef_construction: number(parameters.ef_construction, 100),
        seed: 0,
    }
}

/// Candidates a search keeps unless the index says otherwise.
pub(super) fn ef_search(parameters: &CreateIn) -> usize {
    parameters.ef_search.map_or(EF_DEFAULT, |n| usize::try_from(n).unwrap_or(EF_DEFAULT))
}

pub(super) fn sizes(parameters: &CreateIn) -> Result<(usize, usize), Fault> {
    let number = |n: Option<u64>, default: usize| {
        n.map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX))
    };
    let size = number(parameters.chunk_size, SIZE_DEFAULT);
    let overlap = number(parameters.overlap, OVERLAP_DEFAULT.min(size.saturating_sub(1)));
    Chunker::new(size, overlap).map_err(|e| Fault::invalid_parameter("chunk_size", e))?;
    Ok((size, overlap))
}

/// Everything about parameters that does not depend on the dataset.
pub(super) fn check(wanted: &CreateIn) -> Result<(), Fault> {
    sizes(wanted)?;
    if let Some(tokens) = wanted.chunk_tokens.filter(|tokens| !TOKENS_RANGE.contains(tokens)) {
        let expected =
            format!("{tokens}, expected {} to {}", TOKENS_RANGE.start(), TOKENS_RANGE.end());
        return Err(Fault::invalid_parameter("chunk_tokens", expected));
    }
    let texts =
        usize::from(wanted.text_column.is_some()) + usize::from(wanted.text_columns.is_some());
    if texts > 1 || (texts == 0 && wanted.vector_column.is_none()) {
        let message = "expected text_column, text_columns or vector_column: what is to be searched";
        return Err(Fault::invalid_parameter("text_column", message));
    }
    let bounds = [
        ("m", wanted.m, 2, 256),
        ("ef_construction", wanted.ef_construction, 4, 4096),
        ("ef_search", wanted.ef_search, 1, 65_536),
    ];
    for (name, value, least, most) in bounds {
        if value.is_some_and(|n| !(least..=most).contains(&n)) {
            return Err(Fault::invalid_parameter(
                name,
                format!("{}, expected {least} to {most}", value.unwrap_or_default()),
            ));
        }
    }
    if let Some(target) = wanted.target_recall.filter(|target| !is_recall(*target)) {
        return Err(Fault::invalid_parameter(
            "target_recall",
            format!("{target}, expected above 0, at most 1"),
        ));
    }
    if let Some(language) = &wanted.language {
        analyser::check_language(language).map_err(|e| Fault::invalid_parameter("language", e))?;
    }
    Fusion::of(None, wanted.fusion.as_ref(), Method::Weighted)
        .map_err(|e| Fault::invalid_parameter("fusion", e))?;
    builder(&engine(wanted), &graph_parameters(wanted)).map(drop)
}

/// Names of filter columns that no segment could hold, or no filter could name.
pub(super) fn check_filters(wanted: &CreateIn) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    for name in wanted.filter_columns.iter().flatten() {
        let why = if segment::OWN_NAMES.contains(&name.as_str()) {
            "is also a column of the index itself, which would hide the dataset's: rename it in the dataset"
        } else if !seen.insert(name) {
            "is named twice"
        } else if name.is_empty() || name.starts_with('$') {
            "cannot be named in a filter: rename it in the dataset"
        } else {
            continue;
        };
        return Err(Fault::invalid_parameter("filter_columns", format!("`{name}` {why}")));
    }
    Ok(())
}
