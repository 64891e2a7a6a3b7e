//! Arguments that agree with one another, and the help of every command.

use super::*;

/// The help of a command and of all below it, as wide as a page and without what is in this
/// environment.
fn help(command: &clap::Command, text: &mut String) {
    let mut own =
        command.clone().term_width(100).mut_args(|argument| argument.hide_env_values(true));
    text.push_str(&format!(
        "# {}\n\n{}\n",
        own.get_bin_name().unwrap_or_default().to_owned(),
        own.render_long_help()
    ));
    command
        .get_subcommands()
        .filter(|below| below.get_name() != "help")
        .for_each(|below| help(below, text));
}

#[test]
fn every_command_explains_itself() {
    let mut command = Arguments::command();
    command.build();
    let mut text = String::new();
    help(&command, &mut text);
    insta::assert_snapshot!("help", text);
}

#[test]
fn the_arguments_are_consistent() {
    Arguments::command().debug_assert();
}
