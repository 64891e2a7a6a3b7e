//! The Cards on disk: where they are looked for, and what is wrong with them, alone and beside one another.
//!
//! `brahman-init` starts what this finds, and `brahman check` says what this finds: there is one rule for both.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use brahman_card::card::{CARD_BYTES_MAX, Native, Payload, SOCKET_PATH_BYTES_MAX, cycles, satisfies};
use brahman_card::interface::broker;
use brahman_card::{Card, CardError};
use thiserror::Error;

/// Most Cards a folder may hold.
const CARDS_MAX: usize = 256;

/// A Card and the file it was read from.
#[derive(Clone, Debug)]
pub struct FoundCard {
    /// The file that it was read from.
    pub origin: String,
    /// The Card that it holds.
    pub card: Card,
}

/// What lies in folders of Cards.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Good Cards, by file name, the first folder first.
    pub cards: Vec<FoundCard>,
    /// Every Card that was refused, and why.
    pub errors: Vec<CardError>,
    /// Files left aside because an earlier folder has Cards of that label.
    pub replaced: Vec<FoundCard>,
}

/// The folders that count, the first before the others: `--cards` or `$BRAHMAN_CARDS` alone, if given; else those that are
/// there of `$XDG_CONFIG_HOME/brahman/cards` (or `~/.config`), `/etc/brahman/cards` and the Cards installed beside this
/// program.
#[must_use]
pub fn folders(asked: Option<&Path>) -> Vec<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(alone) = asked.map(Path::to_owned).or_else(|| set("BRAHMAN_CARDS")) {
        return vec![alone];
    }
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.join("share/brahman/cards")));
    let candidates = [config.map(|c| c.join("brahman/cards")), Some("/etc/brahman/cards".into()), beside];
    let there: Vec<PathBuf> = candidates.into_iter().flatten().filter(|folder| folder.is_dir()).collect();
    if there.is_empty() { vec![PathBuf::from("/etc/brahman/cards")] } else { there }
}

/// The folder where a person's own Cards lie, for a program that writes one: the one that was asked for, else `$BRAHMAN_CARDS`, else
/// `$XDG_CONFIG_HOME/brahman/cards` (or `~/.config`), else, without a home, `/etc/brahman/cards`. It may have yet to be made.
#[must_use]
pub fn own_folder(asked: Option<&Path>) -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let config = || set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config"))).map(|c| c.join("brahman/cards"));
    asked.map(Path::to_owned).or_else(|| set("BRAHMAN_CARDS")).or_else(config).unwrap_or_else(|| "/etc/brahman/cards".into())
}

/// Every Card of these folders; one of a label that an earlier folder has is left aside.
///
/// # Errors
/// If a folder itself cannot be read, with its path.
pub fn read(folders: &[PathBuf]) -> Result<Reading, (PathBuf, io::Error)> {
    let mut reading = Reading::default();
    for folder in folders {
        let paths = files(folder).map_err(|error| (folder.clone(), error))?;
        let taken: BTreeSet<String> = reading.cards.iter().map(|found| found.card.label.to_string()).collect();
        for path in paths {
            match read_one(&path) {
                Ok(found) if taken.contains(found.card.label.as_str()) => reading.replaced.push(found),
                Ok(found) if reading.cards.len() >= CARDS_MAX => {
                    reading.errors.push(refusal(&found, "(file)", format!("expected at most {CARDS_MAX} Cards")));
                }
                Ok(found) => reading.cards.push(found),
                Err(error) => reading.errors.push(error),
            }
        }
    }
    Ok(reading)
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
    let text = bounded(path).map_err(|e| CardError { origin: origin.clone(), field: "(file)".into(), expected: e.to_string() })?;
    let card = Card::parse(&origin, &text)?;
    Ok(FoundCard { origin, card })
}

/// What a file holds, up to a byte more than a Card may have: a pipe or a device that has the name of one is not waited for.
fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file, expected TOML or JSON"));
    }
    let mut text = Vec::new();
    fs::File::open(path)?.take(CARD_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Path of the socket that a module answers on. A Card that offers the broker's interface has the mesh socket.
#[must_use]
pub fn socket_path(card: &Card, mesh: &Path) -> PathBuf {
    if card.offered_interfaces().any(|interface| interface == broker::INTERFACE.name) {
        mesh.to_owned()
    } else {
        mesh.with_file_name("").join(card.socket_name())
    }
}

/// What must not stand beside one another, or beside the mesh's own files: equal ids, equal sockets, sockets of programs
/// that init starts outside the run folder, and paths that the kernel would not take.
#[must_use]
pub fn collisions(cards: &[FoundCard], mesh: &Path) -> Vec<CardError> {
    let mut errors = Vec::new();
    for (i, found) in cards.iter().enumerate() {
        let card = &found.card;
        let path = socket_path(card, mesh);
        if let Some(why) = misplaced(card, mesh) {
            errors.push(refusal(found, "service_socket", why));
        }
        if let Some(other) = cards[..i].iter().find(|other| other.card.id == card.id || socket_path(&other.card, mesh) == path) {
            let why = format!(
                "same {} as `{}` in {}; a replica needs a `service_socket` of its own",
                if path == *mesh { "interface of the broker" } else { "id or socket" },
                other.card.label,
                other.origin
            );
            errors.push(refusal(found, "service_socket", why));
        }
    }
    errors
}

/// Why a module may not have the socket that its Card says; none if it may.
fn misplaced(card: &Card, mesh: &Path) -> Option<String> {
    let path = socket_path(card, mesh);
    if path == *mesh && card.offered_interfaces().any(|interface| interface == broker::INTERFACE.name) {
        return None;
    }
    let own = ["init.sock", "notify.sock", "init.lock", "context", "context.tmp"].map(|name| mesh.with_file_name(name));
    if path == *mesh || own.contains(&path) {
        return Some(format!("{} is a file of the mesh's own, expected another name", path.display()));
    }
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Some(format!("{} is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a socket's path may have", path.display()));
    }
    // The module itself binds the socket of a virtual one.
    let started = matches!(card.payload, Payload::Native(_));
    let run = mesh.parent().unwrap_or(Path::new("/"));
    if started && !path.parent().is_some_and(|folder| same_folder(folder, run)) {
        return Some(format!("{} is outside the run folder {}, expected a file name", path.display(), run.display()));
    }
    None
}

fn same_folder(a: &Path, b: &Path) -> bool {
    a == b || fs::canonicalize(a).is_ok_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
}

/// Whether a Card that was brought over a connection may stand beside these, which came from files.
///
/// # Errors
/// What is wrong with it.
pub fn may_attach<'a>(card: &Card, loaded: impl IntoIterator<Item = &'a Card>, mesh: &Path) -> Result<(), CardError> {
    let fail = |field: &str, expected: String| Err(CardError { origin: "card.json".into(), field: field.into(), expected });
    if !matches!(card.payload, Payload::Virtual) {
        return fail("payload", "a Card that is brought by its module is `virtual`: init did not start it".into());
    }
    if card.offered_interfaces().any(|interface| interface == broker::INTERFACE.name) {
        return fail("flow.output", format!("{} is offered by the mesh's own broker alone", broker::INTERFACE.name));
    }
    if let Some(why) = misplaced(card, mesh) {
        return fail("service_socket", why);
    }
    let path = socket_path(card, mesh);
    for other in loaded {
        if other.label == card.label && other.id != card.id {
            return fail("label", format!("`{}` belongs to a Card that was loaded from a file, expected another", card.label));
        }
        if socket_path(other, mesh) == path {
            return fail("service_socket", format!("{} is the socket of `{}`", path.display(), other.label));
        }
    }
    Ok(())
}

/// What would be loaded and could not run: programs that are not there, requirements that no Card meets, cycles of them.
#[must_use]
pub fn unrunnable(cards: &[FoundCard]) -> Vec<CardError> {
    let mut errors = Vec::new();
    let cycles = cycles(cards.iter().map(|found| &found.card));
    for found in cards {
        let card = &found.card;
        if let Payload::Native(native) = &card.payload
            && let Err(why) = program(native)
        {
            errors.push(refusal(found, "payload.native.exec", why.to_string()));
        }
        for (i, requirement) in card.requires.iter().enumerate() {
            if !cards.iter().any(|other| satisfies(&other.card, requirement)) {
                let why = format!("no Card has the label `{requirement}` or offers an interface of that name");
                errors.push(refusal(found, &format!("requires[{i}]"), why));
            }
        }
        if let Some((_, path)) = cycles.iter().find(|(id, _)| *id == card.id) {
            errors.push(refusal(found, "requires", format!("it requires itself: {path}")));
        }
    }
    errors
}

/// Why a Card's program cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProgramError {
    /// There is no such file.
    #[error("`{exec}` was not found; expected an absolute path, or a program beside brahman-init or in PATH")]
    Missing {
        /// As the Card says it.
        exec: String,
    },
    /// There is one, without the permission.
    #[error("{path} is not executable; `chmod +x` it")]
    NotExecutable {
        /// The file.
        path: PathBuf,
    },
}

/// The program a Card names: an absolute path, else beside this program, else in `PATH`.
///
/// # Errors
/// [`ProgramError`].
pub fn program(native: &Native) -> Result<PathBuf, ProgramError> {
    let asked = Path::new(&native.exec);
    let candidates: Vec<PathBuf> = if native.exec.contains('/') {
        vec![asked.to_owned()]
    } else {
        let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
        let path: OsString = env::var_os("PATH").unwrap_or_default();
        beside.into_iter().chain(env::split_paths(&path)).map(|folder| folder.join(asked)).collect()
    };
    let mut found: Option<PathBuf> = None;
    for file in candidates {
        match fs::metadata(&file) {
            Ok(there) if there.is_file() && there.permissions().mode() & 0o111 != 0 => return Ok(file),
            Ok(there) if there.is_file() => found = found.or(Some(file)),
            _ => {}
        }
    }
    Err(match found {
        Some(path) => ProgramError::NotExecutable { path },
        None => ProgramError::Missing { exec: native.exec.clone() },
    })
}

fn refusal(found: &FoundCard, field: &str, expected: String) -> CardError {
    CardError { origin: found.origin.clone(), field: field.into(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: &str = "/run/some/mesh.sock";

    fn found(label: &str, more: &str) -> FoundCard {
        let text = format!("schema_version = 1\nlabel = \"{label}\"\n{more}\n[payload.native]\nexec = \"/bin/sh\"\n");
        let origin = format!("{label}.toml");
        FoundCard { card: Card::parse(&origin, text.as_bytes()).expect("a good Card"), origin }
    }

    fn refused(cards: &[FoundCard]) -> String {
        collisions(cards, Path::new(MESH)).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    const BROKER: &str = "flow.output = [{ name = \"b\", type = { interface = { name = \"org.brahman.Broker\" } } }]";

    #[test]
    fn a_card_takes_no_file_of_the_mesh_and_none_of_another() {
        assert_eq!(refused(&[found("a", ""), found("b", ""), found("broker", BROKER)]), "");
        assert_eq!(refused(&[found("a", ""), found("a", "service_socket = \"a2.sock\"")]), "", "a replica");
        for (cards, words) in [
            (vec![found("mesh", "")], "mesh.sock is a file of the mesh's own"),
            (vec![found("a", "service_socket = \"mesh.sock\"")], "mesh.sock is a file of the mesh's own"),
            (vec![found("a", "service_socket = \"/tmp/a.sock\"")], "outside the run folder /run/some"),
            (vec![found("a", ""), found("b", "service_socket = \"a.sock\"")], "same id or socket as `a` in a.toml"),
            (vec![found("a", ""), found("b", "service_socket = \"/run/some/a.sock\"")], "same id or socket as `a`"),
            (vec![found("a", BROKER), found("b", BROKER)], "same interface of the broker as `a`"),
            (vec![found(&"l".repeat(64), ""), found("a", &format!("service_socket = \"{}\"", "x".repeat(120)))], "107 bytes"),
        ] {
            assert!(refused(&cards).contains(words), "{words}: {}", refused(&cards));
        }
    }

    #[test]
    fn what_attaches_by_itself_takes_nobodys_name() {
        let loaded = [found("embed-mock", "").card, found("broker", BROKER).card];
        let brought = |label: &str, more: &str| {
            let text = format!("schema_version = 1\nlabel = \"{label}\"\npayload = \"virtual\"\n{more}\n");
            let card = Card::parse("card.toml", text.as_bytes()).expect("a good Card");
            may_attach(&card, &loaded, Path::new(MESH)).err().map(|e| e.to_string())
        };
        assert_eq!(brought("mine", ""), None);
        assert_eq!(brought("mine", "service_socket = \"/tmp/mine.sock\""), None, "its module binds it");
        for (label, more, words) in [
            ("embed-mock", "service_socket = \"/tmp/false.sock\"", "belongs to a Card"),
            ("mine", "service_socket = \"embed-mock.sock\"", "the socket of `embed-mock`"),
            ("mesh", "", "the mesh's own"),
            ("mine", BROKER, "the mesh's own broker"),
        ] {
            let why = brought(label, more).unwrap_or_default();
            assert!(why.contains(words), "{label} {more}: {why}");
        }
    }

    #[test]
    fn folders_are_layered_and_the_first_wins() {
        let outer = tempfile::tempdir().expect("a temporary directory");
        let folders: Vec<PathBuf> = ["one", "two"].iter().map(|f| outer.path().join(f)).collect();
        for (folder, label, mock) in [(0, "a", true), (1, "a", false), (1, "b", false)] {
            fs::create_dir_all(&folders[folder]).expect("made");
            let text = format!("schema_version = 1\nlabel = \"{label}\"\nmock = {mock}\npayload = \"virtual\"\n");
            fs::write(folders[folder].join(format!("{label}.toml")), text).expect("written");
        }
        let reading = read(&folders).expect("read");
        let cards: Vec<(&str, bool)> = reading.cards.iter().map(|f| (f.card.label.as_str(), f.card.mock)).collect();
        assert_eq!((cards, reading.errors.len(), reading.replaced.len()), (vec![("a", true), ("b", false)], 0, 1));
        assert_eq!(read(&[outer.path().join("none")]).expect_err("not there").0, outer.path().join("none"));
    }

    #[test]
    fn what_cannot_run_is_named() {
        let mut absent = found("absent", "");
        if let Payload::Native(native) = &mut absent.card.payload {
            native.exec = "./no-such-program".into();
        }
        let cards = [
            found("fine", ""),
            found("alone", "requires = [\"nobody\"]"),
            found("x", "requires = [\"y\"]"),
            found("y", "requires = [\"x\"]"),
            absent,
        ];
        let words = unrunnable(&cards).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for expected in ["alone.toml: requires[0]: no Card has the label `nobody`", "x → y → x", "`./no-such-program` was not found"] {
            assert!(words.contains(expected), "{words}");
        }
        assert!(!words.contains("fine.toml"), "{words}");
    }

    #[test]
    fn a_program_must_be_executable() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let native = Native { exec: file.path().display().to_string(), argv: Vec::new(), env: Default::default() };
        assert_eq!(program(&native), Err(ProgramError::NotExecutable { path: file.path().to_owned() }));
    }
}
