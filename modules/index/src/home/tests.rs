//! Moves that are stopped at every step, and homes that are gone, damaged or no homes.

use super::*;

/// A stub with some files; nothing in it is a generation.
fn made(folder: &Path) -> (PathBuf, Home) {
    let stub = folder.join("indexes/x");
    fs::create_dir_all(stub.join("trials")).expect("made");
    for (name, text) in [("index.json", "{}"), ("notes.txt", "c"), ("trials/journal.log", "one")] {
        fs::write(stub.join(name), text).expect("written");
    }
    let home = Home::open(&stub).expect("opens");
    (stub, home)
}

fn moved(home: &Home, stub: &Path, path: &Path, steps: &Steps) -> io::Result<Home> {
    home.copy(stub, path, steps, &|_| true)?;
    // A trial that ended while the rest was copied.
    fs::write(home.path.join("trials/journal.log"), "one two")?;
    let home = home.flip(stub, "big", path, &["trials", "evals"], steps)?.cleared(stub);
    steps.pass("cleared")?;
    Ok(home)
}

#[test]
fn a_move_that_stops_anywhere_leaves_one_whole_home_and_can_be_done_again() {
    for stop in 0..5 {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (stub, home) = made(folder.path());
        let path = folder.path().join("disk/indexes/x");
        assert!(moved(&home, &stub, &path, &Steps::stopping_at(stop)).is_err(), "{stop}");
        // What a restart finds.
        let home = Home::open(&stub).expect("opens");
        assert_eq!(home.bucket == "big", stop >= 3, "{stop}");
        let there = |home: &Home| fs::read_to_string(home.path.join("notes.txt")).expect("there");
        assert_eq!(
            (there(&home).as_str(), home.is_there(), stub.join("index.json").exists()),
            ("c", Ok(()), true)
        );
        let home = if home.bucket == "big" {
            home
        } else {
            moved(&home, &stub, &path, &Steps::default()).expect("moved")
        };
        assert_eq!((there(&home).as_str(), home.left.clone()), ("c", None));
        assert_eq!(fs::read_to_string(path.join("trials/journal.log")).expect("there"), "one two");
        assert!(!stub.join("notes.txt").exists() && !path.join(MOVING).exists());
        // And on: the place that is left keeps a note, and can be moved into again.
        let other = folder.path().join("other/indexes/x");
        let home = moved(&home, &stub, &other, &Steps::default()).expect("moved");
        assert_eq!(fs::read_dir(&path).expect("there").count(), 1);
        let home = moved(&home, &stub, &path, &Steps::default()).expect("moved back");
        assert_eq!(there(&home), "c");
        home.delete(&stub).expect("deleted");
        assert!(!stub.exists() && !path.exists());
    }
}

#[test]
fn a_place_that_is_taken_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (stub, home) = made(folder.path());
    let path = folder.path().join("disk/indexes/x");
    fs::create_dir_all(&path).expect("made");
    fs::write(path.join("index.json"), "another's").expect("written");
    let error = home.copy(&stub, &path, &Steps::default(), &|_| true).expect_err("taken");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    Home::make(&stub, "big", &path).expect_err("taken");
    assert_eq!(fs::read_to_string(path.join("index.json")).expect("there"), "another's");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// Not as after a kill: the program goes on, and has to clear up behind itself.
#[test]
fn a_move_that_fails_anywhere_leaves_no_copy() {
    for at in ["copied", "verified", "renamed"] {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (stub, home) = made(folder.path());
        let path = folder.path().join("disk/indexes/x");
        let steps =
            Steps::asking(
                move |step| {
                    if step == at { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
                },
            );
        moved(&home, &stub, &path, &steps).expect_err("it failed");
        let left: Vec<PathBuf> =
            files(folder.path()).into_iter().filter(|file| !file.starts_with(&stub)).collect();
        assert!(left.is_empty(), "{at}: {left:?}");
        assert_eq!(Home::open(&stub).expect("opens").path, stub);
        assert_eq!(moved(&home, &stub, &path, &Steps::default()).expect("moved").bucket, "big");
    }
}

#[test]
fn an_index_with_an_unreadable_generation_is_not_moved() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (stub, home) = made(folder.path());
    fs::create_dir(stub.join("gen-1")).expect("made");
    fs::write(stub.join("gen-1/manifest.json"), "{").expect("written");
    let error = home
        .copy(&stub, &folder.path().join("disk/indexes/x"), &Steps::default(), &|_| true)
        .expect_err("refused");
    assert!(chain(&error).contains("gen-1/manifest.json"), "{error}");
}

#[test]
fn what_was_left_stays_while_the_new_home_is_not_to_be_seen() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (stub, home) = made(folder.path());
    let path = folder.path().join("disk/indexes/x");
    home.copy(&stub, &path, &Steps::default(), &|_| true).expect("copied");
    home.flip(&stub, "big", &path, &[], &Steps::default()).expect("flipped");
    fs::rename(folder.path().join("disk"), folder.path().join("unmounted")).expect("renamed");
    assert_eq!(Home::open(&stub).expect("opens").left, Some(stub.clone()));
    assert!(stub.join("notes.txt").exists());
    fs::rename(folder.path().join("unmounted"), folder.path().join("disk")).expect("renamed");
    assert_eq!(Home::open(&stub).expect("opens").left, None);
    assert!(!stub.join("notes.txt").exists());
}

#[test]
fn a_home_that_is_gone_is_said_and_is_not_here() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (stub, home) = made(folder.path());
    let path = folder.path().join("disk/indexes/x");
    moved(&home, &stub, &path, &Steps::default()).expect("moved");
    let bytes = fs::read(stub.join(HOME)).expect("there");
    // As it was written before there was a note: the next opening makes one.
    fs::remove_file(stub.join(AWAY)).expect("removed");
    assert_eq!(Home::open(&stub).expect("opens").path, path);
    fs::remove_file(stub.join(HOME)).expect("removed");
    let why = Home::open(&stub).expect_err("it is not here").to_string();
    assert!([HOME, AWAY, "`big`", "disk/indexes/x"].iter().all(|word| why.contains(word)), "{why}");
    // What the message says to do.
    fs::copy(stub.join(AWAY), stub.join(HOME)).expect("copied");
    assert_eq!(
        (Home::open(&stub).expect("opens").path, fs::read(stub.join(HOME)).expect("there")),
        (path, bytes)
    );
    fs::remove_file(stub.join(HOME)).expect("removed");
    fs::write(stub.join(AWAY), "{").expect("damaged");
    assert!(Home::open(&stub).is_err_and(|e| e.to_string().contains(HOME)));
}

#[test]
fn a_home_that_names_any_folder_is_refused_and_the_folder_left() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (stub, _) = made(folder.path());
    let theirs = folder.path().join("photos");
    fs::create_dir_all(theirs.join("indexes/y")).expect("made");
    fs::write(theirs.join("indexes/y/one.jpg"), "work").expect("written");
    let up = folder.path().join("disk/../photos/indexes/x");
    for path in [
        theirs.clone(),
        theirs.join("indexes/y"),
        theirs.join("indexes"),
        folder.path().to_owned(),
        "/".into(),
        up,
        "x".into(),
    ] {
        for (path, left) in [(path.clone(), None), (stub.clone(), Some(path))] {
            Home { bucket: "big".into(), path: path.clone(), left }.save(&stub).expect("saved");
            let why = Home::open(&stub).expect_err("refused").to_string();
            assert!(why.contains(HOME) && why.contains("indexes/x"), "{}: {why}", path.display());
        }
    }
    assert!(theirs.join("indexes/y/one.jpg").exists() && stub.join("notes.txt").exists());
    // Nor is one removed that got into memory some other way.
    Home { bucket: "big".into(), path: theirs.clone(), left: None }.delete(&stub).expect("deleted");
    assert!(theirs.join("indexes/y/one.jpg").exists() && !stub.exists());
}

#[test]
fn a_damaged_home_is_said_and_a_deletion_that_was_cut_off_is_finished() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (stub, _) = made(folder.path());
    let home = Home::make(&stub, "big", &folder.path().join("disk/indexes/x")).expect("made");
    let mut bytes = fs::read(stub.join(HOME)).expect("there");
    bytes[20] ^= 4;
    fs::write(stub.join(HOME), bytes).expect("damaged");
    assert!(Home::open(&stub).is_err_and(|e| e.to_string().contains(HOME)));
    home.save(&stub).expect("saved");
    fs::rename(&stub, folder.path().join("indexes/.deleted-1")).expect("renamed");
    finish_deletions(&folder.path().join("indexes"));
    assert_eq!(fs::read_dir(folder.path().join("indexes")).expect("there").count(), 0);
}
