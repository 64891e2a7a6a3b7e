//! The layers of Cards: folders that are merged by label, the first before the others, and the
//! Cards that the program was built with below all of them.
//!
//! As with systemd's units, a Card of one's own adds one or takes the place of the one of its
//! label, and hides no other; an empty file, or a link to /dev/null, of the name `LABEL.toml` masks
//! the Card of that label in the layers below. Invariants: what is left aside is given back with
//! what took its place; a folder that was asked for by name stands alone.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use brahman_card::card::{CARD_BYTES_MAX, Payload};
use brahman_card::{Card, CardError};

use super::{program, refusal};

/// Most Cards a folder may hold.
pub(super) const CARDS_MAX: usize = 256;

/// How the origin of a built-in Card begins.
const BUILT_IN_ORIGIN: &str = "(built in) ";

/// The shipped Cards, for a program that runs without installed ones, such as one from a checkout.
const BUILT_IN: [(&str, &str); 14] = [
    ("broker.toml", include_str!("../../../../packaging/cards/broker.toml")),
    ("catalog.toml", include_str!("../../../../packaging/cards/catalog.toml")),
    ("embed-mock.toml", include_str!("../../../../packaging/cards/embed-mock.toml")),
    ("embed-real.toml", include_str!("../../../../packaging/cards/embed-real.toml")),
    ("gateway.toml", include_str!("../../../../packaging/cards/gateway.toml")),
    ("index-mock.toml", include_str!("../../../../packaging/cards/index-mock.toml")),
    ("index.toml", include_str!("../../../../packaging/cards/index.toml")),
    ("ingest-mock.toml", include_str!("../../../../packaging/cards/ingest-mock.toml")),
    ("ingest.toml", include_str!("../../../../packaging/cards/ingest.toml")),
    ("profiles.toml", include_str!("../../../../packaging/cards/profiles.toml")),
    ("rerank-mock.toml", include_str!("../../../../packaging/cards/rerank-mock.toml")),
    ("rerank-real.toml", include_str!("../../../../packaging/cards/rerank-real.toml")),
    ("score-mock.toml", include_str!("../../../../packaging/cards/score-mock.toml")),
    ("score-real.toml", include_str!("../../../../packaging/cards/score-real.toml")),
];

/// Where Cards are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CardSource {
    /// The folder that was asked for by name, which has to be there.
    Asked(PathBuf),
    /// A folder that counts if it is there.
    Folder(PathBuf),
    /// The Cards that this program was built with. Those whose program is not on this machine are
    /// left out.
    BuiltIn,
}

impl fmt::Display for CardSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(folder) | Self::Folder(folder) if folder.is_dir() => {
                write!(f, "{}", folder.display())
            }
            Self::Asked(folder) | Self::Folder(folder) => {
                write!(f, "{} (not there)", folder.display())
            }
            Self::BuiltIn => f.write_str("the built-in Cards"),
        }
    }
}

/// A Card and the file it was read from.
#[derive(Clone, Debug)]
pub struct FoundCard {
    /// The file that it was read from, or words that say that it is built in.
    pub origin: String,
    /// The Card that it holds.
    pub card: Card,
}

impl FoundCard {
    /// Where it came from: the folder, or that it is built in.
    #[must_use]
    pub fn layer(&self) -> &str {
        layer_of(&self.origin)
    }
}

/// The folder of a Card's origin, or that it is built in.
#[must_use]
pub fn layer_of(origin: &str) -> &str {
    match Path::new(origin).parent().and_then(Path::to_str) {
        _ if origin.starts_with(BUILT_IN_ORIGIN) => "built in",
        Some(folder) if !folder.is_empty() => folder,
        _ => ".",
    }
}

/// A Card that is left aside.
#[derive(Clone, Debug)]
pub struct ReplacedCard {
    /// The Card, and where it lies.
    pub found: FoundCard,
    /// The file that counts in its place, or that masks it.
    pub by: String,
}

/// A file that takes the Card of a label away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// The file.
    pub origin: String,
    /// The label, which is the file's name.
    pub label: String,
}

/// What lies in the layers of Cards.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Good Cards, by file name, the first layer first.
    pub cards: Vec<FoundCard>,
    /// Every Card that was refused, and why.
    pub errors: Vec<CardError>,
    /// Files left aside because an earlier layer has Cards of that label, or masks it.
    pub replaced: Vec<ReplacedCard>,
    /// Files that mask the Card of a label.
    pub masks: Vec<Mask>,
    /// Built-in Cards whose program is not on this machine.
    pub absent: Vec<FoundCard>,
}

/// What one file of a layer is.
enum LayerFile {
    Mask(Mask),
    Card(Box<FoundCard>),
    Bad { label: String, error: CardError },
}

impl Reading {
    /// Puts a layer below those that were read.
    fn put_below(&mut self, layer: Vec<LayerFile>) {
        // Of the layers above alone: Cards of one label in one folder are replicas of one another.
        let masked = self.masks.iter().map(|mask| (mask.label.clone(), mask.origin.clone()));
        let taken: BTreeMap<String, String> = masked
            .chain(
                self.cards.iter().map(|found| (found.card.label.to_string(), found.origin.clone())),
            )
            .collect();
        for file in layer {
            match file {
                LayerFile::Mask(mask) => self.masks.push(mask),
                LayerFile::Card(found) => match taken.get(found.card.label.as_str()) {
                    Some(by) => self.replaced.push(ReplacedCard { found: *found, by: by.clone() }),
                    None if self.cards.len() >= CARDS_MAX => {
                        self.errors.push(refusal(
                            &found,
                            "(file)",
                            format!("expected at most {CARDS_MAX} Cards"),
                        ));
                    }
                    None => self.cards.push(*found),
                },
                // What is left aside need not be a good Card.
                LayerFile::Bad { label, .. } if taken.contains_key(&label) => {}
                LayerFile::Bad { error, .. } => self.errors.push(error),
            }
        }
    }
}

/// The sources that count, the first before the others: `--cards` or `$BRAHMAN_CARDS` alone, if
/// given; else `$XDG_CONFIG_HOME/brahman/cards` (or `~/.config`), `/etc/brahman/cards`, the Cards
/// installed beside this program, and the built-in ones.
#[must_use]
pub fn sources(asked: Option<&Path>) -> Vec<CardSource> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(alone) = asked.map(Path::to_owned).or_else(|| set("BRAHMAN_CARDS")) {
        return vec![CardSource::Asked(std::path::absolute(&alone).unwrap_or(alone))];
    }
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let beside = env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.parent()?.join("share/brahman/cards")));
    let folders =
        [config.map(|c| c.join("brahman/cards")), Some("/etc/brahman/cards".into()), beside];
    folders.into_iter().flatten().map(CardSource::Folder).chain([CardSource::BuiltIn]).collect()
}

/// Every place that Cards are looked for, for a message.
#[must_use]
pub fn looked_at(sources: &[CardSource]) -> String {
    sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Every Card of these sources, merged by label.
///
/// # Errors
/// If a folder that is there cannot be read, or the one asked for is not there, with its path.
pub fn read(sources: &[CardSource]) -> Result<Reading, (PathBuf, io::Error)> {
    let mut reading = Reading::default();
    for source in sources {
        match source {
            CardSource::Folder(folder) if !folder.is_dir() => {}
            CardSource::Asked(folder) | CardSource::Folder(folder) => {
                let files = files(folder).map_err(|error| (folder.clone(), error))?;
                reading.put_below(files.iter().map(|path| layer_file(path)).collect());
            }
            CardSource::BuiltIn => {
                let (cards, absent): (Vec<_>, Vec<_>) =
                    built_in().into_iter().partition(is_runnable);
                reading.put_below(cards);
                let absent = absent.into_iter().filter_map(|file| {
                    if let LayerFile::Card(found) = file { Some(*found) } else { None }
                });
                let named: Vec<String> =
                    reading.cards.iter().map(|found| found.card.label.to_string()).collect();
                reading.absent = absent
                    .filter(|found| !named.iter().any(|label| label == found.card.label.as_str()))
                    .collect();
            }
        }
    }
    Ok(reading)
}

fn built_in() -> Vec<LayerFile> {
    let file = |(name, text): &(&str, &str)| {
        let origin = format!("{BUILT_IN_ORIGIN}{name}");
        let label = name.trim_end_matches(".toml").to_owned();
        match Card::parse(&origin, text.as_bytes()) {
            Ok(card) => LayerFile::Card(Box::new(FoundCard { origin, card })),
            Err(error) => LayerFile::Bad { label, error },
        }
    };
    BUILT_IN.iter().map(file).collect()
}

/// Whether a built-in Card's program is there.
fn is_runnable(file: &LayerFile) -> bool {
    match file {
        LayerFile::Card(found) => match &found.card.payload {
            Payload::Native(native) => program(native).is_ok(),
            Payload::Virtual => true,
        },
        _ => true,
    }
}

fn layer_file(path: &Path) -> LayerFile {
    let label = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if is_mask(path) {
        return LayerFile::Mask(Mask { origin: path.display().to_string(), label });
    }
    match read_one(path) {
        Ok(found) => LayerFile::Card(Box::new(found)),
        Err(error) => LayerFile::Bad { label, error },
    }
}

/// Whether a file masks the Card that has its name: it is empty, or a link to /dev/null.
fn is_mask(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0)
        || fs::canonicalize(path).is_ok_and(|real| real == Path::new("/dev/null"))
}

/// The files of a folder that are Cards by their names, in order.
///
/// # Errors
/// As `readdir` gives them.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "toml" || e == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// One file.
///
/// # Errors
/// What is wrong with it, or that it could not be read.
pub fn read_one(path: &Path) -> Result<FoundCard, CardError> {
    let origin = path.display().to_string();
    let text = bounded(path).map_err(|e| CardError {
        origin: origin.clone(),
        field: "(file)".into(),
        expected: e.to_string(),
    })?;
    let card = Card::parse(&origin, &text)?;
    Ok(FoundCard { origin, card })
}

/// What a file holds, up to a byte more than a Card may have: a pipe or a device that has the name
/// of one is not waited for.
fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file, expected TOML or JSON"));
    }
    let mut text = Vec::new();
    fs::File::open(path)?.take(CARD_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(label: &str, mock: bool) -> String {
        format!("schema_version = 1\nlabel = \"{label}\"\nmock = {mock}\npayload = \"virtual\"\n")
    }

    /// Folders with files, the first before the others.
    fn layers(files: &[(usize, &str, String)]) -> (tempfile::TempDir, Vec<CardSource>) {
        let outer = tempfile::tempdir().expect("a temporary directory");
        let folders = ["one", "two", "three"].map(|name| outer.path().join(name));
        for (at, name, text) in files {
            fs::create_dir_all(&folders[*at]).expect("made");
            fs::write(folders[*at].join(name), text).expect("written");
        }
        (outer, folders.map(CardSource::Folder).to_vec())
    }

    #[test]
    fn folders_are_layered_and_the_first_wins() {
        let files = [
            (0, "a.toml", card("a", true)),
            (1, "a.toml", card("a", false)),
            (1, "b.toml", card("b", false)),
        ];
        let (outer, sources) = layers(&files);
        let reading = read(&sources).expect("read");
        let cards: Vec<(&str, bool)> =
            reading.cards.iter().map(|f| (f.card.label.as_str(), f.card.mock)).collect();
        assert_eq!(
            (cards, reading.errors.len(), reading.replaced.len()),
            (vec![("a", true), ("b", false)], 0, 1)
        );
        assert_eq!(reading.replaced[0].by, outer.path().join("one/a.toml").display().to_string());
        assert_eq!(reading.cards[1].layer(), outer.path().join("two").display().to_string());
        let none = outer.path().join("none");
        assert_eq!(read(&[CardSource::Asked(none.clone())]).expect_err("not there").0, none);
        assert!(
            looked_at(&[CardSource::Folder(none), CardSource::BuiltIn])
                .ends_with("none (not there), the built-in Cards")
        );
    }

    #[test]
    fn an_empty_file_or_a_link_to_dev_null_masks_the_card_of_its_name_in_the_layers_below() {
        let files = [
            (0, "a.toml", String::new()),
            (1, "a.toml", card("a", false)),
            (1, "b.toml", card("b", false)),
            (1, "c.toml", card("c", false)),
            (2, "a.toml", "no Card at all".to_owned()),
            (2, "b.toml", card("b", false)),
        ];
        let (outer, sources) = layers(&files);
        std::os::unix::fs::symlink("/dev/null", outer.path().join("one/c.toml")).expect("linked");
        let reading = read(&sources).expect("read");
        assert_eq!(reading.cards.iter().map(|f| f.card.label.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(reading.masks.iter().map(|m| m.label.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert!(
            reading.errors.is_empty(),
            "what is masked need not be a good Card: {:?}",
            reading.errors
        );
        assert_eq!(reading.replaced.len(), 3);
    }

    #[test]
    fn the_built_in_cards_are_those_that_are_shipped() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/cards");
        let shipped: Vec<(String, String)> = files(&folder)
            .expect("the shipped Cards")
            .iter()
            .map(|path| {
                (
                    path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                    fs::read_to_string(path).expect("read"),
                )
            })
            .collect();
        assert_eq!(shipped, BUILT_IN.map(|(name, text)| (name.to_owned(), text.to_owned())));
        assert!(built_in().iter().all(|file| matches!(file, LayerFile::Card(_))));
        // No program of theirs lies beside a test.
        let reading = read(&[CardSource::BuiltIn]).expect("read");
        assert_eq!(reading.cards.len() + reading.absent.len(), BUILT_IN.len());
        assert!(reading.absent.iter().all(|found| found.layer() == "built in"));
    }
}
