//! Generations that a dataset had, and those that are kept: pins, copies, snapshots.

use brahman_card_derive::wire;

use super::{Dataset, Object};

/// A generation that a dataset had or has.
#[wire(Eq)]
pub struct Version {
    /// Number of the generation, from 1.
    pub generation: u64,
    pub run_id: String,
    #[serde(default)]
    pub rows: u64,
    /// Bytes of all objects.
    #[serde(default)]
    pub bytes: u64,
    /// Unix time of the commit.
    #[serde(default)]
    pub committed_ms: u64,
}

/// A generation that is kept until its pin is taken away, or the pin's life is over.
#[wire(Eq)]
pub struct PinnedGeneration {
    /// Name of the pin among the dataset's.
    pub pin: String,
    pub generation: u64,
    pub run_id: String,
    /// Objects of that generation, in the order of their rows.
    pub objects: Vec<Object>,
    /// Unix time at which its life is over; absent of one that stays.
    pub until_ms: Option<u64>,
    /// A folder that has the objects of that generation for as long as it is kept.
    pub folder: Option<String>,
}

/// Parameters of `Copy` and `Rename`.
#[wire]
pub struct CopyIn {
    pub name: String,
    /// Name that the copy has, or the dataset from now on.
    pub to: String,
    pub mock: Option<bool>,
}

/// Reply of `Copy` and `Rename`: the dataset of the new name.
#[wire(Eq)]
pub struct CopyOut {
    pub name: String,
    pub generation: u64,
    pub rows: u64,
    pub run_id: String,
}

#[wire]
pub struct PinIn {
    pub name: String,
    /// The present one, the one before it, or one that is pinned already.
    pub generation: Option<u64>,
    /// How long it is kept, in seconds; until it is unpinned unless said.
    pub life_s: Option<u64>,
    /// Name of the pin, by which whoever shares a generation with others tells his own: of the
    /// characters of datasets' names. The run of the generation unless said.
    pub pin: Option<String>,
    pub mock: Option<bool>,
}

#[wire]
pub struct PinOut {
    pub pin: PinnedGeneration,
}

/// An index, and which generation of its dataset it has.
#[wire(Eq)]
pub struct IndexMark {
    pub index: String,
    pub dataset: String,
    /// Number of the dataset's generation; 0 of an index that has none.
    pub generation: u64,
    pub run_id: Option<String>,
}

#[wire]
pub struct SnapshotIn {
    /// Absolute path of a folder that is there and empty.
    pub folder: String,
    /// The indexes that go into the same backup; no others are fed by what is written. If it is not
    /// given, all that are fed stay so.
    pub indexes: Option<Vec<IndexMark>>,
    /// How long the pins last if nobody takes them away, in seconds; a day unless said.
    pub life_s: Option<u64>,
}

#[wire]
pub struct SnapshotOut {
    /// Name of the pins, for `Unpin`.
    pub pin: String,
    /// As they are at that moment, with the paths of their objects.
    pub datasets: Vec<Dataset>,
    /// What is not in it as it should be: damaged files, datasets that are lost.
    pub notes: Option<Vec<String>>,
}

#[wire]
pub struct UnpinIn {
    pub name: String,
    pub generation: Option<u64>,
    pub pin: Option<String>,
    pub mock: Option<bool>,
}

#[wire]
pub struct UnpinOut {
    /// How many pins were taken away; none is no error.
    pub unpinned: u64,
}
