//! What a walk has passed over, and by which rule: a `.gitignore`, a hidden name, one of what is
//! not finished.
//!
//! The walk itself does not say what it left out. So each folder that it went through is listed
//! once more, and whatever it did not give is looked up in the files that may have named it.
//! Invariants: what is hidden is named and counted, never opened; a hidden folder counts as one,
//! for what lies in it was not looked at.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use tokio_util::sync::CancellationToken;

use super::{is_bucket, is_of_mesh, is_unfinished};

/// Rules that are told one by one; what more of them hide is counted together.
const RULES_MAX: usize = 100;
/// Files of rules in a folder, those first that count more.
const RULE_FILES: [&str; 3] = [".ignore", ".gitignore", ".git/info/exclude"];
/// What hides a name that begins with a dot.
const HIDDEN_NAME: &str = "hidden names, which begin with a dot";
const UNFINISHED: &str = "names of what editors and downloads have not finished";
const BUCKET: &str = "buckets of a mesh, in which lies what was ingested";
const STATE: &str = "state and sockets of a mesh, which it writes itself";
const OTHER: &str = "git's own excludes, and other rules";

/// A rule, and what it hides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HidingRule {
    /// The file of rules with the pattern, or what names it hides.
    pub rule: String,
    /// Files and folders that it hides.
    pub count: u64,
    /// The first of them.
    pub first: PathBuf,
}

/// All that is hidden, by rule.
#[derive(Debug, Default)]
pub struct HiddenEntries {
    by_rule: BTreeMap<String, (u64, PathBuf)>,
    known: HashMap<PathBuf, Option<Gitignore>>,
}

impl HiddenEntries {
    /// Looks through folders that were walked for what the walk did not give.
    pub(super) fn look(
        &mut self,
        folders: &[PathBuf],
        given: &HashSet<&Path>,
        is_wanted: impl Fn(&Path, bool) -> bool,
        stop: &CancellationToken,
    ) {
        for folder in folders {
            if stop.is_cancelled() {
                return;
            }
            let Ok(entries) = fs::read_dir(folder) else { continue };
            let mut hidden: Vec<(PathBuf, bool)> = Vec::new();
            for entry in entries.flatten() {
                let (path, is_folder) =
                    (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
                if !given.contains(path.as_path()) && is_wanted(&path, is_folder) {
                    hidden.push((path, is_folder));
                }
            }
            hidden.sort();
            for (path, is_folder) in hidden {
                self.note(path, is_folder);
            }
        }
    }

    fn note(&mut self, path: PathBuf, is_folder: bool) {
        let mut rule = self.rule_of(&path, is_folder);
        if self.by_rule.len() >= RULES_MAX && !self.by_rule.contains_key(&rule) {
            OTHER.clone_into(&mut rule);
        }
        self.by_rule.entry(rule).or_insert((0, path)).0 += 1;
    }

    fn rule_of(&mut self, path: &Path, is_folder: bool) -> String {
        if is_folder && is_bucket(path) {
            return BUCKET.to_owned();
        }
        if is_folder && is_of_mesh(path) {
            return STATE.to_owned();
        }
        let is_dotted =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_dotted {
            return HIDDEN_NAME.to_owned();
        }
        for folder in path.ancestors().skip(1) {
            for name in RULE_FILES {
                let file = folder.join(name);
                let rules =
                    self.known.entry(file.clone()).or_insert_with(|| rules_in(folder, &file));
                let Some(rules) = rules else { continue };
                match rules.matched_path_or_any_parents(path, is_folder) {
                    Match::Ignore(glob) => {
                        return format!("{}: {}", file.display(), glob.original());
                    }
                    // Nearer rules count more, and this one says that others do not hide it.
                    Match::Whitelist(_) => {
                        return if is_unfinished(path) { UNFINISHED } else { OTHER }.to_owned();
                    }
                    Match::None => {}
                }
            }
        }
        if is_unfinished(path) { UNFINISHED } else { OTHER }.to_owned()
    }

    /// The rules, those first that hide most.
    #[must_use]
    pub fn rules(&self) -> Vec<HidingRule> {
        let rules = self.by_rule.iter().map(|(rule, (count, first))| HidingRule {
            rule: rule.clone(),
            count: *count,
            first: first.clone(),
        });
        let mut rules: Vec<HidingRule> = rules.collect();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.count));
        rules
    }
}

fn rules_in(folder: &Path, file: &Path) -> Option<Gitignore> {
    if !file.is_file() {
        return None;
    }
    let mut rules = GitignoreBuilder::new(folder);
    // A line that is no pattern hides nothing; the walk has passed it over as well.
    let _ = rules.add(file);
    rules.build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{WalkRules, walk};

    fn made(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder"))
                .and_then(|()| fs::write(&path, text))
                .expect("written");
        }
        folder
    }

    #[test]
    fn what_is_hidden_is_counted_by_the_rule_that_hides_it() {
        let folder = made(&[
            ("a.md", "a"),
            (".gitignore", "target/\n*.log\n!keep.log\n"),
            ("target/deep/x", "x"),
            ("b.log", "b"),
            ("keep.log", "k"),
            ("sub/c.md", "c"),
            ("sub/c.log", "c"),
            ("sub/.ignore", "private.md\n"),
            ("sub/private.md", "p"),
            ("sub/half.part", "h"),
        ]);
        let paths = [folder.path().display().to_string()];
        let found = walk(&paths, &WalkRules::default(), &CancellationToken::new()).expect("walked");
        let ids: Vec<&str> = found.files.iter().map(|file| file.id.as_str()).collect();
        assert_eq!(ids, ["a.md", "keep.log", "sub/c.md"]);
        let rules = found.hidden.rules();
        let count = |part: &str| {
            rules.iter().filter(|rule| rule.rule.contains(part)).map(|rule| rule.count).sum::<u64>()
        };
        assert_eq!(
            [
                count(".gitignore: *.log"),
                count(".gitignore: target/"),
                count("sub/.ignore: private.md")
            ],
            [2, 1, 1],
            "{rules:?}"
        );
        assert_eq!((count(HIDDEN_NAME), count(UNFINISHED)), (2, 1), "{rules:?}");
        let all = walk(
            &paths,
            &WalkRules { no_ignore: true, ..WalkRules::default() },
            &CancellationToken::new(),
        )
        .expect("walked");
        assert_eq!(all.files.len(), 9, "everything but what is not finished");
        assert_eq!(all.hidden.rules().iter().map(|rule| rule.count).sum::<u64>(), 1);
    }

    #[test]
    fn what_a_mesh_writes_is_left_out_and_named() {
        let folder = made(&[
            ("a.md", "a"),
            ("state/.lock", "brahman-state 7 /run/brahman.sock\n"),
            ("state/logs/ingest.log", "l"),
            ("locked/.lock", "somebody else's"),
            ("locked/b.md", "b"),
            ("run/mock.md", "m"),
        ]);
        let socket = folder.path().join("run/init.sock");
        let _listener = std::os::unix::net::UnixListener::bind(socket).expect("bound");
        let paths = [folder.path().display().to_string()];
        for no_ignore in [false, true] {
            let rules = WalkRules { no_ignore, ..WalkRules::default() };
            let found = walk(&paths, &rules, &CancellationToken::new()).expect("walked");
            let ids: Vec<&str> = found.files.iter().map(|file| file.id.as_str()).collect();
            let all = ["a.md", "locked/.lock", "locked/b.md"];
            assert!(ids.iter().all(|id| all.contains(id)) && ids.contains(&"a.md"), "{ids:?}");
            let rules = found.hidden.rules();
            let own = rules.iter().find(|rule| rule.rule == STATE).expect("named");
            assert_eq!((own.count, own.first.ends_with("run")), (2, true), "{rules:?}");
        }
    }

    #[test]
    fn wildcards_hide_only_what_they_would_have_meant() {
        let folder = made(&[
            (".gitignore", "b.md\n"),
            ("a.md", "a"),
            ("b.md", "b"),
            ("c.txt", "c"),
            ("d.txt", "d"),
            ("x/e.md", "e"),
        ]);
        let paths = [folder.path().join("*.md").display().to_string()];
        let found = walk(&paths, &WalkRules::default(), &CancellationToken::new()).expect("walked");
        let rules = found.hidden.rules();
        assert_eq!((found.files.len(), rules.len(), rules[0].count), (1, 1, 1), "{rules:?}");
        assert!(rules[0].first.ends_with("b.md"));
    }
}
