//! A byte-level language model without weights: bits are predicted from what followed the same
//! contexts earlier in the text, by several context orders and a match model, whose opinions are
//! mixed by a small network that learns as it reads.
//!
//! The method is context mixing as in lpaq (M. Mahoney, "Adaptive Weighing of Context Models for
//! Lossless Data Compression", 2005), with tables of counts in place of bit histories, since texts
//! are short. All arithmetic is on integers: the same text has the same code length on every
//! machine.

/// Orders of the contexts in bytes; after them comes the context of the present word.
const ORDERS: [usize; 6] = [1, 2, 3, 4, 5, 7];
/// Contexts: the orders, the word, and none at all.
const CONTEXTS: usize = ORDERS.len() + 2;
/// Inputs of the mixer: the contexts, the match, and a constant.
const INPUTS: usize = CONTEXTS + 2;
/// Slots of a context's table, log2. 2^17 hold a text of 16 KiB without crowding; a longer one
/// forgets little by little.
const SLOT_BITS: u32 = 17;
/// Bytes that must agree for the match model to follow an earlier place.
const MATCH_MIN: usize = 5;
/// Slots of the match model's table, log2.
const MATCH_BITS: u32 = 16;
/// Longest match that is told apart.
const MATCH_MAX: usize = 63;
/// Classes of match length and of the longest context known, by which the mixer's weights are
/// chosen.
const MATCH_CLASSES: usize = 5;
/// After so many sightings a slot's probability moves no slower.
const COUNT_MAX: u32 = 60;
/// Weight 1.0.
const ONE: i32 = 1 << 16;
/// Step of the mixer's learning, as a shift: larger learns slower.
const RATE_SHIFT: u32 = 10;
/// Fraction bits of a cost in units of log2.
const COST_BITS: u32 = 24;

/// Fixed tables, computed once.
#[derive(Debug)]
pub struct Tables {
    stretch: Vec<i16>,
    /// −log2(p / 4096) in 2^-24, by p.
    cost: Vec<u32>,
    /// 65536 / (n + 1.5), by n.
    step: Vec<u32>,
}

impl Default for Tables {
    fn default() -> Self {
        let mut stretch = vec![0_i16; 4096];
        let mut filled = 0;
        for x in -2047_i16..=2047 {
            let to = squash(i32::from(x));
            for slot in &mut stretch[filled..=to as usize] {
                *slot = x;
            }
            filled = filled.max(to as usize + 1);
        }
        for slot in &mut stretch[filled..] {
            *slot = 2047;
        }
        let cost = (0..4096).map(|p| (12 << COST_BITS) - log2(u64::from(p.max(1_u32)))).collect();
        let step = (0..=COUNT_MAX).map(|n| 131_072 / (2 * n + 3)).collect();
        Self { stretch, cost, step }
    }
}

/// log2 in 2^-24, by squaring.
fn log2(n: u64) -> u32 {
    let whole = n.ilog2();
    // The mantissa in 2^-31, in [1, 2).
    let mut mantissa = (n << 31) >> whole;
    let mut fraction = 0;
    for _ in 0..COST_BITS {
        mantissa = (mantissa * mantissa) >> 31;
        fraction <<= 1;
        if mantissa >= 1 << 32 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    (whole << COST_BITS) + fraction
}

/// 4096 / (1 + e^(−x/256)), interpolated.
fn squash(x: i32) -> i32 {
    const AT: [i32; 33] = [
        1, 2, 3, 6, 10, 16, 27, 45, 73, 120, 194, 310, 488, 747, 1101, 1546, 2047, 2549, 2994,
        3348, 3607, 3785, 3901, 3975, 4022, 4050, 4068, 4079, 4085, 4089, 4092, 4093, 4094,
    ];
    if x > 2047 {
        return 4095;
    }
    if x < -2047 {
        return 1;
    }
    let (weight, at) = (x & 127, ((x >> 7) + 16) as usize);
    (AT[at] * (128 - weight) + AT[(at + 1).min(32)] * weight + 64) >> 7
}

/// What the model has learned from the bytes read so far.
#[derive(Clone, Debug)]
pub struct State {
    /// By context and slot: a probability of 22 bits and a count of 10.
    slots: Vec<u32>,
    /// By match length and expected bit.
    trust: Vec<u32>,
    weights: Vec<i32>,
    text: Vec<u8>,
    last_seen: Vec<u32>,
    matched: usize,
    match_at: usize,
    word: u32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            slots: vec![1 << 31; CONTEXTS << SLOT_BITS],
            trust: vec![1 << 31; (MATCH_MAX + 1) * 2],
            weights: vec![ONE / 3; INPUTS * MATCH_CLASSES * (CONTEXTS + 1)],
            text: Vec::new(),
            last_seen: vec![0; 1 << MATCH_BITS],
            matched: 0,
            match_at: 0,
            word: 0,
        }
    }
}

/// Moves a slot towards a bit.
fn learn(slot: &mut u32, bit: bool, step: &[u32]) {
    let (p, n) = (*slot >> 10, *slot & 1023);
    let goal = if bit { (1 << 22) - 1 } else { 0 };
    let moved =
        i64::from(p) + (((i64::from(goal) - i64::from(p)) * i64::from(step[n as usize])) >> 16);
    *slot =
        (u32::try_from(moved.clamp(0, (1 << 22) - 1)).unwrap_or(0) << 10) | (n + 1).min(COUNT_MAX);
}

impl State {
    /// How many bytes were read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether nothing was read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Reads a byte and gives the log-probability that it had, in nats.
    pub fn read(&mut self, byte: u8, tables: &Tables) -> f32 {
        let hashes = self.contexts();
        let mut bits: u64 = 0;
        let mut partial: u32 = 1;
        for at in (0..8).rev() {
            let bit = byte >> at & 1 == 1;
            bits += u64::from(self.bit(bit, partial, at, &hashes, tables));
            partial = partial << 1 | u32::from(bit);
        }
        self.append(byte);
        (-(bits as f64) / f64::from(1 << COST_BITS) * std::f64::consts::LN_2) as f32
    }

    /// A hash a context, of the bytes before.
    fn contexts(&self) -> [u32; CONTEXTS] {
        let mut hashes = [0_u32; CONTEXTS];
        let text = &self.text;
        for (hash, order) in hashes[1..].iter_mut().zip(ORDERS) {
            let from = text.len().saturating_sub(order);
            *hash = text[from..].iter().fold(order as u32, |h, b| {
                (h.wrapping_add(u32::from(*b) + 1)).wrapping_mul(0x2C1B_3C6D).rotate_left(11)
            });
        }
        hashes[CONTEXTS - 1] = self.word.wrapping_mul(0x297A_2D39).rotate_left(7);
        hashes
    }

    /// Predicts one bit, pays for it and learns from it.
    fn bit(
        &mut self,
        bit: bool,
        partial: u32,
        at: u32,
        hashes: &[u32; CONTEXTS],
        tables: &Tables,
    ) -> u32 {
        let mut inputs = [0_i32; INPUTS];
        let mut places = [0_usize; CONTEXTS];
        let mut known = 0;
        for (c, hash) in hashes.iter().enumerate() {
            let mixed = (hash ^ partial.wrapping_mul(0x9E37_79B1)).wrapping_mul(0x85EB_CA6B);
            places[c] = (c << SLOT_BITS) + (mixed >> (32 - SLOT_BITS)) as usize;
            let slot = self.slots[places[c]];
            if slot & 1023 > 0 {
                known = c + 1;
                inputs[c] = i32::from(tables.stretch[(slot >> 20) as usize]);
            }
        }
        // The bit that followed the same bytes last time, if the byte's bits so far agree.
        let expected = (self.matched > 0)
            .then(|| u32::from(self.text[self.match_at]) | 256)
            .filter(|e| e >> (at + 1) == partial);
        let expected = expected.map(|e| e >> at & 1);
        let trusted = expected.map(|bit| self.matched.min(MATCH_MAX) * 2 + bit as usize);
        if let Some(place) = trusted {
            inputs[CONTEXTS] = i32::from(tables.stretch[(self.trust[place] >> 20) as usize]);
        }
        inputs[CONTEXTS + 1] = 256;
        let class = match (trusted.is_some(), self.matched) {
            (false, _) => 0,
            (true, ..8) => 1,
            (true, ..16) => 2,
            (true, ..32) => 3,
            (true, _) => 4,
        };
        let set = (class * (CONTEXTS + 1) + known) * INPUTS;
        let weights = &mut self.weights[set..set + INPUTS];
        let sum: i64 =
            inputs.iter().zip(weights.iter()).map(|(x, w)| i64::from(*x) * i64::from(*w)).sum();
        let p = squash((sum >> 16).clamp(-2048, 2048) as i32).clamp(1, 4095);
        let error = (i32::from(bit) << 12) - p;
        for (x, w) in inputs.iter().zip(weights) {
            *w += (x * error) >> RATE_SHIFT;
        }
        for place in places {
            learn(&mut self.slots[place], bit, &tables.step);
        }
        if let Some(place) = trusted {
            learn(&mut self.trust[place], bit, &tables.step);
        }
        tables.cost[(if bit { p } else { 4096 - p }) as usize]
    }

    fn append(&mut self, byte: u8) {
        if self.matched > 0 && self.text[self.match_at] == byte {
            self.matched += 1;
            self.match_at += 1;
        } else {
            self.matched = 0;
        }
        self.text.push(byte);
        self.word = if byte.is_ascii_alphanumeric() || byte >= 128 {
            (self.word.wrapping_add(u32::from(byte.to_ascii_lowercase()))).wrapping_mul(0x2F0B_4C47)
        } else {
            0
        };
        let len = self.text.len();
        if len < MATCH_MIN {
            return;
        }
        let hash = self.text[len - MATCH_MIN..]
            .iter()
            .fold(0_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
        let slot = (hash.wrapping_mul(0x9E37_79B1) >> (32 - MATCH_BITS)) as usize;
        if self.matched == 0 {
            let earlier = self.last_seen[slot] as usize;
            let agree =
                |n: &usize| earlier > *n && self.text[earlier - 1 - n] == self.text[len - 1 - n];
            self.matched = (0..MATCH_MAX).take_while(agree).count();
            if self.matched < MATCH_MIN {
                self.matched = 0;
            }
            self.match_at = earlier;
        }
        self.last_seen[slot] = u32::try_from(len).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nats(text: &str) -> Vec<f32> {
        let (tables, mut state) = (Tables::default(), State::default());
        text.bytes().map(|b| state.read(b, &tables)).collect()
    }

    #[test]
    fn costs_are_code_lengths() {
        let tables = Tables::default();
        for p in 1..4096_u32 {
            let exact = 12.0 - f64::from(p).log2();
            assert!(
                (f64::from(tables.cost[p as usize]) / f64::from(1 << COST_BITS) - exact).abs()
                    < 1e-6,
                "{p}"
            );
        }
        // Both bits together have probability 1, whatever was read.
        let mut state = State::default();
        let first: f64 =
            (0..=255_u8).map(|b| f64::from(state.clone().read(b, &tables)).exp()).sum();
        for byte in "some text before, some text".bytes() {
            state.read(byte, &tables);
        }
        let later: f64 =
            (0..=255_u8).map(|b| f64::from(state.clone().read(b, &tables)).exp()).sum();
        assert!((first - 1.0).abs() < 1e-4 && (later - 1.0).abs() < 1e-4, "{first} {later}");
    }

    #[test]
    fn what_was_read_before_is_cheap() {
        let fact = "The key to the cellar hangs behind the blue door.";
        let costs = nats(&format!("{fact} Something else in between, of some length. {fact}"));
        let cost = |part: &[f32]| -part.iter().sum::<f32>() / part.len() as f32;
        let (first, again) = (cost(&costs[..fact.len()]), cost(&costs[costs.len() - fact.len()..]));
        assert!(again < first / 5.0, "{first} nats a byte, then {again}");
    }

    #[test]
    fn the_figures_are_the_same_on_every_machine() {
        let costs =
            nats("The quick brown fox jumps over the lazy dog. The quick brown fox, again.");
        let sum: f64 = costs.iter().map(|x| f64::from(*x)).sum();
        assert_eq!(format!("{sum:.4}"), "-241.4890", "recorded on x86-64");
    }
}
