//! How many tokens a model takes: which file says so, where several do or none.

use serde_json::Value;

use super::folder::number;
use super::plan::Window;

/// A `model_max_length` above this is the tokenizer's way of saying nothing.
const SANE_MAX: usize = 1_000_000;
/// Kinds of models whose tables of positions begin behind the padding's.
const OFFSET_KINDS: [&str; 9] = [
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "roberta-prelayernorm",
    "camembert",
    "mpnet",
    "longformer",
    "data2vec-text",
    "xmod",
];
/// The padding's place in them, where `config.json` does not say.
const OFFSET_PAD: usize = 1;

/// Places of the table that no token has: those up to the padding's, in models as RoBERTa.
pub(super) fn offset(config: &Value) -> usize {
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    if !OFFSET_KINDS.contains(&kind) {
        return 0;
    }
    let pad =
        config.get("pad_token_id").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    pad.unwrap_or(OFFSET_PAD) + 1
}

/// The window by the model's files; `None` if none says it.
pub(super) fn of_files(
    sbert: Option<&(String, Value)>,
    config: &Value,
    tokenizer: &Value,
) -> Option<Window> {
    if let Some((file, value)) = sbert
        && let Some(tokens) = number(value, "max_seq_length")
    {
        return Some(Window { tokens, source: format!("max_seq_length in {file}") });
    }
    let by_tokenizer = number(tokenizer, "model_max_length").filter(|tokens| *tokens <= SANE_MAX);
    let by_tokenizer = by_tokenizer.map(|tokens| Window {
        tokens,
        source: "model_max_length in tokenizer_config.json".to_owned(),
    });
    let offset = offset(config);
    let in_config = |key: &str, offset: usize| {
        let tokens = number(config, key)?.checked_sub(offset).filter(|tokens| *tokens > 0)?;
        let less = if offset == 0 { String::new() } else { format!(" less {offset}") };
        Some(Window { tokens, source: format!("{key}{less} in config.json") })
    };
    let by_config = in_config("max_position_embeddings", offset)
        .or_else(|| in_config("n_positions", 0))
        .or_else(|| in_config("max_trained_positions", 0));
    match (by_tokenizer, by_config) {
        (Some(tokenizer), Some(config)) => {
            Some(if config.tokens <= tokenizer.tokens { config } else { tokenizer })
        }
        (tokenizer, config) => tokenizer.or(config),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokens(sbert: Option<Value>, config: Value, tokenizer: Value) -> Option<usize> {
        let sbert = sbert.map(|value| ("sentence_bert_config.json".to_owned(), value));
        of_files(sbert.as_ref(), &config, &tokenizer).map(|window| window.tokens)
    }

    #[test]
    fn the_first_source_that_says_a_window_counts() {
        let bert = json!({"model_type": "bert", "max_position_embeddings": 512});
        assert_eq!(
            tokens(Some(json!({"max_seq_length": 256})), bert.clone(), json!({})),
            Some(256)
        );
        assert_eq!(
            tokens(Some(json!({"max_seq_length": 0})), bert.clone(), json!({})),
            Some(512),
            "0 is no window"
        );
        assert_eq!(
            tokens(
                Some(json!({"max_seq_length": null})),
                bert.clone(),
                json!({"model_max_length": 128})
            ),
            Some(128)
        );
        assert_eq!(
            tokens(None, bert, json!({"model_max_length": 1e30})),
            Some(512),
            "that is none"
        );
        let nested = json!({"text_config": {"max_position_embeddings": 77}});
        assert_eq!(tokens(None, nested, json!({})), Some(77));
        let long = json!({"max_position_embeddings": null, "n_positions": 8192});
        assert_eq!(tokens(None, long.clone(), json!({"model_max_length": 8192})), Some(8192));
        assert_eq!(tokens(None, long, json!({})), Some(8192));
        assert_eq!(tokens(None, json!({}), json!({})), None);
    }

    #[test]
    fn positions_as_roberta_counts_them_bear_two_tokens_fewer() {
        let roberta =
            json!({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1});
        assert_eq!(tokens(None, roberta.clone(), json!({"model_max_length": 514})), Some(512));
        assert_eq!(
            (
                offset(&roberta),
                offset(&json!({"model_type": "mpnet"})),
                offset(&json!({"model_type": "bert"}))
            ),
            (2, 2, 0)
        );
    }
}
