//! What is put before a text, by its name or by what the text is for.

use std::collections::BTreeMap;

/// What a text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextRole {
    /// It is searched for.
    Query,
    /// It is found.
    Document,
}

impl TextRole {
    /// Names of prompts for it, the first that a model has winning: those that
    /// sentence-transformers looks for.
    #[must_use]
    pub fn prompt_names(self) -> &'static [&'static str] {
        match self {
            Self::Query => &["query"],
            Self::Document => &["document", "passage", "corpus"],
        }
    }
}

/// A model's prompts by name, and which is usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    /// The texts of the prompts, by name.
    pub by_name: BTreeMap<String, String>,
    /// The one that is used where none is named.
    pub default_name: Option<String>,
}

impl Prompts {
    /// A prompt by its name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<(&str, &str)> {
        self.by_name.get_key_value(name).map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// The prompt that is used where none is named.
    #[must_use]
    pub fn usual(&self) -> Option<(&str, &str)> {
        self.default_name.as_deref().and_then(|name| self.named(name))
    }

    /// The prompt for a text of this role: its own, else the one that is used where none is named.
    #[must_use]
    pub fn of(&self, role: TextRole) -> Option<(&str, &str)> {
        role.prompt_names().iter().find_map(|name| self.named(name)).or_else(|| self.usual())
    }

    /// The prompt for documents.
    #[must_use]
    pub fn document(&self) -> Option<(&str, &str)> {
        self.of(TextRole::Document)
    }

    /// Whether a text's vector depends on which prompt is used.
    #[must_use]
    pub fn matter(&self) -> bool {
        self.by_name.values().any(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_finds_its_own_prompt_and_else_the_default() {
        let by_name = [("query", "q: "), ("passage", "p: "), ("other", "o: ")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into();
        let prompts = Prompts { by_name, default_name: Some("other".to_owned()) };
        assert_eq!(prompts.of(TextRole::Query), Some(("query", "q: ")));
        assert_eq!(prompts.of(TextRole::Document), Some(("passage", "p: ")));
        assert_eq!(prompts.usual(), Some(("other", "o: ")));
        assert!(prompts.matter());
        let none = Prompts::default();
        assert!(none.of(TextRole::Query).is_none() && !none.matter());
    }
}
