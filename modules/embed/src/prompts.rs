//! A model's prompts, and which of them a call gets: one in words, one by name, the one of its
//! role, or the model's default.

use std::sync::atomic::{AtomicBool, Ordering};

use brahman_card::Fault;
use brahman_models::layout::Prompts;

use crate::engine::{ChosenPrompt, PromptRequest};

/// The prompts of one model.
#[derive(Debug)]
pub struct ModelPrompts {
    model: String,
    prompts: Prompts,
    /// Whether somebody has been told that the model has prompts and the call names none.
    has_told: AtomicBool,
}

impl ModelPrompts {
    /// The prompts of the model of this name.
    #[must_use]
    pub fn new(model: &str, prompts: Prompts) -> Self {
        Self { model: model.to_owned(), prompts, has_told: AtomicBool::new(false) }
    }

    fn names(&self) -> String {
        self.prompts.by_name.keys().cloned().collect::<Vec<_>>().join(", ")
    }

    /// The prompt that a call gets.
    ///
    /// # Errors
    /// `InvalidParameter` if the model has no prompt of the name that is given.
    pub fn choose(&self, wanted: &PromptRequest) -> Result<ChosenPrompt, Fault> {
        if let Some(text) = &wanted.text {
            return Ok(ChosenPrompt { text: text.as_str().into(), warning: None });
        }
        if let Some(name) = &wanted.name {
            let Some((_, text)) = self.prompts.named(name) else {
                let there = if self.prompts.by_name.is_empty() {
                    "it has none".to_owned()
                } else {
                    format!("it has {}", self.names())
                };
                return Err(Fault::invalid_parameter(
                    "prompt_name",
                    format!("{} has no prompt `{name}`; {there}", self.model),
                ));
            };
            return Ok(ChosenPrompt { text: text.into(), warning: None });
        }
        if let Some((_, text)) =
            wanted.role.map_or_else(|| self.prompts.usual(), |role| self.prompts.of(role))
        {
            return Ok(ChosenPrompt { text: text.into(), warning: None });
        }
        let is_told = wanted.role.is_none()
            && self.prompts.matter()
            && !self.has_told.swap(true, Ordering::Relaxed);
        let warning = is_told.then(|| {
            format!(
                "{} has prompts ({}) and the call names none: pass `role` (query or document) or `prompt_name`",
                self.model,
                self.names()
            )
        });
        Ok(ChosenPrompt { text: "".into(), warning })
    }
}
