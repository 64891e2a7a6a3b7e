//! The rules of numbers that identify people beside python-stdnum's, on random numbers: what one
//! takes the other takes, too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use brahman_ingest::pii::checks;

/// Numbers of each rule.
const COUNT: &str = "10000";

#[test]
fn every_rule_takes_what_python_stdnum_takes_and_nothing_else() {
    let tools = std::env::var_os("BRAHMAN_TEST_TOOLS")
        .expect("BRAHMAN_TEST_TOOLS is not set: run `make test`, which installs python-stdnum");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/identity.py");
    let out = Command::new(PathBuf::from(tools).join("bin/python3"))
        .args([script, COUNT, "23"])
        .output()
        .expect("it runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let rules: BTreeMap<&str, fn(&str) -> bool> =
        checks::RULES.iter().copied().chain([("issn", checks::issn as fn(&str) -> bool)]).collect();
    let mut counts: BTreeMap<&str, (usize, usize)> =
        rules.keys().map(|name| (*name, (0, 0))).collect();
    let mut other: Vec<&str> = Vec::new();
    let text = String::from_utf8(out.stdout).expect("text");
    for line in text.lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        let [rule, number, valid] = parts[..] else { panic!("{line}") };
        let count = counts.get_mut(rule).unwrap_or_else(|| panic!("no rule {rule}"));
        count.0 += 1;
        count.1 += usize::from(valid == "1");
        if rules[rule](number) != (valid == "1") {
            other.push(line);
        }
    }
    assert!(
        other.is_empty(),
        "{} numbers are judged otherwise, such as {:?}",
        other.len(),
        &other[..other.len().min(20)]
    );
    // A test that compares nothing but refusals would compare nothing.
    assert!(
        counts.values().all(|(all, right)| *all > 9000 && *right > 1000 && right < all),
        "{counts:?}"
    );
}
