//! The group that a mesh is opened to: `$BRAHMAN_GROUP`, a name or a number.
//!
//! The kernel is the first gate: sockets are 0660 and belong to that group. [`is_member`] is the
//! second, for whoever answers on them. Membership lets in; it administers nothing.

use std::env;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use thiserror::Error;

/// Why the group cannot be let in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "BRAHMAN_GROUP: `{given}` is no group of this machine; expected a group's name or number, such as `{}`",
    example()
)]
pub struct GroupError {
    /// What the variable holds.
    pub given: String,
}

/// A group that this machine does have, for the message: the process's own.
fn example() -> String {
    let own = nix::unistd::getegid().as_raw();
    name_of(own, &fs::read_to_string("/etc/group").unwrap_or_default())
        .unwrap_or_else(|| own.to_string())
}

/// The group that `$BRAHMAN_GROUP` names; none if it is unset or empty. Looked up once a process.
///
/// # Errors
/// If it names no group.
pub fn mesh_group() -> Result<Option<u32>, GroupError> {
    static GROUP: OnceLock<Result<Option<u32>, GroupError>> = OnceLock::new();
    GROUP
        .get_or_init(|| {
            env::var_os("BRAHMAN_GROUP")
                .filter(|v| !v.is_empty())
                .map(|v| group_id(&v.to_string_lossy()))
                .transpose()
        })
        .clone()
}

/// The number of a group, from a number, `/etc/group`, or `getent` where groups come from a
/// directory service.
fn group_id(given: &str) -> Result<u32, GroupError> {
    let error = || GroupError { given: given.to_owned() };
    if given.bytes().all(|b| b.is_ascii_digit()) {
        // The largest number means "no group" to the kernel.
        return given.parse().ok().filter(|gid| *gid != u32::MAX).ok_or_else(error);
    }
    if given.starts_with('-') || given.contains([':', '\n', '\0']) {
        return Err(error());
    }
    if let Some(gid) = find(given, &fs::read_to_string("/etc/group").unwrap_or_default()) {
        return Ok(gid);
    }
    let asked = Command::new("getent").args(["group", given]).output().map_err(|_| error())?;
    find(given, &String::from_utf8_lossy(&asked.stdout)).ok_or_else(error)
}

/// Lines are `name:password:number:members`.
fn find(name: &str, groups: &str) -> Option<u32> {
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

fn name_of(gid: u32, groups: &str) -> Option<String> {
    let number = gid.to_string();
    let line = groups.lines().find(|line| line.split(':').nth(2) == Some(number.as_str()))?;
    line.split(':').next().map(str::to_owned)
}

/// Whether a user belongs to a group, as its account or as the process `pid` says that it runs for
/// the user.
///
/// True as well where neither can tell (an account of a directory service, a hidden `/proc`):
/// whoever got in through a socket of mode 0660 was let in by the kernel. False means that
/// something says no.
#[must_use]
pub fn is_member(uid: u32, pid: i32, gid: u32) -> bool {
    let running = fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|status| runs_in(uid, gid, &status));
    if running == Some(true) {
        return true;
    }
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    account_in(uid, gid, &read("/etc/passwd"), &read("/etc/group")).or(running).unwrap_or(true)
}

/// By the accounts: none for a uid that they do not hold.
fn account_in(uid: u32, gid: u32, accounts: &str, groups: &str) -> Option<bool> {
    let (uid, gid) = (uid.to_string(), gid.to_string());
    let account: Vec<&str> = accounts
        .lines()
        .map(|line| line.split(':').collect())
        .find(|f: &Vec<&str>| f.get(2) == Some(&uid.as_str()))?;
    let (name, primary) = (account.first()?, account.get(3)?);
    let listed = groups.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        fields.get(2) == Some(&gid.as_str())
            && fields.get(3).is_some_and(|members| members.split(',').any(|m| m.trim() == *name))
    });
    Some(*primary == gid || listed)
}

/// By `/proc/PID/status`: none if the process is another user's by now.
fn runs_in(uid: u32, gid: u32, status: &str) -> Option<bool> {
    let numbers = |key: &str| -> Option<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.split_whitespace().filter_map(|n| n.parse().ok()).collect())
    };
    // Real, effective, saved, file system.
    if numbers("Uid:")?.get(1) != Some(&uid) {
        return None;
    }
    Some(numbers("Gid:")?.get(1) == Some(&gid) || numbers("Groups:")?.contains(&gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &str = "root:x:0:\nmesh:x:1500:ann, bob\nmeshes:x:1501:eve\n";
    const ACCOUNTS: &str = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\ncid:x:1002:1500::/:/bin/sh\neve:x:1003:1003::/:/bin/sh\n";

    #[test]
    fn a_group_is_found_by_its_whole_name_or_its_number() {
        assert_eq!(
            (find("mesh", GROUPS), find("mes", GROUPS), find("meshes", GROUPS)),
            (Some(1500), None, Some(1501))
        );
        assert_eq!(group_id("1500"), Ok(1500));
        assert_eq!(group_id("root"), Ok(0));
        for wrong in ["no-such-group-here", "4294967295", "99999999999", "-s", "a:b"] {
            let words = group_id(wrong).expect_err(wrong).to_string();
            assert!(words.contains(wrong) && words.contains("BRAHMAN_GROUP"), "{words}");
        }
    }

    #[test]
    fn members_are_those_that_the_group_lists_and_those_whose_first_group_it_is() {
        let member = |uid| account_in(uid, 1500, ACCOUNTS, GROUPS);
        assert_eq!(
            (member(1000), member(1002), member(1003), member(4000)),
            (Some(true), Some(true), Some(false), None)
        );
    }

    #[test]
    fn a_process_says_for_which_groups_it_runs() {
        let status = "Name:\tx\nUid:\t1003\t1003\t1003\t1003\nGid:\t1003\t1003\t1003\t1003\nGroups:\t4 1500 \n";
        assert_eq!(
            (runs_in(1003, 1500, status), runs_in(1003, 1501, status), runs_in(7, 1500, status)),
            (Some(true), Some(false), None)
        );
    }
}
