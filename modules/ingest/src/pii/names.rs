//! What a column's name says: whole words of it, in the languages that databases are written in.

use super::entities::Entity;

/// Words of a name: cut at what is no letter, between letters and digits, and where small letters
/// meet capitals.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before: Option<char> = None;
    for c in name.chars() {
        if c.is_alphanumeric() {
            let cut = match before {
                Some(b) if !b.is_alphanumeric() => true,
                Some(b) => {
                    (b.is_lowercase() && c.is_uppercase())
                        || (b.is_alphabetic() != c.is_alphabetic())
                }
                None => true,
            };
            if cut {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.extend(c.to_lowercase());
            }
        }
        before = Some(c);
    }
    words
}

/// Whether a name speaks of an entity: one of its terms stands in it as whole words, in order and
/// together; or, written as one word, is it.
#[must_use]
pub fn says(name: &str, entity: &Entity) -> bool {
    let words = words(name);
    let joined = words.concat();
    entity.terms.iter().any(|term| {
        let parts: Vec<&str> = term.split(' ').collect();
        words.windows(parts.len()).any(|window| window.iter().zip(&parts).all(|(a, b)| a == b))
            || (parts.len() > 1
                && (joined == parts.concat() || words.iter().any(|w| *w == parts.concat())))
    })
}

#[cfg(test)]
mod tests {
    use super::super::entities::ENTITIES;
    use super::*;

    #[test]
    fn names_are_read_word_by_word() {
        assert_eq!(words("custEmailAddr2"), ["cust", "email", "addr", "2"]);
        assert_eq!(words("IP_Address"), ["ip", "address"]);
        let of = |name: &str| -> Vec<&str> {
            ENTITIES.iter().filter(|e| says(name, e)).map(|e| e.name).collect()
        };
        assert_eq!(of("cust_email"), ["email"]);
        assert!(
            of("emailed_count").is_empty()
                && of("description").is_empty()
                && of("shipment").is_empty()
        );
        assert!(
            of("dateOfBirth").contains(&"date_of_birth")
                && of("birthdate").contains(&"date_of_birth")
        );
        assert!(of("geburtsdatum").contains(&"date_of_birth"));
        assert!(of("product_name").is_empty() && of("first_name") == ["person_name"]);
    }
}
