//! Conversations made by seed, in which it is known which memory foretells which response.

use serde_json::{Value, json};

const OBJECTS: [&str; 24] = [
    "lantern",
    "ledger",
    "compass",
    "violin",
    "kettle",
    "telescope",
    "umbrella",
    "hammer",
    "teapot",
    "anchor",
    "passport",
    "camera",
    "bicycle",
    "candle",
    "blanket",
    "suitcase",
    "chessboard",
    "barometer",
    "typewriter",
    "hourglass",
    "saddle",
    "trowel",
    "microscope",
    "accordion",
];
const TALK: [&str; 16] = [
    "Let us go on with the list from this morning.",
    "The weather has been mild, and the garden is doing well.",
    "I have read half of the report, the rest can wait.",
    "There was a long queue at the station again.",
    "We should look at the numbers before the meeting.",
    "My sister called and sends her regards.",
    "The new chairs are comfortable, the table is too low.",
    "It took an hour to find a place to park.",
    "The bread was fresh and still warm.",
    "Nobody could tell me when the office opens.",
    "I will write the letter after lunch.",
    "The train was late, as it is on most days.",
    "There is a concert in the old church on Sunday.",
    "The printer needs paper, and somebody to look at it.",
    "They painted the stairs in a strange shade of green.",
    "The meeting was moved to another day, I am told.",
];

/// A conversation, and for each of its responses the key of the memory that foretells it.
#[derive(Clone, Debug)]
pub struct Planted {
    /// As `ScoreMatrix` takes it.
    pub conversation: Value,
    /// By response.
    pub foretold_by: Vec<Option<String>>,
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below n")
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    /// A name that nothing foretells.
    fn name(&mut self) -> String {
        let (heads, vowels, tails) = (
            ["B", "D", "F", "G", "K", "L", "M", "N", "R", "S", "T", "V", "Z"],
            ["a", "e", "i", "o", "u"],
            ["l", "n", "r", "s", "x", "m"],
        );
        let mut name = format!("{}{}{}", self.of(&heads), self.of(&vowels), self.of(&tails));
        for _ in 0..2 {
            name.push_str(&format!("{}{}", self.of(&heads).to_lowercase(), self.of(&vowels)));
        }
        name
    }
}

/// `memories` facts of the same form, spread evenly over the conversation; `responses` answers, of
/// which the share `used` (of 100) tell one of the facts that came before them. `talk` sentences of
/// small talk stand in each turn. With `only`, all those tell the same one.
#[must_use]
pub fn planted(
    seed: u64,
    memories: usize,
    responses: usize,
    talk: usize,
    used: usize,
    only: bool,
) -> Planted {
    let mut dice = Dice(seed);
    let facts: Vec<(String, String, String)> =
        (0..memories).map(|_| (dice.name(), dice.of(&OBJECTS).to_owned(), dice.name())).collect();
    let chosen = dice.below(memories.max(1));
    let mut entries: Vec<Value> = Vec::new();
    let mut foretold_by = Vec::new();
    let mut told = 0;
    for turn in 0..responses {
        while told < memories && told * responses < (turn + 1) * memories {
            let (who, what, place) = &facts[told];
            entries.push(json!({ "role": "memory", "key": format!("fact-{told}"), "text": format!("{who} keeps the {what} in {place}.") }));
            told += 1;
        }
        let chat =
            |dice: &mut Dice| (0..talk).map(|_| dice.of(&TALK)).collect::<Vec<_>>().join(" ");
        let fact = if only {
            (chosen < told).then_some(chosen)
        } else {
            (told > 0).then(|| dice.below(told.max(1)))
        };
        let fact = fact.filter(|_| dice.below(100) < used || (only && turn + 1 == responses));
        let small = chat(&mut dice);
        match fact {
            Some(fact) => {
                let (who, what, place) = &facts[fact];
                entries.push(json!({ "role": "user", "text": format!("{small} Where was that {what} again?") }));
                entries.push(json!({ "role": "assistant", "text": format!("The {what} is in {place}, {who} keeps it there.") }));
            }
            None => {
                entries
                    .push(json!({ "role": "user", "text": format!("{small} What do you think?") }));
                entries.push(json!({ "role": "assistant", "text": chat(&mut dice) }));
            }
        }
        foretold_by.push(fact.map(|fact| format!("fact-{fact}")));
    }
    let conversation = json!({ "system": [{ "role": "system", "text": "You are a helpful assistant." }], "conversation": entries });
    Planted { conversation, foretold_by }
}
