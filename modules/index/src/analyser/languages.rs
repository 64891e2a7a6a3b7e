//! Languages that have stems and linking words, and what is said of others.

use tantivy::tokenizer::Language;

/// How many languages have stems.
pub(super) const LANGUAGE_COUNT: usize = 18;

/// Languages that have stems, with the words that tell those of Latin script apart; the others are
/// known by their script.
pub(super) static LANGUAGES: [(&str, Language, &[&str]); LANGUAGE_COUNT] = [
    ("arabic", Language::Arabic, &[]),
    (
        "danish",
        Language::Danish,
        &["og", "at", "det", "som", "for", "er", "af", "den", "med", "til", "ikke", "fra"],
    ),
    (
        "dutch",
        Language::Dutch,
        &[
            "het", "een", "van", "dat", "niet", "zijn", "met", "voor", "ook", "wordt", "deze",
            "naar",
        ],
    ),
    (
        "english",
        Language::English,
        &["the", "of", "and", "to", "is", "that", "for", "with", "this", "are", "be", "from"],
    ),
    (
        "finnish",
        Language::Finnish,
        &["ja", "on", "ei", "että", "se", "hän", "oli", "mutta", "kun", "joka", "ovat", "tai"],
    ),
    (
        "french",
        Language::French,
        &["le", "les", "des", "et", "une", "est", "dans", "pour", "que", "qui", "avec", "du"],
    ),
    (
        "german",
        Language::German,
        &["der", "die", "und", "das", "nicht", "ist", "mit", "den", "von", "ein", "eine", "für"],
    ),
    ("greek", Language::Greek, &[]),
    (
        "hungarian",
        Language::Hungarian,
        &["és", "az", "hogy", "nem", "egy", "van", "meg", "ez", "csak", "vagy", "mint", "volt"],
    ),
    (
        "italian",
        Language::Italian,
        &["il", "di", "che", "per", "una", "con", "sono", "della", "del", "non", "gli", "nel"],
    ),
    (
        "norwegian",
        Language::Norwegian,
        &["og", "at", "det", "som", "for", "er", "av", "den", "med", "til", "ikke", "fra"],
    ),
    (
        "portuguese",
        Language::Portuguese,
        &["os", "das", "que", "uma", "para", "com", "não", "dos", "em", "por", "são", "ao"],
    ),
    (
        "romanian",
        Language::Romanian,
        &["și", "în", "este", "care", "pentru", "nu", "cu", "din", "sau", "sunt", "mai", "prin"],
    ),
    ("russian", Language::Russian, &[]),
    (
        "spanish",
        Language::Spanish,
        &["el", "los", "las", "que", "una", "para", "con", "es", "del", "se", "como", "por"],
    ),
    (
        "swedish",
        Language::Swedish,
        &["och", "att", "det", "som", "för", "är", "av", "den", "med", "till", "inte", "från"],
    ),
    ("tamil", Language::Tamil, &[]),
    (
        "turkish",
        Language::Turkish,
        &["ve", "bir", "bu", "için", "ile", "olarak", "da", "çok", "daha", "olan", "gibi", "sonra"],
    ),
];
/// Words of English questions, beside those that link.
pub(super) const ASKING: [&str; 28] = [
    "how", "what", "why", "when", "where", "which", "who", "do", "does", "did", "can", "could",
    "should", "would", "i", "my", "me", "you", "your", "we", "our", "from", "have", "has", "had",
    "am", "about", "any",
];

/// That no language of this name has stems.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}`, expected auto, none, or one of {}", names().join(", "))]
pub struct UnknownLanguage {
    /// What was asked for.
    pub name: String,
}

fn names() -> Vec<&'static str> {
    LANGUAGES.iter().map(|(name, _, _)| *name).collect()
}

/// That there is such a language, or that it is to be found out.
///
/// # Errors
/// [`UnknownLanguage`].
pub fn check_language(name: &str) -> Result<(), UnknownLanguage> {
    let known =
        ["auto", "none"].contains(&name) || LANGUAGES.iter().any(|(known, _, _)| *known == name);
    if known { Ok(()) } else { Err(UnknownLanguage { name: name.to_owned() }) }
}
