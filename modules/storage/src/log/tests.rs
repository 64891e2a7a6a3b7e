//! Any history of a journal, cut or damaged anyhow: nothing is invented, and nothing that is gone
//! is gone in silence.

use proptest::prelude::*;

use super::*;

fn open(path: &Path) -> (Log, Vec<u32>) {
    Log::open(path).expect("opens")
}

fn head(path: &Path) -> PathBuf {
    beside(path, ".head")
}

/// What is done to a journal.
#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Reopen,
    /// Keeps this many of the newest.
    Compact(usize),
}

/// What happens to its file behind its back.
#[derive(Clone, Debug)]
enum Harm {
    Delete(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Double(prop::sample::Index, prop::sample::Index),
    Alter(prop::sample::Index, u8),
    Truncate(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_usize..4).prop_map(Step::Append),
        1 => Just(Step::Reopen),
        1 => (0_usize..6).prop_map(Step::Compact),
    ];
    prop::collection::vec(step, 1..12)
}

fn harms() -> impl Strategy<Value = Harm> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        at().prop_map(Harm::Delete),
        (at(), at()).prop_map(|(a, b)| Harm::Swap(a, b)),
        (at(), at()).prop_map(|(a, b)| Harm::Double(a, b)),
        (at(), 1_u8..).prop_map(|(a, bits)| Harm::Alter(a, bits)),
        at().prop_map(Harm::Truncate),
    ]
}

/// Carries steps out; gives what the journal holds. Numbers grow, so that their order shows.
fn carry_out(path: &Path, steps: &[Step]) -> Vec<u32> {
    let (mut log, mut held) = open(path);
    let mut next = 1000;
    for step in steps {
        match step {
            Step::Append(count) => {
                let batch: Vec<u32> = (next..).take(*count).collect();
                next += batch.len() as u32;
                log.append(&batch).expect("appended");
                held.extend(batch);
            }
            Step::Reopen => {
                drop(log);
                let (again, read) = open(path);
                assert_eq!((&read, again.damage), (&held, Damage::default()));
                log = again;
            }
            Step::Compact(keep) => {
                held.drain(..held.len().saturating_sub(*keep));
                log.compact(&held).expect("compacted");
            }
        }
    }
    held
}

fn harmed(bytes: &[u8], harm: &Harm) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> =
        bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    match harm {
        Harm::Delete(at) => drop(lines.remove(at.index(lines.len()))),
        Harm::Swap(a, b) => {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
        }
        Harm::Double(from, to) => {
            let line = lines[from.index(lines.len())].clone();
            lines.insert(to.index(lines.len() + 1), line);
        }
        Harm::Alter(at, bits) => {
            let mut bytes = bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
            return bytes;
        }
        Harm::Truncate(at) => return bytes[..at.index(bytes.len())].to_vec(),
    }
    lines.concat()
}

proptest! {
    #[test]
    fn whatever_happens_to_the_file_nothing_is_invented_and_nothing_goes_in_silence(
        steps in steps(),
        harm in harms(),
    ) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("log");
        let held = carry_out(&path, &steps);
        let bytes = fs::read(&path).expect("there");
        prop_assume!(!bytes.is_empty());
        let after = harmed(&bytes, &harm);
        fs::write(&path, &after).expect("harmed");
        let (log, read) = open(&path);
        prop_assert!(
            read.is_sorted_by(|a, b| a < b) && read.iter().all(|n| held.contains(n)),
            "{:?} of {:?}",
            read,
            held
        );
        let same = bytes
            .iter()
            .zip(&after)
            .take_while(|(a, b)| a == b)
            .filter(|(a, _)| **a == b'\n')
            .count();
        prop_assert!(
            read.starts_with(&held[..same]),
            "what lies before the harm is there: {:?} of {:?}",
            read,
            held
        );
        prop_assert_eq!(log.damage.is_loss(), after != bytes, "{:?}", log.damage);
        prop_assert_eq!(log.shortfall().is_some(), after != bytes);
        prop_assert!(after != bytes || read == held);
        drop(log);
        // It was set aside once, and stays said.
        let (mut log, again) = open(&path);
        prop_assert_eq!((&again, log.damage), (&read, Damage::default()));
        prop_assert_eq!(log.shortfall().is_some(), after != bytes);
        log.append(&[7_u32]).expect("goes on");
        let (_, last) = open(&path);
        prop_assert_eq!(last, [read, vec![7]].concat());
    }

    #[test]
    fn a_batch_that_was_not_acknowledged_is_cut_in_silence(
        steps in steps(),
        count in 1_usize..4,
        cut in any::<prop::sample::Index>(),
    ) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("log");
        let held = carry_out(&path, &steps);
        // A kill between the write and the note of it.
        let (before, noted) = (fs::read(&path).expect("there").len(), fs::read(head(&path)).ok());
        let (mut log, _) = open(&path);
        let batch: Vec<u32> = (5000..).take(count).collect();
        log.append(&batch).expect("appended");
        drop(log);
        match noted {
            Some(noted) => fs::write(head(&path), noted).expect("put back"),
            None => fs::remove_file(head(&path)).expect("removed"),
        }
        let bytes = fs::read(&path).expect("there");
        let length = before + cut.index(bytes.len() - before + 1);
        fs::write(&path, &bytes[..length]).expect("cut");
        let (log, read) = open(&path);
        prop_assert!(!log.damage.is_loss() && log.shortfall().is_none(), "{:?}", log.damage);
        prop_assert!(
            read.starts_with(&held) && [held, batch].concat().starts_with(&read),
            "{:?}",
            read
        );
    }

    #[test]
    fn after_a_cut_anywhere_all_whole_batches_are_there(
        batches in prop::collection::vec(prop::collection::vec(any::<u32>(), 1..4), 1..6),
        cut in any::<usize>(),
    ) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("log");
        let (mut log, _) = open(&path);
        let mut ends = vec![0];
        for batch in &batches {
            log.append(batch).expect("appended");
            ends.push(log.bytes().expect("there"));
        }
        let cut = cut as u64 % (ends[ends.len() - 1] + 1);
        OpenOptions::new().write(true).open(&path).expect("there").set_len(cut).expect("cut");
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        let acknowledged: Vec<u32> = batches[..whole].concat();
        let (mut log, read) = open(&path);
        prop_assert!(read.starts_with(&acknowledged) && batches.concat().starts_with(&read));
        log.append(&[7_u32]).expect("goes on");
        let (_, read) = open(&path);
        prop_assert_eq!(read.last(), Some(&7));
    }

    #[test]
    fn a_damaged_line_is_quarantined_and_the_others_stay(
        count in 2_u32..8,
        line in any::<usize>(),
        at in any::<usize>(),
    ) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("log");
        let (mut log, _) = open(&path);
        let all: Vec<u32> = (1000..1000 + count).collect();
        log.append(&all).expect("appended");
        let mut bytes = fs::read(&path).expect("there");
        let starts: Vec<usize> = std::iter::once(0)
            .chain(bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1))
            .collect();
        let line = line % count as usize;
        let (from, to) = (starts[line], starts[line + 1] - 1);
        bytes[from + at % (to - from)] ^= 0x80;
        fs::write(&path, bytes).expect("damaged");
        let (log, read) = open(&path);
        prop_assert_eq!(log.damage, Damage { quarantined: 1, ..Damage::default() });
        prop_assert_eq!(
            read,
            all.iter().copied().filter(|n| *n as usize != 1000 + line).collect::<Vec<_>>()
        );
        prop_assert!(folder.path().join("log.quarantine").exists());
        let (log, _) = open(&path);
        prop_assert_eq!(log.damage, Damage::default());
    }
}

/// As the first version wrote it.
fn first_version(seq: u64, payload: u32) -> String {
    let payload = payload.to_string();
    format!(
        "{{\"seq\":{seq},\"crc\":{},\"payload\":{payload}}}\n",
        crc32fast::hash(payload.as_bytes())
    )
}

#[test]
fn a_journal_of_the_first_version_is_read_and_gone_on_with() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("log");
    // With a gap: a quarantine of those days left one.
    let old: String =
        [(1, 10), (2, 11), (4, 12)].map(|(seq, payload)| first_version(seq, payload)).concat();
    fs::write(&path, &old).expect("written");
    let (mut log, read) = open(&path);
    assert_eq!((read, log.damage), (vec![10, 11, 12], Damage::default()));
    assert_eq!(fs::read_to_string(&path).expect("there"), old, "nothing is written anew for that");
    log.append(&[13, 14]).expect("appended");
    let (log, read) = open(&path);
    assert_eq!((read, log.damage), (vec![10, 11, 12, 13, 14], Damage::default()));
    // From the first link on, an old record that goes is missed as well.
    let text = fs::read_to_string(&path).expect("there");
    fs::write(&path, text.replace(&first_version(2, 11), "")).expect("harmed");
    let (log, read) = open(&path);
    assert_eq!((read, log.damage.missing), (vec![10, 12, 13, 14], 1));
    // What an earlier version makes of it: it reads what is linked, writes all anew, and knows no
    // head.
    fs::write(&path, first_version(1, 10) + &first_version(2, 12)).expect("written");
    let (log, read) = open(&path);
    assert_eq!((read, log.damage), (vec![10, 12], Damage::default()));
}

#[test]
fn a_journal_that_is_gone_is_missed() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("log");
    open(&path).0.append(&[1, 2]).expect("appended");
    fs::remove_file(&path).expect("removed");
    let (log, read) = open(&path);
    assert_eq!((read.len(), log.damage.missing), (0, 2));
    assert!(
        log.shortfall()
            .is_some_and(|why| why.contains("2 missing") && why.contains("log.quarantine"))
    );
    fs::remove_file(folder.path().join("log.quarantine")).expect("moved away");
    assert_eq!(log.shortfall(), None);
}

#[test]
fn a_head_that_is_gone_is_noted_anew_so_that_an_end_that_goes_later_is_missed() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("log");
    open(&path).0.append(&[1, 2]).expect("appended");
    fs::remove_file(head(&path)).expect("removed");
    let (log, read) = open(&path);
    assert_eq!((read, log.damage), (vec![1, 2], Damage::default()));
    let text = fs::read_to_string(&path).expect("there");
    fs::write(&path, text.split_inclusive('\n').take(1).collect::<String>()).expect("cut");
    assert_eq!(open(&path).0.damage.missing, 1);
}

#[test]
fn what_only_its_reader_misses_is_said_until_somebody_has_looked_at_it() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("log");
    let (mut log, _) = open(&path);
    log.append(&[1]).expect("appended");
    assert_eq!(log.shortfall(), None);
    log.note_missing(&serde_json::json!({"missing_runs": ["r"]})).expect("noted");
    for log in [log, open(&path).0] {
        assert!(
            log.shortfall().is_some_and(
                |why| why.contains("missing records") && why.contains("log.quarantine")
            )
        );
    }
    assert_eq!(open(&path).1, [1]);
    fs::remove_file(folder.path().join("log.quarantine")).expect("moved away");
    assert_eq!(open(&path).0.shortfall(), None);
}

#[test]
fn a_kill_anywhere_in_a_compaction_leaves_the_old_records_or_the_new() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("log");
    let (mut log, _) = open(&path);
    log.append(&[1, 2, 3, 4]).expect("appended");
    let (old, old_head) = (fs::read(&path).expect("there"), fs::read(head(&path)).expect("there"));
    log.compact(&[3, 4]).expect("compacted");
    let (new, new_head) = (fs::read(&path).expect("there"), fs::read(head(&path)).expect("there"));
    for (journal, head_file, held) in [
        (&old, &old_head, vec![1, 2, 3, 4]),
        (&old, &Vec::new(), vec![1, 2, 3, 4]),
        (&new, &Vec::new(), vec![3, 4]),
        (&new, &new_head, vec![3, 4]),
    ] {
        fs::write(&path, journal)
            .and_then(|()| fs::write(head(&path), head_file))
            .expect("written");
        let (log, read) = open(&path);
        assert_eq!((read, log.damage), (held, Damage::default()));
    }
}

#[test]
fn a_batch_that_failed_and_could_not_be_cut_off_is_cut_off_before_the_next() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("log");
    let (mut log, _) = open(&path);
    log.append(&[1]).expect("appended");
    let whole = log.bytes().expect("there");
    let mut rest = OpenOptions::new().append(true).open(&path).expect("there");
    rest.write_all(b"{\"v\":2,\"seq\":2,").expect("written");
    log.cut = Some(whole);
    log.append(&[2]).expect("appended");
    let (log, read) = open(&path);
    assert_eq!((read, log.damage), (vec![1, 2], Damage::default()));
}

#[test]
fn where_nothing_can_be_written_records_are_read_and_refused() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("log");
    let (mut log, _) = open(&path);
    log.append(&[1]).expect("appended");
    // The seam: permissions do not bind root.
    log.file = None;
    let refused = log.append(&[2]).expect_err("refused");
    assert!(
        refused.kind() == io::ErrorKind::ReadOnlyFilesystem
            && refused.to_string().contains("restart the module"),
        "{refused}"
    );
    assert_eq!(
        log.compact::<u32>(&[]).expect_err("refused").kind(),
        io::ErrorKind::ReadOnlyFilesystem
    );
    assert!(log.is_read_only() && open(&path).1 == [1]);
}
