//! Environment variables as files of them hold them: with quotes, blanks and comments, which some
//! readers of such files (`docker run --env-file`, systemd) hand over as a part of the value.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;

use clap::CommandFactory;

use super::Cli;

/// Settings whose values are left alone: a key may hold `#`, and has rules of its own for quotes.
const KEYS: [&str; 2] = ["API_KEY", "ADMIN_KEY"];

/// Settings that do not become unset by being blank: that would open the server.
const KEY_FILES: [&str; 2] = ["API_KEY_FILE", "ADMIN_KEY_FILE"];

/// The variables of settings that are not yet as they were meant, with what was meant.
#[must_use]
pub fn corrections() -> Vec<(OsString, String)> {
    let command = Cli::command();
    let commands = std::iter::once(&command).chain(command.get_subcommands());
    let arguments = commands.flat_map(clap::Command::get_arguments);
    let mut variables: BTreeSet<OsString> =
        arguments.filter_map(|argument| argument.get_env()).map(Into::into).collect();
    variables.insert(env_logger::DEFAULT_FILTER_ENV.into());
    let correction = |variable: OsString| {
        let value = env::var(&variable).ok()?;
        let meant = meant(&value);
        let is_one_of = |names: &[&str]| names.iter().any(|name| variable == *name);
        let stays = meant == value || is_one_of(&KEYS) || meant.is_empty() && is_one_of(&KEY_FILES);
        (!stays).then(|| (variable, meant.to_owned()))
    };
    variables.into_iter().filter_map(correction).collect()
}

/// The value without blanks around it, without a comment behind it, and without a pair of quotes
/// around it. A `#` within a word or within quotes is no comment.
fn meant(value: &str) -> &str {
    let value = value.trim();
    for quote in ['"', '\''] {
        let quoted = value.strip_prefix(quote).and_then(|rest| rest.split_once(quote));
        if let Some((inside, rest)) = quoted
            && without_comment(rest).is_empty()
        {
            return inside;
        }
    }
    without_comment(value)
}

fn without_comment(text: &str) -> &str {
    let is_comment = |(at, _): &(usize, &str)| text[..*at].chars().next_back().is_none_or(char::is_whitespace);
    let end = text.match_indices('#').find(is_comment).map_or(text.len(), |(at, _)| at);
    text[..end].trim_end()
}

#[cfg(test)]
mod tests {
    use super::meant;

    #[test]
    fn quotes_blanks_and_comments_are_no_part_of_a_value() {
        for (value, expected) in [
            ("400", "400"),
            (" 400\t", "400"),
            ("400\r", "400"),
            ("400  # MB", "400"),
            ("400\t# MB # or so", "400"),
            ("400 #", "400"),
            ("\"true\"", "true"),
            ("'true'", "true"),
            ("\"true\" # quoted", "true"),
            ("\"a # b\"", "a # b"),
            ("'a \"b\" c'", "a \"b\" c"),
            ("# none", ""),
            ("   ", ""),
            ("\"\"", ""),
            ("a#b", "a#b"),
            ("\"a", "\"a"),
            ("\"a'", "\"a'"),
            ("\"a\" \"b\"", "\"a\" \"b\""),
            ("\"a\"b", "\"a\"b"),
            ("\"", "\""),
            ("/data/a b", "/data/a b"),
            ("", ""),
        ] {
            assert_eq!(meant(value), expected, "{value:?}");
        }
    }
}
