//! Contexts: which there are, which one was meant, and who answers in one.
//!
//! A context exists because a Card names it in `priority_contexts`. One that no Card names would
//! rank everything as if there were none, and mocks would answer in silence: whoever sets a context
//! asks here first.

use std::collections::{BTreeMap, BTreeSet};

use super::Card;

/// Edits up to which a name counts as mistyped: two catch a slip and a swap, three would make `dev`
/// out of `test`.
const EDITS_MAX: usize = 2;

/// Every context that some Card names.
pub fn contexts<'a>(cards: impl IntoIterator<Item = &'a Card>) -> BTreeSet<&'a str> {
    cards.into_iter().flat_map(|card| card.priority_contexts.keys()).map(String::as_str).collect()
}

/// The known name that was probably meant: one is the beginning of the other, or they are at most
/// two edits apart. None if nothing is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = name.to_lowercase();
    let mut best: Option<(usize, &'a str)> = None;
    for candidate in known {
        let other = candidate.to_lowercase();
        let begins = !given.is_empty()
            && !other.is_empty()
            && (given.starts_with(&other) || other.starts_with(&given));
        let far = distance(&given, &other);
        // Of a short name two edits leave nothing: `a` is not a mistyped `on`.
        let close = far <= EDITS_MAX && far < given.chars().count().max(other.chars().count());
        if (begins || close) && best.is_none_or(|(least, _)| far < least) {
            best = Some((far, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Why a context cannot be set, with the one that was probably meant; none if some Card names it.
pub fn unknown_context<'a>(
    name: &str,
    cards: impl IntoIterator<Item = &'a Card>,
) -> Option<String> {
    let known = contexts(cards);
    if known.contains(name) {
        return None;
    }
    let meant = nearest(name, known.iter().copied())
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    let names: Vec<&str> = known.into_iter().collect();
    let there = if names.is_empty() {
        "they name none".to_owned()
    } else {
        format!("they name {}", names.join(", "))
    };
    Some(format!("no Card names the context `{name}`{meant} ({there})"))
}

/// Levenshtein's distance in characters, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Which Card answers each offered interface in a context (or in none), if every module is ready:
/// the highest priority, then the first label, then the first id, as the broker ranks them. Pins
/// and replicas aside.
pub fn answers<'a>(
    cards: impl IntoIterator<Item = &'a Card>,
    context: Option<&str>,
) -> BTreeMap<&'a str, &'a Card> {
    let mut first: BTreeMap<&'a str, (i64, &'a Card)> = BTreeMap::new();
    for card in cards {
        let rule = context.and_then(|name| card.priority_contexts.get(name));
        if rule.is_some_and(|rule| rule.exclude) {
            continue;
        }
        let rank = card.priority.rank().saturating_add(rule.map_or(0, |rule| rule.priority_offset));
        for interface in card.offered_interfaces() {
            let better = first.get(interface).is_none_or(|(least, other)| {
                (std::cmp::Reverse(rank), &card.label, &card.id)
                    < (std::cmp::Reverse(*least), &other.label, &other.id)
            });
            if better {
                first.insert(interface, (rank, card));
            }
        }
    }
    first.into_iter().map(|(interface, (_, card))| (interface, card)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(label: &str, more: &str) -> Card {
        let text = format!(
            "schema_version = 1\nlabel = \"{label}\"\n{more}\n[payload.native]\nexec = \"x\"\n[[flow.output]]\nname = \"e\"\ntype.interface.name = \"org.example.E\"\n"
        );
        Card::parse("test.toml", text.as_bytes()).expect("a good Card")
    }

    #[test]
    fn contexts_are_those_that_cards_name() {
        let cards = [
            card("a", "priority_contexts = { test = { exclude = true }, prod = {} }"),
            card("b", "priority_contexts.prod.priority_offset = 3"),
        ];
        assert_eq!(contexts(&cards).into_iter().collect::<Vec<_>>(), ["prod", "test"]);
        assert!(contexts(&[card("c", "")]).is_empty());
    }

    #[test]
    fn a_mistyped_context_finds_the_one_that_was_meant() {
        let known = ["prod", "staging", "test"];
        for (given, meant) in [
            ("production", Some("prod")),
            ("prdo", Some("prod")),
            ("PROD", Some("prod")),
            ("pro", Some("prod")),
            ("stagin", Some("staging")),
            ("tset", Some("test")),
            ("test2", Some("test")),
            ("development", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, known), meant, "{given}");
        }
        assert_eq!(nearest("prod", []), None);
    }

    #[test]
    fn an_unknown_context_is_refused_with_what_there_is() {
        let cards = [card("a", "priority_contexts = { test = {}, prod = {} }")];
        assert_eq!(unknown_context("prod", &cards), None);
        let why = unknown_context("production", &cards).unwrap_or_default();
        assert_eq!(
            why,
            "no Card names the context `production`; did you mean `prod`? (they name prod, test)"
        );
        assert!(unknown_context("prod", []).is_some_and(|why| why.contains("they name none")));
    }

    #[test]
    fn who_answers_follows_priority_and_then_the_label() {
        let cards = [
            card("b-real", "priority_contexts.prod.priority_offset = 10"),
            card("a-mock", "mock = true\npriority_contexts = { prod = { exclude = true } }"),
        ];
        let who = |context| answers(&cards, context)["org.example.E"].label.as_str();
        assert_eq!((who(None), who(Some("prod"))), ("a-mock", "b-real"));
        assert!(answers(&cards[1..], Some("prod")).is_empty());
    }
}
