//! Any bytes as a Card, in both dialects: an error or a Card that survives being written and read
//! again.

#![no_main]

use brahman_card::Card;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for origin in ["x.toml", "x.json"] {
        if let Ok(card) = Card::parse(origin, data) {
            assert_eq!(Card::parse("again.json", &card.to_json()).expect("its own JSON"), card);
        }
    }
});
