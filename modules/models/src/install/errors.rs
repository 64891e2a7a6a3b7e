//! Why a model was not brought into the cache.

use std::io;
use std::path::PathBuf;

use brahman_card::names::NameError;
use thiserror::Error;

use crate::hub::HubError;
use crate::layout::LayoutError;
use crate::published::PublishedError;
use crate::quantize::QuantizeError;
use crate::selection::SelectionError;

/// Why a model was not brought into the cache.
#[derive(Debug, Error)]
pub enum InstallError {
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Nothing is published under that name.
    #[error(transparent)]
    Published(#[from] PublishedError),
    /// There is no model in the files.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// A file is not what it was pinned to, or the folder cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The name will not do.
    #[error("{flaw}; --name gives it another")]
    Name {
        /// What is wrong with it.
        flaw: NameError,
    },
    /// Another model has the name.
    #[error(
        "the name {name} is taken by another model ({}, {of}): --name gives this one another, `brahman models remove {name}` frees it",
        .path.display()
    )]
    Taken {
        /// The name.
        name: String,
        /// The other model's folder.
        path: PathBuf,
        /// Where that came from.
        of: String,
    },
    /// The one of 8 bits would take the place of what it is made of.
    #[error(
        "{name} is the model that is to be quantised, and stays as it is: --name gives the one of 8 bits another name, without it that is {other}"
    )]
    Itself {
        /// The name of both.
        name: String,
        /// The name that it would have by itself.
        other: String,
    },
    /// The list and the files differ.
    #[error(
        "fastembed's list says that {name} is pooled by {listed}, and the files of {repository} say {found}: one of them is wrong, so it \
         was not taken; `brahman models pull {repository}` goes by the files alone"
    )]
    Contradiction {
        /// The model.
        name: String,
        /// The repository.
        repository: String,
        /// What the list says.
        listed: String,
        /// What the files say.
        found: String,
    },
    /// The commit that a model is pinned to has another file than when it was pinned.
    #[error(
        "{file} has sha256 {found}, and {pinned} when the model was pinned: it is not what it was and was not used; `--force` takes the \
         newest revision"
    )]
    Repinned {
        /// Which file.
        file: String,
        /// What it is.
        found: String,
        /// What it was.
        pinned: String,
    },
    /// A person's own folder, as which no module can serve it.
    #[error("{why}; it was not added")]
    Unservable {
        /// Why not, and what to do.
        why: String,
    },
    /// It is not made one of 8 bits.
    #[error("{}", .path.display())]
    Quantize {
        /// The graph.
        path: PathBuf,
        /// Why not.
        #[source]
        source: QuantizeError,
    },
    /// There is no such model.
    #[error("no model called `{name}` is in {}; `brahman models list` shows what is", .models.display())]
    NoModel {
        /// The name.
        name: String,
        /// The folder of all models.
        models: PathBuf,
    },
    /// What is there was not put there by `pull` or `add`.
    #[error("{} has no brahman.json: it was not put there by `brahman models`, and was not removed", .path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest is no JSON, or has fields that are not known.
    #[error("{}", .path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The cache cannot be used.
    #[error("{}", .path.display())]
    Cache {
        /// Which file or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl InstallError {
    /// Whether what was named does not exist.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        match self {
            Self::Hub(error) => error.is_absence(),
            Self::Published(_) | Self::NoModel { .. } => true,
            _ => false,
        }
    }

    /// Whether the same may go well in a while.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Hub(error) if error.is_transient())
    }

    /// Whether what was named cannot be used, whoever asks and whenever.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Selection(_) | Self::Layout(_) => true,
            Self::Name { .. }
            | Self::Quantize { .. }
            | Self::Taken { .. }
            | Self::Itself { .. }
            | Self::Manifest { .. }
            | Self::Unservable { .. } => true,
            // The folder that was to be added.
            Self::Cache { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}
