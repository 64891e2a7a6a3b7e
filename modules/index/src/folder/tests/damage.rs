//! Files that are damaged: found, mended or survived, and never built upon.

use super::*;

#[test]
fn a_flipped_byte_in_any_file_is_found_and_mended_or_survived() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let first = base(&folder, 1100).expect("committed");
    let second = append(&folder, &first).expect("appended");
    let wanted = seen(&second);
    let m = &second.manifest;
    let own = m.base.as_ref().expect("a base");
    let mut files = vec![
        &own.graph,
        &own.rows_file,
        &m.segments[0].file,
        m.dead.as_ref().expect("dead rows"),
        &own.segment,
    ];
    files.extend(own.lexical.iter().flatten().filter(|file| file.bytes > 0));
    let others = [format!("{}/manifest.json", second.folder), "CURRENT".to_owned()];
    for file in files.iter().map(|f| f.path.clone()).chain(others) {
        let at = path.path().join(&file);
        let good = fs::read(&at).expect("there");
        let mut bytes = good.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::write(&at, &bytes).expect("damaged");
        let named = folder
            .manifest(&second.folder)
            .is_ok_and(|m| folder.verify(&m).iter().any(|damage| damage.path == file));
        assert!(named || file.ends_with(".json") || file == "CURRENT", "{file} is not named");
        match folder.open() {
            Ok((Some(opened), degraded)) => {
                let is_old = degraded.is_some_and(|why| why.contains("answers instead"));
                assert!(is_old || opened.manifest.number == 2, "{file}");
            }
            Ok((None, _)) => panic!("{file}: the index is lost"),
            Err(error) => assert!(chain(&error).contains(&file), "{file}: {error}"),
        }
        // Graph and rows are made again from the segments.
        if file.contains("gen-") && (file.ends_with("graph.flat") || file.ends_with("rows.bin")) {
            let mended = folder.repair(&second.folder, "d", 2).expect("mended");
            assert_eq!(seen(&mended), wanted);
            let refused = folder.point(&second.folder, "test", false).expect_err("it is damaged");
            assert!(Damage::of(&refused).is_some_and(|damage| damage.path == file), "{refused}");
            fs::write(&at, &good).expect("restored");
            folder.point(&second.folder, "test", false).expect("back");
            fs::remove_dir_all(path.path().join(&mended.folder)).expect("removed");
        }
        if file.ends_with(".parquet") || file.ends_with("dead.u32") {
            let error = folder
                .repair(&second.folder, "d", 2)
                .expect_err("nothing is built from what is damaged");
            assert!(chain(&error).contains(&file), "{error}");
        }
        fs::write(&at, &good).expect("restored");
    }
    assert_eq!(seen(&folder.open().expect("opens").0.expect("there")), wanted);
}

/// One damaged byte in a manifest, then a restart: the sweep took the segments for leftovers.
#[test]
fn a_damaged_manifest_costs_nothing_but_itself_and_is_said() {
    for damaged in ["first", "second", "CURRENT"] {
        let path = tempfile::tempdir().expect("a temporary directory");
        let folder = Folder::new(path.path(), Steps::default());
        let first = base(&folder, 1100).expect("committed");
        let second = append(&folder, &first).expect("appended");
        let wanted = seen(&second);
        let before = files(path.path());
        let file = match damaged {
            "first" => path.path().join(&first.folder).join(MANIFEST),
            "second" => path.path().join(&second.folder).join(MANIFEST),
            _ => path.path().join(CURRENT),
        };
        let good = fs::read(&file).expect("there");
        for at in [2, good.len() / 2, good.len() - 8] {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            fs::write(&file, &bytes).expect("damaged");
            let (opened, degraded) = folder.open().expect("something is whole");
            assert_eq!(
                degraded.is_some(),
                damaged != "first",
                "{damaged}: what answers in another's place says so"
            );
            let held = HashSet::from([opened.expect("there").folder]);
            let swept = folder.collect(&held);
            assert!(
                matches!(&swept, Sweep::Refused(why) if !why.is_empty()),
                "{damaged}: {swept:?}"
            );
            assert!(
                swept.words().is_some_and(|words| words.contains("could not be read")),
                "{damaged}"
            );
            assert_eq!(files(path.path()), before, "{damaged}: nothing is gone");
        }
        // A missing one is no better than a damaged one; of the first only the base is needed, and
        // that is named by the second.
        fs::remove_file(&file).expect("removed");
        assert!(
            damaged == "first" || matches!(folder.collect(&HashSet::new()), Sweep::Refused(_)),
            "{damaged}"
        );
        fs::write(&file, &good).expect("restored");
        assert_eq!(files(path.path()), before, "{damaged}");
        assert_eq!(folder.collect(&HashSet::new()).words(), None);
        assert_eq!(seen(&folder.open().expect("opens").0.expect("there")), wanted);
    }
}

#[test]
fn a_generation_that_cannot_be_read_is_put_aside_when_asked_and_numbers_are_not_used_twice() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let first = base(&folder, 1100).expect("committed");
    let second = append(&folder, &first).expect("appended");
    fs::write(path.path().join(&second.folder).join(MANIFEST), "{").expect("damaged");
    assert!(folder.next_number(1) > 2, "the damaged one has a number too");
    folder.point(&first.folder, "test", false).expect("back");
    assert_eq!(folder.put_aside().expect("aside"), [second.folder.as_str()]);
    assert_eq!(folder.collect(&HashSet::new()).words(), None);
    assert!(path.path().join(format!("aside-{}", second.folder)).join(MANIFEST).exists());
    assert_eq!(folder.open().expect("opens").0.expect("there").manifest.number, 1);
}

/// Gone, cut or damaged between planning and commit: the pointer does not move.
#[test]
fn nothing_is_committed_that_names_a_file_which_is_not_whole() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let first = base(&folder, 1100).expect("committed");
    let second = append(&folder, &first).expect("appended");
    let m = &second.manifest;
    let own = m.base.as_ref().expect("a base");
    for file in [&own.segment, &own.graph, &own.rows_file, &m.segments[0].file] {
        let at = path.path().join(&file.path);
        let good = fs::read(&at).expect("there");
        let mut flipped = good.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        for damage in [None, Some(good[..good.len() - 1].to_vec()), Some(flipped)] {
            match damage {
                None => fs::remove_file(&at).expect("removed"),
                Some(bytes) => fs::write(&at, bytes).expect("damaged"),
            }
            let before = files(path.path());
            let error = folder
                .commit_delta(
                    &second,
                    manifest(3, Some(&second.folder)),
                    "d",
                    &content(5, 30_000..30_005),
                    &second.dead(),
                )
                .expect_err("refused");
            assert!(Damage::of(&error).is_some_and(|damage| damage.path == file.path), "{error}");
            assert_eq!(folder.pointer().expect("whole").expect("there").generation, second.folder);
            assert_eq!(files(path.path()), before, "and nothing is left of it");
            fs::write(&at, &good).expect("restored");
        }
    }
    let third = folder.commit_delta(
        &second,
        manifest(3, Some(&second.folder)),
        "d",
        &content(5, 30_000..30_005),
        &second.dead(),
    );
    assert_eq!(third.expect("all is whole again").manifest.number, 3);
}

#[test]
fn a_flipped_bit_among_the_words_gives_the_right_answers_and_is_said() {
    let path = tempfile::tempdir().expect("a temporary directory");
    let folder = Folder::new(path.path(), Steps::default());
    let whole = base(&folder, 1100).expect("committed");
    let ask = |generation: &Generation| {
        generation.words("words 77", 5, &generation.allowed(None)).expect("words").rows
    };
    let wanted = ask(&whole);
    assert_eq!(whole.words_trouble(), None);
    let own = whole.manifest.base.as_ref().expect("a base");
    let words = own.lexical.as_ref().expect("words have checksums");
    assert!(words.len() >= 6, "{words:?}");
    for file in words.iter().filter(|file| file.bytes > 0) {
        let at = path.path().join(&file.path);
        let good = fs::read(&at).expect("there");
        for place in [good.len() / 3, good.len() - 1] {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            fs::write(&at, &bytes).expect("damaged");
            let opened = folder.open().expect("opens").0.expect("there");
            assert_eq!(ask(&opened), wanted, "{}", file.path);
            assert!(
                opened.words_trouble().is_some_and(|why| why.contains(&file.path)),
                "{:?}",
                opened.words_trouble()
            );
            assert!(
                folder.verify(&opened.manifest).iter().any(|damage| damage.path == file.path),
                "{} is named",
                file.path
            );
        }
        fs::write(&at, &good).expect("restored");
    }
    // From before there were checksums: the words are opened as they are.
    let mut old = whole.manifest.clone();
    old.base.as_mut().expect("a base").lexical = None;
    fs::write(
        path.path().join(&whole.folder).join(MANIFEST),
        serde_json::to_vec(&old).expect("JSON"),
    )
    .expect("written");
    let opened = folder.open().expect("opens").0.expect("there");
    assert_eq!((ask(&opened), opened.words_trouble()), (wanted, None));
}
