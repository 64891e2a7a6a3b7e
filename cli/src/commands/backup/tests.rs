//! Backups that are restored, and those that are refused.

use super::contents::files_below;
use super::*;

fn head() -> BackupHead {
    BackupHead {
        brahman_backup: FORMAT,
        version: "0".into(),
        created_ms: 1000,
        datasets: Vec::new(),
        indexes: Vec::new(),
        left_out: Vec::new(),
    }
}

fn archive(head: &BackupHead, folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_archive(
        &mut bytes,
        head,
        &files_below(folder, &mut Vec::new()).expect("listed"),
        &Output::kept(),
    )
    .expect("written");
    bytes
}

#[test]
fn a_backup_is_restored_whole_or_not_at_all() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (from, file) = (home.path().join("from"), home.path().join("x.tar"));
    fs::create_dir_all(from.join("catalog/.registry")).expect("made");
    fs::write(from.join("catalog/d.json"), "{}")
        .and_then(|()| fs::write(from.join("catalog/.registry/b"), "b"))
        .expect("written");
    let bytes = archive(&head(), &from);
    fs::write(&file, &bytes).expect("written");
    let ask = Restore { file: file.clone(), state: home.path().join("deep/state") };
    restore(&ask, &Output::kept()).expect("restored");
    assert_eq!(fs::read_to_string(ask.state.join("catalog/.registry/b")).expect("there"), "b");
    assert_eq!(
        fs::read_dir(home.path().join("deep")).expect("listed").count(),
        1,
        "nothing is left beside it"
    );
    let again = restore(&ask, &Output::kept()).expect_err("it is not empty");
    assert!(again.is::<BadInput>() && again.to_string().contains("not empty"), "{again:#}");
    // An empty folder is as good as none; any cut, and any flipped bit of content, is refused.
    for damage in [bytes.len() - 1500, bytes.len() / 2, 600] {
        fs::write(&file, &bytes[..damage]).expect("cut");
        let ask = Restore { file: file.clone(), state: home.path().join("empty") };
        fs::create_dir_all(&ask.state).expect("made");
        let refused = restore(&ask, &Output::kept()).expect_err("it is cut off");
        assert!(
            refused.is::<BadInput>() && refused.to_string().contains("nothing was changed"),
            "{refused:#}"
        );
        assert_eq!(fs::read_dir(&ask.state).expect("there").count(), 0);
    }
    let mut flipped = bytes.clone();
    let at = flipped.windows(2).rposition(|two| two == b"{}").expect("the content of d.json");
    flipped[at] = b'[';
    fs::write(&file, &flipped).expect("damaged");
    let refused =
        restore(&Restore { file: file.clone(), state: home.path().join("empty") }, &Output::kept())
            .expect_err("damaged");
    assert!(format!("{refused:#}").contains("d.json is not what was written"), "{refused:#}");
    let newer = BackupHead { brahman_backup: FORMAT + 1, ..head() };
    fs::write(&file, archive(&newer, &from)).expect("written");
    let refused = restore(&Restore { file, state: home.path().join("empty") }, &Output::kept())
        .expect_err("it is newer");
    assert!(refused.to_string().contains("newer brahman"), "{refused:#}");
}

#[test]
fn links_are_told_but_at_the_top_where_they_are_followed() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let [state, staging, elsewhere] =
        ["state", "staging", "elsewhere"].map(|name| home.path().join(name));
    for folder in [&state, &staging, &elsewhere] {
        fs::create_dir(folder).expect("made");
    }
    fs::write(elsewhere.join("x"), "x").expect("written");
    let link = |to: &Path, at: PathBuf| std::os::unix::fs::symlink(to, at).expect("linked");
    link(&elsewhere, state.join("ingest"));
    link(&elsewhere.join("x"), state.join("index.toml"));
    link(&elsewhere.join("x"), elsewhere.join("inner"));
    link(&home.path().join("nowhere"), state.join("lost"));
    let mut left_out = Vec::new();
    let found = contents(&state, &staging, &[], &mut left_out).expect("listed");
    assert_eq!(found.keys().collect::<Vec<_>>(), ["index.toml", "ingest/x"]);
    left_out.sort();
    assert_eq!(left_out.len(), 2, "{left_out:?}");
    assert!(
        left_out[0].contains("ingest/inner: a symbolic link") && left_out[1].starts_with("lost: "),
        "{left_out:?}"
    );
}

#[test]
fn what_no_restore_would_read_is_not_written() {
    assert!(check_own(HEAD, OWN_BYTES_MAX).is_ok() && check_own(HEAD, OWN_BYTES_MAX + 1).is_err());
    let paths = [HEAD, "catalog/d.json", "buckets/primary/\"ü\".bin"];
    let sums =
        Sums { files: paths.iter().map(|path| ((*path).to_owned(), "0".repeat(64))).collect() };
    let bytes = serde_json::to_vec(&sums).expect("JSON").len() as u64;
    assert_eq!(sums_bytes(paths.into_iter()), bytes + 1, "but for the last comma");
}
