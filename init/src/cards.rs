//! The Cards on disk: where they are looked for, and what is wrong with each.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use brahman_card::{Card, CardError};

/// Most Cards a folder may hold.
const CARDS_MAX: usize = 256;

/// The folder that counts: `--cards`, `$BRAHMAN_CARDS`, `$XDG_CONFIG_HOME/brahman/cards` (or `~/.config`),
/// `/etc/brahman/cards`, and last the Cards installed beside this program.
#[must_use]
pub fn folder(asked: Option<&Path>) -> PathBuf {
    if let Some(asked) = asked {
        return asked.to_owned();
    }
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(folder) = set("BRAHMAN_CARDS") {
        return folder;
    }
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.join("share/brahman/cards")));
    let candidates = [config.map(|c| c.join("brahman/cards")), Some("/etc/brahman/cards".into()), beside];
    let first = candidates.iter().flatten().find(|folder| folder.is_dir()).cloned();
    first.unwrap_or_else(|| PathBuf::from("/etc/brahman/cards"))
}

/// Every Card of a folder, by file name, and every refusal.
///
/// # Errors
/// If the folder itself cannot be read.
pub fn read(folder: &Path) -> std::io::Result<(Vec<Card>, Vec<CardError>)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml" || e == "json"))
        .collect();
    paths.sort();
    let (mut cards, mut errors): (Vec<Card>, Vec<CardError>) = (Vec::new(), Vec::new());
    for path in paths {
        let origin = path.display().to_string();
        let refuse = |field: &str, expected: String| CardError { origin: origin.clone(), field: field.into(), expected };
        if cards.len() >= CARDS_MAX {
            errors.push(refuse("(file)", format!("expected at most {CARDS_MAX} Cards in a folder")));
            continue;
        }
        let parsed = fs::read(&path).map_err(|e| refuse("(file)", e.to_string())).and_then(|text| Card::parse(&origin, &text));
        match parsed {
            Ok(card) => match cards.iter().find(|c| c.id == card.id || c.socket_name() == card.socket_name()) {
                Some(other) => {
                    let why = format!("same id or socket as `{}`; a replica needs a `service_socket` of its own", other.label);
                    errors.push(refuse("service_socket", why));
                }
                None => cards.push(card),
            },
            Err(error) => errors.push(error),
        }
    }
    Ok((cards, errors))
}
