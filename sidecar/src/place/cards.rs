//! The Cards on disk: where they are looked for, and what is wrong with them, alone and beside one
//! another.
//!
//! `brahman-init` starts what this finds, and `brahman check` says what this finds: there is one
//! rule for both.

mod layers;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use brahman_card::card::{Native, Payload, SOCKET_PATH_BYTES_MAX, cycles, satisfies};
use brahman_card::interface::broker;
use brahman_card::{Card, CardError};
use thiserror::Error;

use layers::CARDS_MAX;
pub use layers::{
    CardSource, FoundCard, Mask, Reading, ReplacedCard, files, layer_of, looked_at, read, read_one,
    sources,
};

/// The modules that these Cards make: each itself, or its replicas.
#[must_use]
pub fn instances(cards: &[FoundCard]) -> Vec<FoundCard> {
    let all = |found: &FoundCard| {
        let origin = found.origin.clone();
        found
            .card
            .instances()
            .into_iter()
            .map(move |card| FoundCard { origin: origin.clone(), card })
    };
    cards.iter().flat_map(all).collect()
}

/// The folder where a person's own Cards lie, for a program that writes one: the one that was asked
/// for, else `$BRAHMAN_CARDS`, else `$XDG_CONFIG_HOME/brahman/cards` (or `~/.config`), else,
/// without a home, `/etc/brahman/cards`. It may have yet to be made.
#[must_use]
pub fn own_folder(asked: Option<&Path>) -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let config = || {
        set("XDG_CONFIG_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".config")))
            .map(|c| c.join("brahman/cards"))
    };
    asked
        .map(Path::to_owned)
        .or_else(|| set("BRAHMAN_CARDS"))
        .or_else(config)
        .unwrap_or_else(|| "/etc/brahman/cards".into())
}

/// Path of the socket that a module answers on. A Card that offers the broker's interface has the
/// mesh socket.
#[must_use]
pub fn socket_path(card: &Card, mesh: &Path) -> PathBuf {
    if card.offered_interfaces().any(|interface| interface == broker::INTERFACE.name) {
        mesh.to_owned()
    } else {
        mesh.with_file_name("").join(card.socket_name())
    }
}

/// What must not stand beside one another, or beside the mesh's own files: equal labels without
/// sockets of their own, equal ids, equal sockets, sockets of programs that init starts outside the
/// run folder, and paths that the kernel would not take.
#[must_use]
pub fn collisions(cards: &[FoundCard], mesh: &Path) -> Vec<CardError> {
    let mut errors = Vec::new();
    let cards = instances(cards);
    if let Some(found) = cards.get(CARDS_MAX) {
        errors.push(refusal(
            found,
            "replicas",
            format!("expected at most {CARDS_MAX} modules, replicas counted"),
        ));
    }
    for (i, found) in cards.iter().enumerate() {
        let card = &found.card;
        let path = socket_path(card, mesh);
        if let Some(why) = misplaced(card, mesh) {
            errors.push(refusal(found, "service_socket", why));
        }
        // One that may not have its socket takes it from nobody.
        let is_same = |other: &&FoundCard| {
            other.card.id == card.id
                || (socket_path(&other.card, mesh) == path
                    && misplaced(&other.card, mesh).is_none())
        };
        if let Some(other) = cards[..i].iter().find(is_same) {
            let (field, what, mend) = if path == *mesh {
                ("flow.output", "same interface of the broker as", "a mesh has one broker")
            } else if other.card.label == card.label {
                (
                    "label",
                    "same label as",
                    "rename one of the two, or give this one a `service_socket` of its own if it is to be a replica",
                )
            } else {
                (
                    "service_socket",
                    "same id or socket as",
                    "expected another `service_socket` or `id`",
                )
            };
            errors.push(refusal(
                found,
                field,
                format!("{what} `{}` in {}; {mend}", other.card.label, other.origin),
            ));
        }
    }
    errors
}

/// Why a module may not have the socket that its Card says; none if it may.
fn misplaced(card: &Card, mesh: &Path) -> Option<String> {
    let path = socket_path(card, mesh);
    if path == *mesh
        && card.offered_interfaces().any(|interface| interface == broker::INTERFACE.name)
    {
        return None;
    }
    let own = ["init.sock", "notify.sock", "init.lock", "context", "context.tmp"]
        .map(|name| mesh.with_file_name(name));
    if path == *mesh || own.contains(&path) {
        return Some(format!(
            "{} is a file of the mesh's own, expected another name",
            path.display()
        ));
    }
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Some(format!(
            "{} is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a socket's path may have",
            path.display()
        ));
    }
    // The module itself binds the socket of a virtual one.
    let started = matches!(card.payload, Payload::Native(_));
    let run = mesh.parent().unwrap_or(Path::new("/"));
    if started && !path.parent().is_some_and(|folder| same_folder(folder, run)) {
        return Some(format!(
            "{} is outside the run folder {}, expected a file name",
            path.display(),
            run.display()
        ));
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
pub fn may_attach<'a>(
    card: &Card,
    loaded: impl IntoIterator<Item = &'a Card>,
    mesh: &Path,
) -> Result<(), CardError> {
    let fail = |field: &str, expected: String| {
        Err(CardError { origin: "card.json".into(), field: field.into(), expected })
    };
    if !matches!(card.payload, Payload::Virtual) {
        return fail(
            "payload",
            "a Card that is brought by its module is `virtual`: init did not start it".into(),
        );
    }
    if card.offered_interfaces().any(|interface| interface == broker::INTERFACE.name) {
        return fail(
            "flow.output",
            format!("{} is offered by the mesh's own broker alone", broker::INTERFACE.name),
        );
    }
    if let Some(why) = misplaced(card, mesh) {
        return fail("service_socket", why);
    }
    let path = socket_path(card, mesh);
    for other in loaded {
        if other.label.answers_to(card.label.as_str()) && other.id != card.id {
            return fail(
                "label",
                format!(
                    "`{}` belongs to a Card that was loaded from a file, expected another",
                    card.label
                ),
            );
        }
        if socket_path(other, mesh) == path {
            return fail(
                "service_socket",
                format!("{} is the socket of `{}`", path.display(), other.label),
            );
        }
    }
    Ok(())
}

/// What would be loaded and could not run: programs that are not there, requirements that no Card
/// meets, cycles of them.
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
                let why = format!(
                    "nobody is `{requirement}`: no Card has that label or offers an interface of that name, so this module would wait for ever"
                );
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
    /// It depends on where init happens to stand.
    #[error(
        "`{exec}` is a relative path, and init may be started anywhere; expected an absolute path, or a name alone, which is looked for \
         beside brahman-init and in PATH"
    )]
    Relative {
        /// As the Card says it.
        exec: String,
    },
    /// There is no such file.
    #[error("`{exec}` was not found; looked at {looked}")]
    Missing {
        /// As the Card says it.
        exec: String,
        /// Every place, in order.
        looked: String,
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
    if native.exec.contains('/') && asked.is_relative() {
        return Err(ProgramError::Relative { exec: native.exec.clone() });
    }
    let candidates: Vec<PathBuf> = if asked.is_absolute() {
        vec![asked.to_owned()]
    } else {
        let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
        let path: OsString = env::var_os("PATH").unwrap_or_default();
        beside.into_iter().chain(env::split_paths(&path)).map(|folder| folder.join(asked)).collect()
    };
    let mut found: Option<&PathBuf> = None;
    for file in &candidates {
        match fs::metadata(file) {
            Ok(there) if there.is_file() && there.permissions().mode() & 0o111 != 0 => {
                return Ok(file.clone());
            }
            Ok(there) if there.is_file() => found = found.or(Some(file)),
            _ => {}
        }
    }
    let mut looked: Vec<String> =
        candidates.iter().map(|file| file.display().to_string()).collect();
    looked.dedup();
    Err(match found {
        Some(path) => ProgramError::NotExecutable { path: path.clone() },
        None => ProgramError::Missing { exec: native.exec.clone(), looked: looked.join(", ") },
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
        let text = format!(
            "schema_version = 1\nlabel = \"{label}\"\n{more}\n[payload.native]\nexec = \"/bin/sh\"\n"
        );
        let origin = format!("{label}.toml");
        FoundCard { card: Card::parse(&origin, text.as_bytes()).expect("a good Card"), origin }
    }

    fn refused(cards: &[FoundCard]) -> String {
        collisions(cards, Path::new(MESH))
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    const BROKER: &str = "flow.output = [{ name = \"b\", type = { interface = { name = \"org.brahman.Broker\" } } }]";

    #[test]
    fn a_card_takes_no_file_of_the_mesh_and_none_of_another() {
        assert_eq!(refused(&[found("a", ""), found("b", ""), found("broker", BROKER)]), "");
        assert_eq!(
            refused(&[found("a", ""), found("a", "service_socket = \"a2.sock\"")]),
            "",
            "a replica"
        );
        let beside = refused(&[found("mesh", ""), found("broker", BROKER)]);
        assert!(
            beside.starts_with("mesh.toml") && !beside.contains("broker.toml"),
            "the broker is right: {beside}"
        );
        for (cards, words) in [
            (vec![found("mesh", "")], "mesh.sock is a file of the mesh's own"),
            (
                vec![found("a", "service_socket = \"mesh.sock\"")],
                "mesh.sock is a file of the mesh's own",
            ),
            (
                vec![found("a", "service_socket = \"/tmp/a.sock\"")],
                "outside the run folder /run/some",
            ),
            (
                vec![found("a", ""), found("a", "")],
                "label: same label as `a` in a.toml; rename one of the two",
            ),
            (
                vec![found("a", ""), found("b", "service_socket = \"a.sock\"")],
                "same id or socket as `a` in a.toml",
            ),
            (
                vec![found("a", ""), found("b", "service_socket = \"/run/some/a.sock\"")],
                "same id or socket as `a`",
            ),
            (vec![found("a", BROKER), found("b", BROKER)], "same interface of the broker as `a`"),
            (
                vec![
                    found(&"l".repeat(64), ""),
                    found("a", &format!("service_socket = \"{}\"", "x".repeat(120))),
                ],
                "107 bytes",
            ),
        ] {
            assert!(refused(&cards).contains(words), "{words}: {}", refused(&cards));
        }
    }

    #[test]
    fn what_attaches_by_itself_takes_nobodys_name() {
        let loaded = [found("embed-mock", "").card, found("broker", BROKER).card];
        let brought = |label: &str, more: &str| {
            let text =
                format!("schema_version = 1\nlabel = \"{label}\"\npayload = \"virtual\"\n{more}\n");
            let card = Card::parse("card.toml", text.as_bytes()).expect("a good Card");
            may_attach(&card, &loaded, Path::new(MESH)).err().map(|e| e.to_string())
        };
        assert_eq!(brought("mine", ""), None);
        assert_eq!(
            brought("mine", "service_socket = \"/tmp/mine.sock\""),
            None,
            "its module binds it"
        );
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
        let words =
            unrunnable(&cards).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for expected in [
            "alone.toml: requires[0]: nobody is `nobody`",
            "x → y → x",
            "`./no-such-program` is a relative path",
        ] {
            assert!(words.contains(expected), "{words}");
        }
        assert!(!words.contains("fine.toml"), "{words}");
    }

    #[test]
    fn a_program_must_be_executable() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let native = Native {
            exec: file.path().display().to_string(),
            argv: Vec::new(),
            env: Default::default(),
        };
        assert_eq!(
            program(&native),
            Err(ProgramError::NotExecutable { path: file.path().to_owned() })
        );
    }
}
