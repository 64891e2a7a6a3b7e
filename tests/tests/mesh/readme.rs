//! README's lines, copied in order by somebody who has just built it: each works.
//!
//! What builds (`make`) is left out, for a test has what it would build; all else is run as it
//! stands, in one shell.

use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::process::{Command, Stdio};

use brahman_tests::{binary, repository, shared_cache};

/// The lines of README that a person types: those that begin with `$ ` in its blocks of code.
fn typed() -> Vec<String> {
    let text = std::fs::read_to_string(repository().join("README.md")).expect("README.md");
    let mut is_code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if let Some(typed) = line.strip_prefix("$ ").filter(|_| is_code) {
            lines.push(typed.to_owned());
        }
    }
    lines
}

/// A machine with nothing on it but the programs and what `brahman models pull` has fetched. Its
/// mesh ends with it.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(
            tempfile::Builder::new()
                .prefix("brahman-test-")
                .tempdir()
                .expect("a temporary directory"),
        );
        std::fs::DirBuilder::new().mode(0o700).create(machine.0.path().join("run")).expect("made");
        std::fs::create_dir(machine.0.path().join("cache")).expect("made");
        for part in ["models", "onnxruntime"] {
            symlink(shared_cache().join(part), machine.0.path().join("cache").join(part))
                .expect("linked");
        }
        machine
    }

    fn command(&self, program: &str) -> Command {
        let programs = binary("brahman").parent().expect("a folder").to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&path)))
            .expect("a path");
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.0.path())
            .env("XDG_RUNTIME_DIR", self.0.path().join("run"));
        command
            .env("BRAHMAN_CACHE", self.0.path().join("cache"))
            .env("BRAHMAN_EMBED_THREADS", "2")
            .current_dir(repository());
        if let Some(library) = std::env::var_os("ORT_DYLIB_PATH") {
            command.env("ORT_DYLIB_PATH", library);
        }
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // There is none to end after a test that went well.
        let _ = self
            .command("brahman")
            .arg("down")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

#[test]
fn every_line_of_readme_works_in_order() {
    let (builds, lines): (Vec<String>, Vec<String>) =
        typed().into_iter().partition(|line| line.starts_with("make "));
    assert!(lines.len() >= 12 && builds.len() <= 2, "{lines:?} {builds:?}");
    assert!(
        lines.iter().any(|line| line.starts_with("brahman up"))
            && lines.last().is_some_and(|line| line == "brahman down")
    );
    let machine = Machine::new();
    // The shell prints each line before it runs it, and ends at the first that fails.
    let out = machine
        .command("timeout")
        .args(["600", "bash", "-v", "-e", "-o", "pipefail", "-c", &lines.join("\n")])
        .output();
    let out = out.expect("bash runs");
    let words =
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{}: {words}", out.status);
    for answer in ["all-MiniLM-L6-v2, 384 dimensions", "vectors", "systemctl --user enable"] {
        assert!(words.contains(answer), "{answer}: {words}");
    }
}

#[test]
fn every_page_links_to_what_is_there() {
    // Where it is read here, and where `make install` and the packages put it.
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(repository().join("packaging/install.sh"));
    command
        .args(["documentation", ""])
        .arg(root.path())
        .arg("/usr")
        .env("THIRD_PARTY", repository().join("LICENSE-MIT"));
    let out = command.output().expect("install.sh runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::create_dir_all(root.path().join("usr/share/brahman")).expect("a folder");
    symlink(repository().join("examples"), root.path().join("usr/share/brahman/examples"))
        .expect("linked");
    let beside = root.path().join("repository");
    std::fs::create_dir(&beside).expect("a folder");
    for name in [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "docs",
        "examples",
    ] {
        symlink(repository().join(name), beside.join(name)).expect("linked");
    }
    let mut command = Command::new("python3");
    command
        .arg(repository().join("packaging/links.py"))
        .arg(root.path().join("usr/share/doc/brahman"))
        .arg(&beside);
    let out = command.arg(repository().join("docs")).output().expect("python3 runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
