//! Fields of a form, as a browser sends them (`application/x-www-form-urlencoded`). Pure.

use crate::plain::decoded;
use crate::refusal::Refusal;

/// Fields that any form of the page has.
const NAMES: [&str; 5] = ["index", "mode", "name", "talk", "text"];

/// What was filled in.
#[derive(Debug)]
pub(super) struct Form(Vec<(&'static str, String)>);

impl Form {
    /// Reads a query or a body.
    ///
    /// # Errors
    /// 400 for a field that no form has, that is there twice, or that is not UTF-8.
    pub(super) fn read(text: &str) -> Result<Self, Refusal> {
        let mut fields: Vec<(&'static str, String)> = Vec::new();
        for field in text.split('&').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let Some(known) = NAMES.into_iter().find(|known| *known == name) else {
                return Err(Refusal::parameter(
                    "(form)",
                    format!("a field that no form has; there are {}", NAMES.join(", ")),
                ));
            };
            if fields.iter().any(|(other, _)| *other == known) {
                return Err(Refusal::parameter(known, "expected it once"));
            }
            let value = decoded(&value.replace('+', " "))
                .ok_or_else(|| Refusal::parameter(known, "expected UTF-8, escaped as in a URL"))?;
            fields.push((known, value));
        }
        Ok(Self(fields))
    }

    /// A field's text without the blanks around it; none if it is empty or not there.
    pub(super) fn word(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_browsers_write_it() {
        let form = Form::read("text=a+b%2Bc+%C3%A4&mode=&index=notes").expect("a form");
        assert_eq!(
            (form.word("text"), form.word("mode"), form.word("name")),
            (Some("a b+c ä"), None, None)
        );
        for bad in ["odd=1", "text=1&text=2", "text=%ff", "text=%2"] {
            assert!(Form::read(bad).is_err(), "{bad}");
        }
        assert!(Form::read("").expect("nothing").word("text").is_none());
    }
}
