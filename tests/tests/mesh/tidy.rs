//! What holds of the tree itself.
//!
//! Shipped code is what lies in a crate's `src` and in `examples`, without what is compiled for
//! tests alone. It is read as text, line by line, as rustfmt leaves it; nothing here knows Rust's
//! grammar.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use brahman_tests::repository;
use serde_json::Value;

#[test]
fn crates_import_only_what_the_design_allows() {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"]))
            .expect("JSON");
    let named = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let module = &["brahman-card", "brahman-sidecar", "brahman-storage"][..];
    let with_models = &["brahman-card", "brahman-models", "brahman-sidecar", "brahman-storage"][..];
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("brahman-card", &["brahman-card-derive"][..]),
        ("brahman-card-derive", &[][..]),
        ("brahman-sidecar", &["brahman-card"][..]),
        ("brahman-storage", &["brahman-card"][..]),
        ("brahman-broker", &["brahman-card", "brahman-sidecar"][..]),
        ("brahman-init", &["brahman-card", "brahman-sidecar"][..]),
        ("brahman-models", &["brahman-card", "brahman-storage"][..]),
        ("flat-hnsw", &[][..]),
        ("brahman-mcp", &["brahman-card", "brahman-sidecar"][..]),
        ("brahman-cli", &["brahman-card", "brahman-mcp", "brahman-models", "brahman-sidecar"][..]),
        ("brahman-catalog", module),
        ("brahman-embed", with_models),
        (
            "brahman-gateway",
            &["brahman-card", "brahman-mcp", "brahman-sidecar", "brahman-storage"][..],
        ),
        ("brahman-index", module),
        ("brahman-ingest", module),
        ("brahman-profiles", module),
        ("brahman-rerank", with_models),
        ("brahman-score", with_models),
    ]);
    for package in metadata["packages"].as_array().expect("packages") {
        let name = named(package);
        if name == "brahman-tests" || name == "brahman-benches" {
            continue;
        }
        let may =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the design"));
        for dependency in
            package["dependencies"].as_array().expect("dependencies").iter().map(named)
        {
            let is_ours = dependency.starts_with("brahman-");
            assert!(
                !is_ours || may.contains(&dependency.as_str()),
                "{name} must not import {dependency}"
            );
        }
    }
}

/// `make test` builds the programs and then the tests. What the tests ask of a package beyond that
/// makes it another one, which is built a second time, and so is all that depends on it: half of
/// the tree, where it is `serde_json` or `tokio`.
#[test]
fn tests_ask_for_no_features_that_programs_do_not_have() {
    let programs = features(&["--edges", "normal,build"]);
    let tests =
        features(&["--edges", "normal,build,dev", "--workspace", "--exclude", "brahman-benches"]);
    let apart = |(package, of_programs): (&String, &BTreeSet<String>)| {
        let of_tests = tests.get(package).cloned().unwrap_or_default();
        (!of_programs.is_subset(&of_tests))
            .then(|| format!("{package}: programs {of_programs:?}, tests {of_tests:?}"))
    };
    let apart: Vec<String> = programs.iter().filter_map(apart).collect();
    assert!(
        apart.is_empty(),
        "built twice by `make test`; name the features that tests need in the workspace's Cargo.toml: {apart:#?}"
    );
}

/// Features of each package of a build: as many lists as it is built ways.
fn features(selection: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let tree = cargo(
        &[
            &["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}|{f}"][..],
            selection,
        ]
        .concat(),
    );
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // Between the workspace's own packages is an empty line; what was shown before has a mark.
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, features) =
            line.trim_end_matches(" (*)").split_once('|').expect("as it was asked for");
        all.entry(package.to_owned()).or_default().insert(features.to_owned());
    }
    assert!(all.len() > 100, "{tree}");
    all
}

/// What cargo says of the workspace.
fn cargo(arguments: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(arguments)
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_demo_has_cards_and_programs_for_what_it_runs() {
    let read = |path: &str| {
        std::fs::read_to_string(repository().join(path))
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let (makefile, programs) = (read("Makefile"), read("packaging/programs"));
    let labels = |name: &'static str| {
        makefile
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the demo's Cards")
            .split_whitespace()
    };
    for label in labels("DEMO_CARDS := ").chain(labels("DEMO_CARDS_LATER := ")) {
        let card = read(&format!("packaging/cards/{label}.toml"));
        // As the Makefile reads it.
        let program = card
            .lines()
            .find_map(|line| line.strip_prefix("exec = \"")?.strip_suffix('"'))
            .expect("a program");
        assert!(programs.lines().any(|one| one == program), "{label}: {program} is not shipped");
    }
}

#[test]
fn systemds_registry_has_every_interface_that_is_ours() {
    let ours: BTreeSet<&str> = brahman_card::interface::ALL
        .iter()
        .map(|interface| interface.name)
        .filter(|name| name.starts_with(brahman_card::interface::OURS))
        .collect();
    for (unit, registry) in [("system", "/run/varlink/registry/"), ("user", "%t/varlink/registry/")]
    {
        let path = repository().join(format!("packaging/systemd/{unit}/brahman.socket"));
        let text = std::fs::read_to_string(&path).expect("the unit");
        let linked: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("Symlinks=")?.strip_prefix(registry))
            .collect();
        assert_eq!(linked.len(), text.matches("Symlinks=").count(), "{unit}: all in the registry");
        assert_eq!(linked, Vec::from_iter(ours.iter().copied()), "{unit}: once, and in order");
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let mute: Vec<String> =
        rust_files().into_iter().filter(|file| !text_of(file).starts_with("//!")).collect();
    assert!(mute.is_empty(), "without a //! header: {mute:?}");
}

#[test]
fn one_arrow_version_is_in_the_tree() {
    let lock = std::fs::read_to_string(repository().join("Cargo.lock")).expect("the lock file");
    assert_eq!(lock.matches("name = \"arrow-array\"").count(), 1);
}

/// Where names of ours are written down: everywhere else they are constants.
const CONTRACT: [&str; 3] = [
    "card/src/interface.rs",
    "card/src/interface/",
    // The header's keys, each named once.
    "card/src/wire.rs",
];

#[test]
fn methods_and_errors_are_named_by_the_contract_alone() {
    let mut literal = Vec::new();
    for source in shipped()
        .iter()
        .filter(|source| !CONTRACT.iter().any(|place| source.path.starts_with(place)))
    {
        literal.extend(
            source
                .code()
                .filter(|(_, line)| line.contains("\"org.brahman."))
                .map(|(number, _)| source.at(number)),
        );
    }
    assert!(
        literal.is_empty(),
        "names spelled out where a constant of the contract belongs: {literal:?}"
    );
}

#[test]
fn no_error_is_a_text() {
    let mut texts = Vec::new();
    for source in &shipped() {
        let code = source.text();
        let results = code
            .match_indices("Result<")
            .filter(|(at, _)| arguments(&code[at + "Result<".len()..]).get(1) == Some(&"String"));
        texts.extend(results.map(|(at, _)| source.at(source.line_at(&code, at))));
        for (number, line) in source.code() {
            let Some((_, closure)) = line.split_once("map_err(|") else { continue };
            let Some((error, body)) = closure.split_once('|') else { continue };
            if body.trim_start().starts_with(&format!("{error}.to_string())")) {
                texts.push(source.at(number));
            }
        }
    }
    assert!(texts.is_empty(), "errors that are text, or whose cause is thrown away: {texts:?}");
}

/// Pronouns, and participles by themselves: they say of what kind a thing is, not what it is.
const NO_NOUNS: &str = "
    All Any Anybody Anything Both Each Everybody Everything It Its Nobody None Nothing One Other Others Some Somebody Something That These
    This Those What Whatever Which Who Whoever
    Begun Bound Broken Brought Built Chosen Done Drawn Driven Fed Forgotten Found Given Going Gone Grown Had Held Hidden Known Left Lent
    Lost Made Meant Met Paid Proven Read Said Seen Sent Shown Spent Spoken Sought Taken Taught Then Thought Thrown Told Torn Understood
    Withdrawn Written
    Asking Coming Doing Failing Having Looking Making Sending Taking Waiting";

/// Type names of one word that would be refused, and may stay.
const NOUNS: [(&str, &str); 3] = [
    ("Elapsed", "the contract's: times that a search took, and a name in its IDL text"),
    ("Embed", "the command of that name"),
    ("Malformed", "an adjective: a value that is not as its type has it"),
];

#[test]
fn types_are_nouns() {
    let refused: BTreeSet<&str> = NO_NOUNS.split_whitespace().collect();
    let mut bad = Vec::new();
    for source in &shipped() {
        for (number, line) in source.code() {
            let Some(name) = declared_type(line) else { continue };
            let is_one_word = name.chars().filter(|c| c.is_uppercase()).count() == 1;
            let is_participle = is_one_word && name.ends_with("ed");
            if (is_participle || refused.contains(name))
                && !NOUNS.iter().any(|(noun, _)| *noun == name)
            {
                bad.push(format!("{} {name}", source.at(number)));
            }
        }
    }
    assert!(bad.is_empty(), "types that are called by a pronoun or a participle: {bad:?}");
}

/// Modules of one crate that know each other. It only becomes shorter.
const CIRCLES: [(&str, &str, &str); 1] = [
    // The macro that declares an interface has its text made, and the text is made of what is
    // declared.
    ("card", "idl", "interface"),
];

#[test]
fn modules_do_not_go_round_in_circles() {
    let mut crates: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for source in &shipped() {
        let Some((folder, file)) = source.path.split_once("/src/") else { continue };
        // A program is not its library's module.
        if !file.starts_with("bin/") {
            let module = file.trim_end_matches(".rs").replace('/', "::");
            let module =
                if ["lib", "main"].contains(&module.as_str()) { String::new() } else { module };
            crates
                .entry(folder.to_owned())
                .or_default()
                .entry(module)
                .or_default()
                .push_str(&source.text());
        }
    }
    let mut circles = BTreeSet::new();
    for (folder, modules) in &crates {
        let known: BTreeMap<&String, BTreeSet<String>> =
            modules.iter().map(|(name, code)| (name, known_to(name, code, modules))).collect();
        for (one, theirs) in &known {
            // What a module is made of may know it.
            let is_family = |other: &String| {
                other.starts_with(&format!("{one}::")) || one.starts_with(&format!("{other}::"))
            };
            let back = theirs.iter().filter(|other| {
                *one < *other
                    && !one.is_empty()
                    && !is_family(other)
                    && known.get::<String>(other).is_some_and(|known| known.contains(*one))
            });
            circles.extend(back.map(|other| (folder.clone(), (*one).clone(), other.clone())));
        }
    }
    let standing: BTreeSet<(String, String, String)> =
        CIRCLES.map(|(at, a, b)| (at.to_owned(), a.to_owned(), b.to_owned())).into();
    let new: Vec<_> = circles.difference(&standing).collect();
    assert!(new.is_empty(), "modules that know each other: {new:?}");
    let gone: Vec<_> = standing.difference(&circles).collect();
    assert!(gone.is_empty(), "no longer circles, to be taken from the list: {gone:?}");
}

/// A doc comment of so few words says nothing that its item's name does not.
const WORDS_FEW: usize = 3;
/// Of a hundred doc comments so many may be that short: some names need no more.
const SHORT_PER_CENT: usize = 2;

#[test]
fn doc_comments_say_more_than_the_name_does() {
    let (mut all, mut short) = (0, Vec::new());
    for source in &shipped() {
        let (mut words, mut first, mut is_attribute) = (Vec::new(), 0, false);
        for (number, line) in &source.lines {
            let line = line.trim();
            if let Some(doc) = line.strip_prefix("///") {
                if words.is_empty() {
                    first = *number;
                }
                words.extend(doc.split_whitespace().map(str::to_owned));
                continue;
            }
            // An attribute goes on until its bracket closes.
            if is_attribute || line.starts_with("#[") {
                is_attribute = !line.ends_with(']');
                continue;
            }
            if line.starts_with("pub ") && !words.is_empty() {
                all += 1;
                if words.len() <= WORDS_FEW {
                    short.push(format!("{} {}", source.at(first), words.join(" ")));
                }
            }
            words.clear();
        }
    }
    assert!(all > 1000, "{all} doc comments were found");
    assert!(
        short.len() * 100 <= all * SHORT_PER_CENT,
        "{} of {all} doc comments are short: {short:#?}",
        short.len()
    );
}

/// Characters in a line at most, as `rustfmt.toml` has it; comments and macros it does not break.
const COLUMNS: usize = 100;
/// Files in which lines are wider yet. The list only becomes shorter.
const WIDE_STILL: [&str; 1] = ["modules/models/src/trial.rs"];

#[test]
fn no_line_is_wider_than_a_screen() {
    let mut wide = Vec::new();
    for file in rust_files().iter().filter(|file| !WIDE_STILL.contains(&file.as_str())) {
        let text = text_of(file);
        let literals = lines_of_literals(&text);
        let lines = text.lines().zip(1..).filter(|(line, number)| {
            line.chars().count() > COLUMNS && !literals.contains(number) && !is_one_piece(line)
        });
        wide.extend(lines.map(|(_, number)| format!("{file}:{number}")));
    }
    assert!(wide.is_empty(), "lines of more than {COLUMNS} characters: {wide:?}");
}

/// Lines of a file at most: of a longer one, nobody sees how it is made.
const LINES: usize = 600;
/// What one of the first ten lines of a longer file says.
const EXCUSE: &str = "Above 600 lines because ";
/// Files that are longer yet, and say nothing. The list only becomes shorter.
const LONG_STILL: [&str; 2] =
    ["modules/models/src/hub/client.rs", "modules/models/src/layout/pair.rs"];

#[test]
fn no_file_is_long_without_saying_why() {
    let is_long = |file: &String| {
        let text = text_of(file);
        text.lines().count() > LINES && !text.lines().take(10).any(|line| line.contains(EXCUSE))
    };
    let long: Vec<String> = rust_files()
        .into_iter()
        .filter(|file| file.contains("/src/") && !LONG_STILL.contains(&file.as_str()))
        .filter(is_long)
        .collect();
    assert!(long.is_empty(), "more than {LINES} lines, and none of `//! {EXCUSE}…`: {long:?}");
}

/// A file of shipped code: its lines and their numbers.
struct Source {
    path: String,
    lines: Vec<(usize, String)>,
}

impl Source {
    /// Lines that are no comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines
            .iter()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(number, line)| (*number, line.as_str()))
    }

    /// The same as one text.
    fn text(&self) -> String {
        self.code().flat_map(|(_, line)| [line, "\n"]).collect()
    }

    /// The number of the line in which a byte of [`Self::text`] stands.
    fn line_at(&self, code: &str, byte: usize) -> usize {
        self.code().nth(code[..byte].matches('\n').count()).map_or(0, |(number, _)| number)
    }

    fn at(&self, number: usize) -> String {
        format!("{}:{number}", self.path)
    }
}

fn rust_files() -> Vec<String> {
    let out = std::process::Command::new("git")
        .args(["ls-files", "*.rs"])
        .current_dir(repository())
        .output()
        .expect("git runs");
    String::from_utf8(out.stdout).expect("text").lines().map(str::to_owned).collect()
}

fn text_of(file: &str) -> String {
    std::fs::read_to_string(repository().join(file))
        .unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn shipped() -> Vec<Source> {
    let is_test = |file: &str| {
        let is_of_tests =
            ["tests/", "benches/", "fuzz/"].iter().any(|folder| file.starts_with(folder));
        is_of_tests || file.contains("/tests/") || file.ends_with("/tests.rs")
    };
    let files = rust_files()
        .into_iter()
        .filter(|file| (file.contains("/src/") || file.starts_with("examples/")) && !is_test(file));
    files.map(|path| Source { lines: without_tests(&text_of(&path)), path }).collect()
}

/// Lines of a file that are not below a `#[cfg(test)]`: its item ends with the brace that stands as
/// far to the left.
fn without_tests(text: &str) -> Vec<(usize, String)> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.to_owned()));
    let mut kept = Vec::new();
    while let Some((number, line)) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push((number, line));
            continue;
        }
        let item = lines
            .by_ref()
            .map(|(_, line)| line)
            .find(|line| !line.trim_start().starts_with("#["))
            .unwrap_or_default();
        if (item.contains('{') && !item.ends_with('}')) || item.ends_with('(') {
            // Consumed with the item.
            let _end = lines
                .by_ref()
                .find(|(_, end)| indent(end) == indent(&item) && end.trim_start().starts_with('}'));
        }
    }
    kept
}

/// Lines that hold a part of a string literal, which rustfmt leaves as it is.
fn lines_of_literals(text: &str) -> BTreeSet<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut line, mut found) = (0, 1, BTreeSet::new());
    while at < bytes.len() {
        let rest = &bytes[at..];
        let literal = literal(rest);
        let length = literal.unwrap_or_else(|| {
            if rest.starts_with(b"//") {
                rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
            } else if rest.starts_with(b"'\\") {
                // The quote that ends it, if it is of one character, may be that very character.
                rest.len().min(4)
            } else if rest.starts_with(b"'\"'") {
                3
            } else {
                1
            }
        });
        let ends = rest[..length].iter().filter(|byte| **byte == b'\n').count();
        if literal.is_some() {
            found.extend(line..=line + ends);
        }
        line += ends;
        at += length;
    }
    found
}

/// The length of the string literal with which a text begins, if it does.
fn literal(text: &[u8]) -> Option<usize> {
    let raw = text.strip_prefix(b"r").unwrap_or_default();
    let marks = raw.iter().take_while(|byte| **byte == b'#').count();
    if raw.get(marks) == Some(&b'"') {
        let end = format!("\"{}", "#".repeat(marks));
        let begun = marks + 2;
        let body = text[begun..].windows(end.len()).position(|part| part == end.as_bytes())?;
        return Some(begun + body + end.len());
    }
    if text.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    while *text.get(at)? != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    Some(at + 1)
}

/// A row of a table, or a name: that of a test says what it promises, however long it becomes.
fn is_one_piece(line: &str) -> bool {
    let line = line.trim_start();
    let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
    line.starts_with("//! |") || name.is_some_and(|name| !name.contains(' '))
}

/// Arguments of a generic type, from behind its opening bracket.
fn arguments(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut before, mut all) = (0_usize, 0, ' ', Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            // Not the end of an arrow.
            '>' if before == '-' => {}
            '>' if depth == 0 => {
                all.push(text[start..at].trim());
                return all;
            }
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                all.push(text[start..at].trim());
                start = at + 1;
            }
            ';' | '{' if depth == 0 => return Vec::new(),
            _ => {}
        }
        before = c;
    }
    Vec::new()
}

/// The name of the type that a line declares, if it declares one.
fn declared_type(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    if let Some(public) = rest.strip_prefix("pub") {
        rest = public
            .strip_prefix('(')
            .map_or(public, |restricted| restricted.split_once(')').map_or("", |(_, rest)| rest))
            .trim_start();
    }
    let rest = ["struct ", "enum ", "trait ", "type ", "union "]
        .iter()
        .find_map(|keyword| rest.strip_prefix(keyword))?;
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// The modules of its own crate that a module's code names.
fn known_to(module: &str, code: &str, modules: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            // Not in the middle of a path, which was met at its beginning, or of a word.
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut paths = Vec::new();
            read_paths(&code.as_bytes()[at..], &mut 0, "", &mut paths);
            known.extend(paths.iter().filter_map(|path| named_module(module, path, modules)));
        }
    }
    known.remove(module);
    known
}

/// Reads a path, or the tree of paths of a `use`.
fn read_paths(text: &[u8], at: &mut usize, before: &str, paths: &mut Vec<String>) {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let mut path = before.to_owned();
    loop {
        if text.get(*at) == Some(&b'{') {
            *at += 1;
            while let Some(next) = text.get(*at).filter(|b| **b != b'}') {
                if is_part(Some(next)) {
                    read_paths(text, at, &path, paths);
                } else {
                    *at += 1;
                }
            }
            *at += 1;
            return;
        }
        let start = *at;
        while is_part(text.get(*at)) {
            *at += 1;
        }
        if start == *at {
            break;
        }
        if !path.is_empty() {
            path.push_str("::");
        }
        path.push_str(&String::from_utf8_lossy(&text[start..*at]));
        if !text[*at..].starts_with(b"::") {
            break;
        }
        *at += 2;
    }
    paths.push(path);
}

/// The module in which a path ends, or what it names lies.
fn named_module(module: &str, path: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let mut here: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts = path.split("::").peekable();
    if parts.next_if_eq(&"crate").is_some() {
        here.clear();
    }
    while parts.next_if_eq(&"super").is_some() {
        here.pop();
    }
    here.extend(parts);
    (0..=here.len())
        .rev()
        .map(|length| here[..length].join("::"))
        .find(|name| modules.contains_key(name))
}
