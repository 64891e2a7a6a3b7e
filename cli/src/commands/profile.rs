//! `brahman profile`: which models are loaded and what can be named, one profile at a time.

use std::path::Path;

use brahman_card::interface::Empty;
use brahman_card::interface::profiles::{
    ActivateIn, ActivateOut, ActiveIn, DeactivateOut, ListOut, ProfileInfo, method,
};
use clap::Subcommand;

use super::get;
use crate::failure::NotFound;
use crate::output::{Output, Tone};

#[derive(Subcommand, Debug)]
pub(crate) enum Profile {
    /// List the profiles, and which one is active
    List,
    /// Show what a profile binds
    Show {
        /// Profile
        id: String,
    },
    /// Load a profile's models and make only what it binds nameable, leaving the one that was
    /// active
    Activate {
        /// Profile
        id: String,
    },
    /// Leave the active profile: everything can be named again, and models that are not pinned are
    /// unloaded until they are called
    Deactivate,
    /// Print the active profile
    Active,
}

pub(crate) async fn profile(
    socket: &Path,
    command: Profile,
    output: &Output,
) -> anyhow::Result<()> {
    match command {
        Profile::List => {
            let out = get::<method::List>(socket, &Empty {}).await?;
            if output.json() {
                output.print_json(&out);
            } else {
                list(&out, output);
            }
        }
        Profile::Show { id } => {
            let out = get::<method::List>(socket, &Empty {}).await?;
            let found = out.profiles.into_iter().find(|info| info.id == id);
            let info = found.ok_or_else(|| {
                NotFound(format!("no profile is called `{id}`; `brahman profile list` lists them"))
            })?;
            if output.json() {
                output.print_json(&info);
            } else {
                show(&info, output);
            }
        }
        Profile::Activate { id } => {
            let bar = output.spinner(&format!("{id}: loading"));
            let out = get::<method::Activate>(socket, &ActivateIn { id }).await;
            bar.finish_and_clear();
            let out = out?;
            if output.json() {
                output.print_json(&out);
            } else {
                activated(&out, output);
            }
        }
        Profile::Deactivate => {
            let out = get::<method::Deactivate>(socket, &Empty {}).await?;
            if output.json() {
                output.print_json(&out);
            } else {
                deactivated(&out, output);
            }
        }
        Profile::Active => {
            let out = get::<method::Active>(socket, &ActiveIn::default()).await?;
            if output.json() {
                output.print_json(&out);
            } else {
                output.line(out.id.as_deref().unwrap_or("(none)"));
            }
        }
    }
    Ok(())
}

/// Names in a cell: all of them, none, or that there is no bound.
fn names(names: Option<&Vec<String>>) -> String {
    match names {
        None => "(all)".to_owned(),
        Some(names) if names.is_empty() => "(none)".to_owned(),
        Some(names) => names.join(", "),
    }
}

fn list(out: &ListOut, output: &Output) {
    if out.profiles.is_empty() {
        output.line(
            "no profiles; a file NAME.toml in the folder `profiles` beside the Cards makes one",
        );
    }
    let rows = out.profiles.iter().map(|info| {
        let id = if info.active { output.paint(&info.id, Tone::Good) } else { info.id.clone() };
        let modules =
            info.modules.as_ref().map_or_else(|| "-".to_owned(), |modules| modules.join(", "));
        let state = if info.active { "active" } else { "" };
        vec![
            id,
            state.to_owned(),
            modules,
            names(info.indexes.as_ref()),
            names(info.datasets.as_ref()),
        ]
    });
    output.table(&["PROFILE", "STATE", "MODULES", "INDEXES", "DATASETS"], rows.collect());
    for fault in out.faults.iter().flatten() {
        output.note(&format!("warning: {fault}"));
    }
}

fn show(info: &ProfileInfo, output: &Output) {
    output.line(&format!(
        "{}{}",
        output.paint(&info.id, Tone::Strong),
        if info.active { "  active" } else { "" }
    ));
    let pinned = info.pinned.as_ref().map_or_else(|| "no".to_owned(), ToString::to_string);
    let idle = info
        .idle_s
        .map_or_else(|| "never".to_owned(), |seconds| format!("after {seconds} s without a call"));
    let rows = [
        (
            "modules",
            info.modules.as_ref().map_or_else(|| "(none)".to_owned(), |modules| modules.join(", ")),
        ),
        ("pinned", pinned),
        ("unloaded", idle),
        ("indexes", names(info.indexes.as_ref())),
        ("datasets", names(info.datasets.as_ref())),
        ("bucket", info.bucket.clone().unwrap_or_else(|| "-".to_owned())),
        ("backend", info.backend.clone().unwrap_or_else(|| "-".to_owned())),
        ("from", info.origin.clone().unwrap_or_else(|| "a call of Define".to_owned())),
    ];
    for (field, value) in rows {
        output.line(&format!("  {field:<9} {value}"));
    }
}

fn activated(out: &ActivateOut, output: &Output) {
    output.line(&format!(
        "{} is active, after {} ms",
        output.paint(&out.active, Tone::Strong),
        out.elapsed_ms
    ));
    for (word, modules) in [("loaded", &out.loaded), ("unloaded", &out.unloaded)] {
        if !modules.is_empty() {
            output.line(&format!("  {word}: {}", modules.join(", ")));
        }
    }
    for note in out.notes.iter().flatten() {
        output.note(note);
    }
}

fn deactivated(out: &DeactivateOut, output: &Output) {
    match &out.previous {
        None => output.line("no profile was active"),
        Some(previous) => {
            output.line(&format!("{previous} is not active any more: everything can be named"));
        }
    }
    if !out.unloaded.is_empty() {
        output.line(&format!("  unloaded until they are called: {}", out.unloaded.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: &str, active: bool) -> ProfileInfo {
        let some = |name: &str| Some(vec![name.to_owned()]);
        ProfileInfo {
            id: id.to_owned(),
            modules: some("embed-a"),
            indexes: some("cvs"),
            active,
            ..ProfileInfo::default()
        }
    }

    #[test]
    fn profiles_are_printed_for_people() {
        let output = Output::kept();
        list(
            &ListOut { profiles: vec![info("docs", false), info("staffing", true)], faults: None },
            &output,
        );
        let expected = "PROFILE   STATE   MODULES  INDEXES  DATASETS\n\
                        docs              embed-a  cvs      (all)\n\
                        staffing  active  embed-a  cvs      (all)\n";
        assert_eq!(output.printed(), expected);
        let output = Output::kept();
        activated(
            &ActivateOut {
                active: "docs".into(),
                loaded: vec!["embed-a".into()],
                elapsed_ms: 12,
                ..ActivateOut::default()
            },
            &output,
        );
        deactivated(&DeactivateOut::default(), &output);
        assert_eq!(
            output.printed(),
            "docs is active, after 12 ms\n  loaded: embed-a\nno profile was active\n"
        );
        let output = Output::kept();
        show(&info("docs", true), &output);
        assert!(
            output.printed().contains("docs  active\n  modules   embed-a\n  pinned    no\n"),
            "{}",
            output.printed()
        );
    }
}
