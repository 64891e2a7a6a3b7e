//! Folders that are walked, wildcards, ids that stay, and kinds that are told apart.

use super::*;

fn found(paths: &[String]) -> Result<Walk, SourceError> {
    files(paths, &CancellationToken::new())
}

#[test]
fn what_is_told_to_stop_reads_no_further() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), vec![b'x'; 1 << 20]).expect("written");
    let stop = CancellationToken::new();
    let mut reader = open(file.path(), &stop).expect("opens");
    let mut some = [0; 10];
    reader.read_exact(&mut some).expect("read");
    stop.cancel();
    assert!(reader.read_to_end(&mut Vec::new()).is_err());
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(folder.path().join("a.md"), "a").expect("written");
    assert!(files(&[folder.path().display().to_string()], &stop).is_err());
}

#[test]
fn a_folder_is_walked_in_order_without_hidden_and_ignored_files() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in [
        ("b.md", "b"),
        ("a/x.rs", "x"),
        (".hidden", "h"),
        ("target/o", "o"),
        (".gitignore", "target/\n"),
    ] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    let ids: Vec<String> = found(&[folder.path().display().to_string()])
        .expect("files")
        .files
        .into_iter()
        .map(|f| f.id)
        .collect();
    assert_eq!(ids, ["a/x.rs", "b.md"]);
    assert!(found(&["relative".into()]).is_err());
}

#[test]
fn a_bucket_of_a_mesh_is_passed_over_and_named() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for name in ["a.csv", "data/b.csv", "data/store/.brahman-bucket.json", "data/store/c.csv"] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, "n\n1\n").expect("written");
    }
    for no_ignore in [false, true] {
        let rules = WalkRules { no_ignore, ..WalkRules::default() };
        let given = [folder.path().display().to_string()];
        let walk = walk(&given, &rules, &CancellationToken::new()).expect("walked");
        let ids: Vec<&str> = walk.files.iter().map(|file| file.id.as_str()).collect();
        assert_eq!(ids, ["a.csv", "data/b.csv"]);
        let told = walk.hidden.rules();
        assert_eq!(
            (told.len(), told[0].count, told[0].first.as_path()),
            (1, 1, folder.path().join("data/store").as_path()),
            "{told:?}"
        );
        assert!(told[0].rule.contains("buckets of a mesh"), "{told:?}");
    }
}

#[test]
fn links_and_pipes_are_not_read_and_are_named() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(folder.path().join("a.md"), "a").expect("written");
    std::os::unix::fs::symlink(folder.path().join("a.md"), folder.path().join("b.md"))
        .expect("linked");
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).expect("linked");
    let _socket =
        std::os::unix::net::UnixListener::bind(folder.path().join("c.md")).expect("bound");
    let walk = found(&[folder.path().display().to_string()]).expect("walked");
    let names: Vec<String> = walk
        .skipped
        .iter()
        .map(|(path, _)| path.file_name().unwrap_or_default().display().to_string())
        .collect();
    assert_eq!(
        (walk.files.len(), names),
        (1, vec!["b.md".to_owned(), "c.md".to_owned(), "loop".to_owned()])
    );
    assert!(matches!(walk.skipped[0].1, Flaw::Link) && matches!(walk.skipped[1].1, Flaw::Special));
}

#[test]
fn wildcards_name_files_at_any_depth_and_none_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for name in ["a.md", "b.txt", "x/c.md", "x/y/d.md", "od[d].md"] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, name).expect("written");
    }
    let of = |pattern: &str| -> Vec<String> {
        let found = found(&[folder.path().join(pattern).display().to_string()]);
        found.map(|found| found.files.into_iter().map(|f| f.id).collect()).unwrap_or_default()
    };
    assert_eq!(of("**/*.md"), ["a.md", "od[d].md", "x/c.md", "x/y/d.md"]);
    assert_eq!(of("*.{md,txt}"), ["a.md", "b.txt", "od[d].md"]);
    assert_eq!(of("x/*.md"), ["c.md"]);
    assert_eq!(of("od[d].md"), ["od[d].md"], "a file of that very name");
    assert!(of("*.csv").is_empty() && of("[").is_empty());
}

#[test]
fn a_file_keeps_its_id_when_folders_are_added_in_any_order() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for name in ["a/x.md", "a/only.md", "b/x.md"] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder"))
            .and_then(|()| std::fs::write(path, name))
            .expect("written");
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    let ids = |folders: &[&str], known: &HashMap<PathBuf, String>| {
        let paths: Vec<String> = folders.iter().map(|name| path(name)).collect();
        let rules = WalkRules { known: known.clone(), ..WalkRules::default() };
        let found = walk(&paths, &rules, &CancellationToken::new()).expect("walked");
        found.files.into_iter().map(|file| (file.path, file.id)).collect::<HashMap<_, _>>()
    };
    let one = ids(&["a"], &HashMap::new());
    assert_eq!(one[Path::new(&path("a/x.md"))], "x.md");
    for folders in [["a", "b"], ["b", "a"]] {
        let both = ids(&folders, &one);
        assert!(one.iter().all(|(path, id)| both[path] == *id), "{folders:?}");
        assert_eq!(both[Path::new(&path("b/x.md"))], path("b/x.md"));
    }
    // As earlier versions called them: both by their absolute paths.
    let old: HashMap<PathBuf, String> =
        ["a/x.md", "b/x.md"].map(|name| (path(name).into(), path(name))).into();
    assert_eq!(ids(&["a"], &old)[Path::new(&path("a/x.md"))], path("a/x.md"));
    // Without any that is known the first folder's are called as if they were alone.
    assert_eq!(ids(&["a", "b"], &HashMap::new())[Path::new(&path("a/x.md"))], "x.md");
}

#[test]
fn a_folder_that_is_given_twice_is_read_once() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(folder.path().join("in")).expect("made");
    std::fs::write(folder.path().join("in/a.md"), "a").expect("written");
    let links = tempfile::tempdir().expect("a temporary directory");
    let link = links.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).expect("linked");
    let given =
        [folder.path().to_owned(), folder.path().join("in"), folder.path().join("in/a.md"), link];
    let walk = found(&given.map(|path| path.display().to_string())).expect("walked");
    assert_eq!((walk.files.len(), walk.files[0].id.as_str(), walk.twice.len()), (1, "in/a.md", 3));
}

#[test]
fn names_that_are_no_text_are_told_from_one_another() {
    use std::os::unix::ffi::OsStringExt as _;
    let folder = tempfile::tempdir().expect("a temporary directory");
    for byte in [0xe8, 0xe9] {
        let name = std::ffi::OsString::from_vec([b"caf".as_slice(), &[byte], b".md"].concat());
        std::fs::write(folder.path().join(name), "x").expect("written");
    }
    let ids: Vec<String> = found(&[folder.path().display().to_string()])
        .expect("walked")
        .files
        .into_iter()
        .map(|f| f.id)
        .collect();
    assert_eq!(ids, ["caf\\xE8.md", "caf\\xE9.md"]);
}

#[test]
fn a_folder_of_tables_is_one_and_a_folder_with_a_document_is_documents() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let write =
        |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    let decide = |paths: &[String]| {
        Format::decide(None, paths, &WalkRules::default(), &CancellationToken::new())
    };
    let of = || decide(&[folder.path().display().to_string()]);
    assert_eq!(of().ok(), Some(None), "nothing is of no kind");
    write("a.csv", "a\n1\n");
    write("b.TSV", "a\n2\n");
    write("_SUCCESS", "");
    assert_eq!(of().ok(), Some(Some(Format::Csv)));
    write("c.jsonl", "{}\n");
    assert!(of().is_err_and(|error| error.given.ends_with("c.jsonl")));
    let glob = [format!("{}/*.[ct]sv", folder.path().display())];
    assert_eq!(decide(&glob).ok(), Some(Some(Format::Csv)));
    write("README.md", "x");
    assert_eq!(of().ok(), Some(Some(Format::Documents)));
    write("part-00000", "PAR1");
    assert_eq!(
        Format::of(None, &[folder.path().join("part-00000").display().to_string()]).ok(),
        Some(Format::Parquet)
    );
}

#[test]
fn kinds_are_told_by_their_endings_and_not_mixed() {
    let of = |paths: &[&str]| {
        Format::of(None, &paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(of(&["/a/x.csv", "/b.tsv"]).ok(), Some(Format::Csv));
    assert_eq!(of(&["/a/X.CSV", "/b.Csv.GZ"]).ok(), Some(Format::Csv));
    for (text, format) in [
        ("[\n {\"a\": 1}]", Format::Jsonl),
        ("{\"a\": 1}\n{\"a\": 2}\n", Format::Jsonl),
        ("{\n \"name\": \"x\"\n}\n", Format::Documents),
        ("[1, 2]", Format::Documents),
    ] {
        let file = tempfile::Builder::new().suffix(".json").tempfile().expect("a temporary file");
        std::fs::write(file.path(), text).expect("written");
        assert_eq!(of(&[&file.path().display().to_string()]).ok(), Some(format), "{text}");
    }
    assert_eq!(of(&["/a", "/b.md"]).ok(), Some(Format::Documents));
    assert!(of(&["/a", "/b.csv"]).is_err());
    assert!(Format::of(Some("xml"), &[]).is_err());
}
