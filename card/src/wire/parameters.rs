//! A call's parameters, typed. What is wrong with them is named by its place: `vector[3]`,
//! `config.m`.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::fault::Fault;

/// Longest place that is told.
const PLACE_CHARS_MAX: usize = 100;

/// Those of a method that has none.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

/// Reads parameters; none at all are an empty object.
///
/// # Errors
/// `InvalidParameter`, which says what was expected where.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, Fault> {
    let json = if json.is_empty() { b"{}" } else { json };
    // A list would do for serde, each value for the field that stands at its place.
    if !is_object(json) {
        return Err(Fault::invalid_parameter("parameters", "expected an object"));
    }
    serde_json::from_slice(json).map_err(|error| {
        let text = error.to_string();
        Fault::invalid_parameter(&place::<T>(json, &text), &text)
    })
}

/// Whether parameters are an object, or none.
#[must_use]
pub fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first().is_none_or(|first| *first == b'{')
}

/// Checks the parameters of a method that has none.
///
/// # Errors
/// `InvalidParameter`, which names what was given.
pub fn none(json: &[u8]) -> Result<(), Fault> {
    read::<NoParameters>(json).map(|NoParameters {}| ())
}

/// Checks that a text has something in it: one that is blank asks for nothing, and whatever came
/// back would be no answer. `place` is the parameter's, such as `text` or `texts[3]`.
///
/// # Errors
/// `InvalidParameter`, which names the place.
pub fn has_words(place: impl fmt::Display, text: &str) -> Result<(), Fault> {
    if text.trim().is_empty() {
        let expected = "it is empty, expected at least a word";
        return Err(Fault::invalid_parameter(&place.to_string(), expected));
    }
    Ok(())
}

/// Where reading fails: found by reading again, so that nothing is kept for it while all is well.
fn place<T: DeserializeOwned>(json: &[u8], why: &str) -> String {
    let again: Result<T, _> =
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(json));
    let path = again.err().map(|error| error.path().to_string()).filter(|path| path != ".");
    // What is missing, unknown or there twice has no place of its own, but its name is in the
    // message. Keys are the caller's, as long as he likes.
    path.map(|path| path.chars().take(PLACE_CHARS_MAX).collect())
        .unwrap_or_else(|| why.split('`').nth(1).unwrap_or("parameters").to_owned())
}

#[cfg(test)]
mod tests {
    use crate::interface::index::SearchIn;

    #[test]
    fn a_method_without_parameters_takes_none() {
        for json in ["", "{}", " { } "] {
            super::none(json.as_bytes()).expect(json);
        }
        let fault = super::none(br#"{"name":"x"}"#).expect_err("unknown");
        assert_eq!(fault.parameters["parameter"], "name");
        assert!(super::none(b"[]").is_err());
    }

    #[test]
    fn a_text_without_a_word_is_refused_by_its_place() {
        for blank in ["", " ", "\n\t", "\u{a0}\u{3000}"] {
            let fault = super::has_words(format_args!("texts[{}]", 3), blank).expect_err("blank");
            assert_eq!(fault.parameters["parameter"], "texts[3]", "{blank:?}: {fault}");
        }
        super::has_words("text", " a ").expect("a word");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place() {
        for (json, place) in [
            (r#"{"index":"x","vector":[0.5,null]}"#, "vector[1]"),
            (r#"{"index":"x","vectors":[[0.5],["a"]]}"#, "vectors[1][0]"),
            (r#"{"index":"x","vector":[0.5,NaN]}"#, "vector[1]"),
            (r#"{"index":"x","vector":[0.5],"k":"ten"}"#, "k"),
            (r#"{"index":7}"#, "index"),
            (r#"{"k":3}"#, "index"),
            (r#"{"index":"x","k":1,"k":2}"#, "k"),
            ("", "index"),
            (r#"{"index":"x","limit":3}"#, "limit"),
            ("[]", "parameters"),
            (r#"["x"]"#, "parameters"),
            ("7", "parameters"),
        ] {
            let fault = SearchIn::read(json.as_bytes()).expect_err(json);
            assert_eq!(fault.parameters["parameter"], place, "{json}: {fault}");
        }
    }
}
