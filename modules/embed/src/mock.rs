//! The mock: 32 numbers that are a pure function of the input, on every machine and day. Its texts'
//! vectors are sums of one ±1 pattern a token, so texts that share words are near; its files'
//! vectors do the same with name and size.

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use brahman_card::Fault;
use brahman_card::interface::embed::{Device, InfoOut, TextTokens};

use crate::engine::{
    ChosenPrompt, Embedding, Engine, Identity, PromptRequest, TextOutcome, Treatment,
};

/// Length of a mock vector.
pub const DIM: usize = 32;

/// Makes vectors by hashing, the same everywhere.
#[derive(Debug)]
pub struct Mock {
    identity: Identity,
}

impl Default for Mock {
    fn default() -> Self {
        let identity = Identity {
            model: "mock-hash-32".into(),
            fingerprint: "mock-hash-32-v1".into(),
            dim: DIM,
            device: "cpu".into(),
            mock: true,
            normalized: true,
            ..Identity::default()
        };
        Self { identity }
    }
}

/// FNV-1a: short, public, the same for ever.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Sums the patterns of features and scales to length 1. Integer sums, so the order of addition
/// cannot matter.
#[must_use]
pub fn vector<'a>(features: impl Iterator<Item = (&'a [u8], i32)>) -> Arc<[f32]> {
    let mut sums = [0_i32; DIM];
    for (feature, weight) in features {
        // Spread once more, because the low bits of FNV of short words are alike.
        let bits = fnv(feature).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += if bits >> i & 1 == 1 { weight } else { -weight };
        }
    }
    if sums.iter().all(|s| *s == 0) {
        sums[0] = 1;
    }
    let square: i64 = sums.iter().map(|s| i64::from(*s) * i64::from(*s)).sum();
    let norm = (square as f64).sqrt();
    sums.iter().map(|s| (f64::from(*s) / norm) as f32).collect()
}

/// Where the words of a text lie in it, in bytes.
fn spans(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(move |word| {
        let from = word.as_ptr().addr() - text.as_ptr().addr();
        (from, from + word.len())
    })
}

/// The words of a text, lower case.
fn words(text: &str) -> Vec<String> {
    spans(text).map(|(from, to)| text[from..to].to_lowercase()).collect()
}

/// A vector of all of a text, computed for the call.
fn whole(vector: Arc<[f32]>) -> Embedding {
    Embedding { vector, cached: false, tokens: 0, kept: 0, is_least: false, unknown: 0 }
}

/// The vector of a text.
#[must_use]
pub fn text_vector(text: &str) -> Arc<[f32]> {
    let words = words(text);
    vector(words.iter().map(|word| (word.as_bytes(), 1)))
}

fn file_vector(path: &Path) -> Arc<[f32]> {
    let part = |p: Option<&std::ffi::OsStr>| {
        p.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let meta = std::fs::metadata(path).ok();
    let size = meta.as_ref().map_or(0, std::fs::Metadata::len);
    let modified = meta
        .and_then(|m| m.modified().ok())
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |d| d.as_secs());
    let features = [
        (format!("extension {}", part(path.extension())), 4),
        (format!("parent {}", part(path.parent().and_then(Path::file_name))), 3),
        (format!("stem {}", part(path.file_stem())), 2),
        // Sizes within a factor of two, and days, are near.
        (format!("size {}", size.checked_ilog2().unwrap_or(0)), 1),
        (format!("day {}", modified / 86_400), 1),
    ];
    vector(features.iter().map(|(feature, weight)| (feature.as_bytes(), *weight)))
}

impl Engine for Mock {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A mock has no prompts of its own: a role changes nothing, and words are put before the text.
    fn prompt(&self, wanted: &PromptRequest) -> Result<ChosenPrompt, Fault> {
        if let Some(name) = &wanted.name {
            return Err(Fault::invalid_parameter(
                "prompt_name",
                format!("{} has no prompt `{name}`; it has none", self.identity.model),
            ));
        }
        Ok(ChosenPrompt { text: wanted.text.as_deref().unwrap_or_default().into(), warning: None })
    }

    async fn texts(
        self: Arc<Self>,
        texts: Vec<String>,
        wish: Treatment,
    ) -> Result<Vec<TextOutcome>, Fault> {
        Ok(texts
            .iter()
            .map(|text| Ok(whole(text_vector(&format!("{}{text}", wish.prompt)))))
            .collect())
    }

    async fn file(self: Arc<Self>, path: &Path, _seen: Vec<u8>, _wish: Treatment) -> TextOutcome {
        Ok(whole(file_vector(path)))
    }

    /// Words are its tokens.
    async fn tokenize(
        self: Arc<Self>,
        texts: Vec<String>,
        prompt: Arc<str>,
        offsets: bool,
    ) -> Result<Vec<TextTokens>, Fault> {
        let count = |text: &String| {
            let tokens = words(&format!("{prompt}{text}")).len() as u64;
            let spans: Vec<(u64, u64)> =
                spans(text).map(|(from, to)| (from as u64, to as u64)).collect();
            let (starts, ends) = offsets.then(|| spans.into_iter().unzip()).unzip();
            TextTokens { tokens, kept: tokens, at_least: None, unknown: 0, starts, ends }
        };
        Ok(texts.iter().map(count).collect())
    }

    fn warnings(&self) -> Option<Vec<String>> {
        None
    }

    fn info(&self) -> InfoOut {
        InfoOut {
            model: self.identity.model.clone(),
            fingerprint: self.identity.fingerprint.clone(),
            dim: DIM as u64,
            // No window: a mock takes any text whole.
            max_tokens: 0,
            mock: true,
            device: Device {
                requested: "cpu".into(),
                active: "cpu".into(),
                reason: "a mock computes nothing".into(),
            },
            cache: None,
            store: None,
            gpu: None,
            runtime: None,
            queue: 0,
            computed: 0,
            cancelled: 0,
            recipe: None,
            server: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn the_vectors_are_the_same_for_ever() {
        let v = text_vector("the quick brown fox");
        let head: Vec<i32> = v[..8].iter().map(|x| (x * 1000.0).round() as i32).collect();
        assert_eq!(head, GOLDEN, "a change here changes every mock vector ever stored");
        assert!((cosine(&v, &v) - 1.0).abs() < 1e-6);
        assert_eq!(text_vector("").len(), DIM);
    }

    /// Of "the quick brown fox", in thousandths.
    const GOLDEN: [i32; 8] = [0, 0, 0, 180, 359, 180, 180, 359];

    #[test]
    fn near_texts_are_near() {
        let a = text_vector("the cat sat on the mat");
        let near = cosine(&a, &text_vector("The cat sat on a mat!"));
        let far = cosine(&a, &text_vector("quarterly revenue grew in europe"));
        assert!(near > 0.7 && far < 0.4, "{near} {far}");
    }
}
