//! What fits a pass: a constant on the CPU, what was measured on a GPU. Pure.

/// Tokens of a pass on the CPU, padding counted. The widest activations of 512 tokens are 3 MB and
/// stay in the caches: measured with embedding, 8 to 13 % more tokens a second than 4,096, and less
/// padding; below 256 the matrices get too narrow.
const TOKENS_CPU: usize = 512;
/// Most of them on a GPU, which wants wide passes: more than these were no quicker on an H100.
const TOKENS_GPU_MAX: usize = 65_536;
/// Fewest of them on a GPU, however little is free: a pass that does not fit is cut in two anyway.
const TOKENS_GPU_MIN: usize = 512;
/// Most pairs of tokens in a pass, padding counted: twelve heads of so many take 1.6 GB. On the CPU
/// the budget of tokens is the narrower one.
const ATTENTION_MAX: usize = 32 << 20;
/// Bytes of a head's attention for each pair of tokens: the scores and what softmax makes of them,
/// of 32 bits each.
const PAIR_BYTES: u64 = 8;
/// Of the bytes that are free, one in so many is for a pass: ONNX Runtime's arena grows in doubles,
/// and others use the GPU as well.
const FREE_SHARE: u64 = 2;
/// Rows of the pass by which a GPU's memory is measured, and tokens of each: enough for its
/// activations to be seen beside the megabytes by which the arena grows.
pub const PROBE_ROWS: usize = 64;
/// Tokens of each row of that pass.
pub const PROBE_WIDTH: usize = 64;

/// Pairs of tokens in a pass: what its attention takes memory for.
pub(super) fn attention(rows: usize, width: usize) -> usize {
    rows.saturating_mul(width).saturating_mul(width)
}

/// What was measured of a GPU once a model is on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// Bytes for whoever asks next, after the measurement.
    pub free: u64,
    /// Bytes that the pass took.
    pub taken: u64,
    /// Tokens that went through it, padding counted.
    pub tokens: usize,
    /// Heads of the model's attention.
    pub heads: usize,
}

/// What fits a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassBudget {
    /// Tokens, padding counted; a row with more of them goes alone.
    pub tokens: usize,
    /// Pairs of tokens (rows times width times width).
    pub attention: usize,
}

impl PassBudget {
    /// For the CPU.
    #[must_use]
    pub fn cpu() -> Self {
        Self { tokens: TOKENS_CPU, attention: ATTENTION_MAX }
    }

    /// For a GPU: as many tokens as a share of its free memory holds by what a pass took there. The
    /// most that is ever given where nothing could be measured, or where the pass took nothing that
    /// was not there before.
    #[must_use]
    pub fn gpu(memory: Option<GpuMemory>) -> Self {
        let most = Self { tokens: TOKENS_GPU_MAX, attention: ATTENTION_MAX };
        let Some(memory) = memory.filter(|memory| memory.taken > 0) else { return most };
        let share = memory.free / FREE_SHARE;
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let narrow = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let token_bytes = memory.taken.div_ceil(wide(memory.tokens).max(1)).max(1);
        let pair_bytes = wide(memory.heads).max(1).saturating_mul(PAIR_BYTES);
        Self {
            tokens: narrow(share / token_bytes).clamp(TOKENS_GPU_MIN, TOKENS_GPU_MAX),
            attention: narrow(share / pair_bytes)
                .clamp(attention(1, TOKENS_GPU_MIN), ATTENTION_MAX),
        }
    }

    /// Whether so many rows fit, padded to so many tokens.
    #[must_use]
    pub fn holds(&self, rows: usize, width: usize) -> bool {
        rows.saturating_mul(width) <= self.tokens && attention(rows, width) <= self.attention
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_counts_padding_and_attention() {
        let budget = PassBudget { tokens: 300, attention: 25_000 };
        assert!(budget.holds(2, 100) && !budget.holds(3, 100), "by attention");
        assert!(budget.holds(30, 10) && !budget.holds(31, 10), "by tokens");
        assert!(!budget.holds(usize::MAX, usize::MAX));
    }

    #[test]
    fn a_gpu_s_budget_is_what_its_free_memory_holds_within_bounds() {
        let of = |free: u64, taken| {
            PassBudget::gpu(Some(GpuMemory { free, taken, tokens: 4096, heads: 12 }))
        };
        // 64 KiB a token, as all-MiniLM-L6-v2 took on an H100.
        let taken = 4096 * (64 << 10);
        let most = PassBudget::gpu(None);
        assert_eq!((most.tokens, most.attention), (65_536, 32 << 20));
        assert_eq!(of(70 << 30, taken), most, "more is no quicker");
        let small = of(2 << 30, taken);
        assert_eq!((small.tokens, small.attention), ((1 << 30) / (64 << 10), (1 << 30) / 96));
        assert!(small.attention < most.attention && small.holds(256, 64));
        assert_eq!(of(0, taken), PassBudget { tokens: 512, attention: 512 * 512 });
        assert_eq!(of(70 << 30, 0), most, "nothing was seen");
        assert_eq!(of(u64::MAX, u64::MAX).tokens, 2047);
        let none = GpuMemory { free: 1, taken: 1, tokens: 0, heads: 0 };
        assert_eq!(PassBudget::gpu(Some(none)).tokens, 512);
    }
}
