//! `brahman complete`: names that may stand at the end of a command line, for the shells'
//! completion; and the scripts that ask for them.
//!
//! Invariant: whoever presses Tab waits a moment at most, and reads no error: where no mesh
//! answers, nothing is completed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use brahman_card::interface::catalog::{self, RealmIn};
use brahman_card::interface::{Empty, index, init, profiles, storage};
use brahman_models::manifest;
use brahman_sidecar::{Client, place};
use clap::{Arg, Command};
use clap_complete::Shell;

use crate::output::Output;

/// How long a person may wait for names.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names that are offered at most: nobody reads more.
const NAMES_MAX: usize = 1000;

/// What an argument names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameKind {
    Label,
    Dataset,
    Index,
    Bucket,
    Model,
    Profile,
}

impl NameKind {
    /// What the argument of a command names; none if it is no name, or one that is not taken yet.
    fn of(path: &[&str], argument: &str) -> Option<Self> {
        match (path, argument) {
            (["logs" | "start" | "stop" | "restart"], "label") => Some(Self::Label),
            (_, "dataset") | (["datasets", ..], "name") => Some(Self::Dataset),
            (["buckets", "remove"], "name") | (_, "bucket") => Some(Self::Bucket),
            (
                ["index", "create"] | ["models", "add" | "pull" | "quantize"] | ["buckets", ..],
                "name",
            ) => None,
            (["search"], "index" | "name") | (["index", ..], "name") => Some(Self::Index),
            // Of a server, or of the hub.
            (["models", "enable" | "pull"], "model") => None,
            (["models", ..], "name") | (_, "model") => Some(Self::Model),
            (["profile", ..], "id") => Some(Self::Profile),
            _ => None,
        }
    }
}

/// What the last of the words on a command line is the beginning of.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    kind: NameKind,
    /// The mesh socket, where the line names one.
    socket: Option<PathBuf>,
}

/// Finds the place of the last word; none if that is an option, a command, or nothing with a name.
fn place_of(command: &Command, words: &[String]) -> Option<Place> {
    let (last, before) = words.split_last()?;
    let (mut command, mut path, mut positional, mut only_values) = (command, Vec::new(), 1, false);
    let (mut socket, mut pending): (Option<PathBuf>, Option<&Arg>) = (None, None);
    for word in before {
        if let Some(option) = pending.take() {
            if option.get_id() == "socket" {
                socket = Some(PathBuf::from(word));
            }
        } else if word == "--" {
            only_values = true;
        } else if word.len() > 1 && word.starts_with('-') && !only_values {
            let option = option_of(command, word);
            match word.split_once('=') {
                Some((_, value)) if option.is_some_and(|option| option.get_id() == "socket") => {
                    socket = Some(PathBuf::from(value));
                }
                Some(_) => {}
                None => {
                    pending = option.filter(|option| {
                        option.get_action().takes_values() && !option.is_require_equals_set()
                    });
                }
            }
        } else if let Some(below) = command.find_subcommand(word).filter(|_| positional == 1) {
            path.push(below.get_name());
            command = below;
        } else {
            positional += 1;
        }
    }
    let argument = match pending {
        Some(option) => option,
        None if last.starts_with('-') && !only_values => return None,
        None => positional_at(command, positional)?,
    };
    Some(Place { kind: NameKind::of(&path, argument.get_id().as_str())?, socket })
}

fn option_of<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.split('=').next().unwrap_or(word);
    let is_it = |argument: &&Arg| match name.strip_prefix("--") {
        Some(long) => argument.get_long() == Some(long),
        // Of several short ones the last takes what follows.
        None => argument.get_short().is_some() && argument.get_short() == name.chars().last(),
    };
    command.get_arguments().find(is_it)
}

/// The positional argument that takes the `at`th value: the last one takes all that follow if it
/// takes several.
fn positional_at(command: &Command, at: usize) -> Option<&Arg> {
    let takes = |argument: &&Arg| {
        let first = argument.get_index().unwrap_or(usize::MAX);
        let several = argument.get_num_args().is_some_and(|range| range.max_values() > 1);
        first == at || (first < at && several)
    };
    command.get_positionals().find(takes)
}

/// Prints the names that may stand where the last word of a command line is, one a line; nothing
/// where none can be told.
pub(crate) async fn complete(
    socket: &Path,
    mut command: Command,
    words: &[String],
    output: &Output,
) -> anyhow::Result<()> {
    command.build();
    let Some(place) = place_of(&command, words) else { return Ok(()) };
    let socket = place.socket.as_deref().unwrap_or(socket);
    let mut names = tokio::time::timeout(PATIENCE, names(place.kind, socket))
        .await
        .ok()
        .flatten()
        .unwrap_or_default();
    let begun = words.last().map_or("", String::as_str);
    names.retain(|name| name.starts_with(begun));
    names.sort();
    names.dedup();
    names.iter().take(NAMES_MAX).for_each(|name| output.line(name));
    Ok(())
}

/// All names of a kind; none if nobody answers.
async fn names(kind: NameKind, socket: &Path) -> Option<Vec<String>> {
    let client = Client::for_command(socket, Duration::ZERO);
    let options = brahman_sidecar::CallOptions::default();
    Some(match kind {
        NameKind::Label => {
            let init = Client::for_command(&place::init_socket(socket), Duration::ZERO);
            let out = init.call_method::<init::method::List>(&Empty {}, &options).await.ok()?.value;
            out.modules.into_iter().map(|module| module.card.label.to_string()).collect()
        }
        NameKind::Dataset => {
            let out = client
                .call_method::<catalog::method::List>(&RealmIn::default(), &options)
                .await
                .ok()?
                .value;
            out.datasets.into_iter().map(|dataset| dataset.name).collect()
        }
        NameKind::Index => {
            let out =
                client.call_method::<index::method::List>(&Empty {}, &options).await.ok()?.value;
            out.indexes.into_iter().map(|index| index.name).collect()
        }
        NameKind::Bucket => {
            let out = client
                .call_method::<storage::method::Buckets>(&Empty {}, &options)
                .await
                .ok()?
                .value;
            out.buckets.into_iter().map(|bucket| bucket.name).collect()
        }
        NameKind::Profile => {
            let out =
                client.call_method::<profiles::method::List>(&Empty {}, &options).await.ok()?.value;
            out.profiles.into_iter().map(|profile| profile.id).collect()
        }
        NameKind::Model => {
            manifest::installed(&place::cache_dir()).into_iter().map(|model| model.name).collect()
        }
    })
}

/// What asks for names in bash. The script's own function offers placeholders such as `<NAME>`,
/// which nobody can use.
const BASH: &str = r#"
_brahman_and_names() {
    _brahman "$@"
    local word words=()
    for word in "${COMPREPLY[@]}"; do
        case "$word" in
        '<'*'>' | '['*']' | '['*']...' | '<'*'>...') ;;
        *) words+=("$word") ;;
        esac
    done
    while IFS= read -r word; do
        words+=("$word")
    done < <("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    COMPREPLY=("${words[@]}")
}

complete -F _brahman_and_names -o bashdefault -o default brahman
"#;

/// The same in zsh, in place of its own completion of what is unknown. Of the words only the line
/// has all: `_arguments` cuts them.
const ZSH: &str = r#"
(( $+functions[_brahman_names] )) ||
_brahman_names() {
    local -a given names
    given=("${(@Q)${(z)LBUFFER}}")
    [[ $LBUFFER == *[[:space:]] ]] && given+=("")
    given=("${(@)given[$(( ${given[(i)(*/|)brahman]} + 1 )),-1]}")
    names=("${(@f)$(_call_program names brahman complete -- "${(@q)given}" 2>/dev/null)}")
    names=("${(@)names:#}")
    (( $#names )) && compadd -a names || _default "$@"
}
"#;

/// The same in fish.
const FISH: &str = "\ncomplete -c brahman -a '(brahman complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'\n";

/// A completion script, which asks for names where the shell is one that a person mostly has.
pub(crate) fn script(shell: Shell, mut command: Command) -> Vec<u8> {
    // Into memory: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "brahman", &mut script);
    match shell {
        Shell::Bash => script.extend_from_slice(BASH.as_bytes()),
        Shell::Fish => script.extend_from_slice(FISH.as_bytes()),
        Shell::Zsh => return for_zsh(&script),
        _ => {}
    }
    script
}

/// With the function that asks before the script's end, which calls the script's own.
fn for_zsh(script: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(script).replace(":_default", ":_brahman_names");
    let end = text.rfind("\nif [ \"$funcstack[1]\"").unwrap_or(text.len());
    format!("{}{ZSH}{}", &text[..end], &text[end..]).into_bytes()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn kind(line: &str) -> Option<NameKind> {
        let mut command = crate::Arguments::command();
        command.build();
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        place_of(&command, &words).map(|place| place.kind)
    }

    #[test]
    fn the_kind_of_name_is_told_by_what_stands_before_it() {
        for (line, expected) in [
            ("datasets show ", Some(NameKind::Dataset)),
            ("datasets n", Some(NameKind::Dataset)),
            ("datasets rename a b", None),
            ("--json lineage --limit 5 n", Some(NameKind::Dataset)),
            ("index create new", None),
            ("index create new --dataset ", Some(NameKind::Dataset)),
            ("index refresh ", Some(NameKind::Index)),
            ("index move a ", Some(NameKind::Bucket)),
            ("search ", Some(NameKind::Index)),
            ("search a words", None),
            ("ingest files a --bucket p", Some(NameKind::Bucket)),
            ("buckets remove ", Some(NameKind::Bucket)),
            ("buckets add ", None),
            ("models remove ", Some(NameKind::Model)),
            ("models pull ", None),
            ("models quantize ", Some(NameKind::Model)),
            ("models quantize a --name ", None),
            ("embed --model ", Some(NameKind::Model)),
            ("logs -f ", Some(NameKind::Label)),
            ("restart --no-wait e", Some(NameKind::Label)),
            ("profile activate ", Some(NameKind::Profile)),
            ("index refresh --", None),
            ("status ", None),
            ("", None),
        ] {
            assert_eq!(kind(line), expected, "{line}");
        }
    }

    #[test]
    fn a_socket_on_the_line_is_the_one_that_is_asked() {
        let mut command = crate::Arguments::command();
        command.build();
        for line in
            [&["--socket", "/x", "index", "stats", ""][..], &["index", "--socket=/x", "stats", ""]]
        {
            let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(
                place_of(&command, &words).and_then(|place| place.socket),
                Some(PathBuf::from("/x")),
                "{line:?}"
            );
        }
    }

    #[test]
    fn scripts_ask_for_names_and_offer_nothing_hidden() {
        let asking = [
            (Shell::Bash, "_brahman_and_names"),
            (Shell::Zsh, "_brahman_names()"),
            (Shell::Fish, "brahman complete --"),
        ];
        for (shell, words) in asking {
            let script =
                String::from_utf8(script(shell, crate::Arguments::command())).expect("text");
            assert!(script.contains(words) && !script.contains("--session"), "{shell}");
        }
    }
}
