//! What a value may be: the kinds of personal data, how each is written, how it is told from
//! look-alikes, and the words that name it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use iban::Iban;
use regex::{Regex, RegexSet};

use super::{Kind, checks};

/// How far values of an entity speak for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// They have a check digit.
    Checksum,
    /// They have one that the numbers of companies and other registers have as well: the name has
    /// to say whose they are.
    Shared,
    /// They open something, and are written as nothing else is: one is enough.
    Secret,
    /// They are written as nothing else is.
    Format,
    /// Telephone numbers: some are written as nothing else is, others are digits.
    Phone,
    /// They could be other things: the column's name has to say so too.
    Weak,
    /// They could be any text: only the name says anything, and not for certain.
    Name,
}

/// A kind of personal data.
#[derive(Debug)]
pub struct Entity {
    /// As reports name it.
    pub name: &'static str,
    /// How far values speak.
    pub class: Class,
    /// Words that name it.
    pub terms: &'static [&'static str],
    /// How a whole value is written.
    pattern: &'static str,
    /// Of a value that is written so.
    test: fn(&str) -> Likeness,
}

impl Entity {
    /// Whether a name alone makes it possible in a column of this kind.
    #[must_use]
    pub fn hints(&self, kind: Kind) -> bool {
        match self.name {
            "date_of_birth" => kind == Kind::Date,
            _ => kind == Kind::Text,
        }
    }

    /// The share of values from which it is proved by a check digit. Numbers of China have a
    /// county, a day and a check digit, and many that were given out have a county of another time.
    #[must_use]
    pub fn proved_share(&self) -> f64 {
        if self.name == "cn_ric" { 0.2 } else { 0.8 }
    }

    /// The share of values that are nothing else from which a column may hold it among other
    /// things; none if that says nothing.
    #[must_use]
    pub fn possible_share(&self) -> Option<f64> {
        match self.class {
            Class::Secret => Some(0.0),
            // Nothing else is written so.
            _ if matches!(self.name, "email" | "iban") => Some(0.02),
            Class::Checksum | Class::Format | Class::Phone => Some(0.3),
            Class::Shared | Class::Weak | Class::Name => None,
        }
    }
}

/// What one value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// It is nothing else.
    Strong,
    /// It may be.
    Weak,
    /// It is not.
    Not,
}

/// Of how many values what was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    /// Values that can be nothing else.
    pub strong: usize,
    /// Values that may be something else.
    pub weak: usize,
}

fn sure(yes: bool) -> Likeness {
    if yes { Likeness::Strong } else { Likeness::Not }
}

/// Without separators, in capitals.
fn bare(value: &str) -> String {
    value.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_uppercase()).collect()
}

/// A number whose check digit `rule` knows.
macro_rules! checked {
    ($rule:path) => {
        |value| sure($rule(&bare(value)))
    };
}

/// A number without a check digit: strong with its separators, weak without.
macro_rules! separated {
    ($rule:path) => {
        |value| match ($rule(&bare(value)), value.contains(['-', ' '])) {
            (true, true) => Likeness::Strong,
            (true, false) => Likeness::Weak,
            (false, _) => Likeness::Not,
        }
    };
}

macro_rules! entities {
    ($($name:literal $class:ident [$($term:literal),*] $pattern:literal $test:expr;)*) => {
        /// All kinds that are looked for.
        pub static ENTITIES: &[Entity] = &[$(Entity {
            name: $name, class: Class::$class, terms: &[$($term),*], pattern: $pattern, test: $test,
        }),*];
    };
}

entities! {
    "email" Format ["email", "e mail", "mail", "emails", "correo", "courriel", "mejl"]
        r"^[\p{L}\p{N}.!#$%&'*+/=?^_`{|}~-]{1,64}@[\p{L}\p{N}-]+(\.[\p{L}\p{N}-]+)*\.\p{L}{2,}$" |_| Likeness::Strong;
    "phone" Phone ["phone", "phones", "telephone", "tel", "mobile", "cell", "cellphone", "fax", "msisdn", "gsm", "telefon", "telefono",
        "telefone", "téléphone", "telefoon", "handy", "rufnummer", "celular", "movil", "móvil", "portable", "puhelin", "telefonnummer", "telefoonnummer"]
        r"^\(?\+?[0-9(][0-9 ()/.\-]{5,22}[0-9)]( ?(x|ext\.?|#) ?[0-9]{1,6})?$" phone;
    "credit_card" Checksum ["card", "card number", "credit card", "cc number", "ccnum", "cc", "pan", "kreditkarte", "tarjeta", "carte"]
        r"^[0-9](?:[ -]?[0-9]){11,18}$" checked!(checks::card);
    "iban" Checksum ["iban"] r"^[A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]){10,30}$" |value| sure(value.parse::<Iban>().is_ok());
    "ip_address" Format ["ip", "ip address", "ipv4", "ipv6", "ip addr", "remote addr", "client ip"]
        r"^(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?::[0-9]{1,5}|/[0-9]{1,2})?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)$" ip_address;
    "mac_address" Format ["mac", "mac address", "hwaddr", "ethernet address"]
        r"^(?:[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{4}(?:\.[0-9A-Fa-f]{4}){2})$" |_| Likeness::Strong;
    "url" Format ["url", "urls", "uri", "website", "homepage", "web site", "webseite"]
        r"^(?i:https?|ftps?)://[^\s/]+(?:/\S*)?$" |_| Likeness::Strong;
    "date_of_birth" Weak ["dob", "birth", "birthdate", "birth date", "birthday", "born", "date of birth", "geburtsdatum", "geburtstag", "geboren",
        "naissance", "né le", "nacimiento", "nascita", "nascimento", "geboortedatum", "syntymäaika", "fødselsdato", "födelsedatum", "urodzenia", "bday"]
        r"^(?:[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}|[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{4})$" date_of_birth;
    "us_ssn" Format ["ssn", "social security", "social security number"] r"^[0-9]{3}([- ]?)[0-9]{2}[- ]?[0-9]{4}$" separated!(checks::us_ssn);
    "uk_nino" Format ["nino", "national insurance", "ni number", "national insurance number"]
        r"^[A-Za-z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-Da-d]$" checked!(checks::uk_nino);
    "es_nif" Checksum ["nif", "nie", "dni"] r"^(?:[0-9]{8}|[XYZxyz]-?[0-9]{7})-?[A-Za-z]$" checked!(checks::es_nif);
    "it_codice_fiscale" Checksum ["codice fiscale", "cf"]
        r"^[A-Za-z]{6}[0-9LMNPQRSTUVlmnpqrstuv]{2}[A-Ea-eHhLlMmPpR-Tr-t][0-9LMNPQRSTUVlmnpqrstuv]{2}[A-Za-z][0-9LMNPQRSTUVlmnpqrstuv]{3}[A-Za-z]$"
        checked!(checks::it_codice_fiscale);
    "fr_nir" Checksum ["nir", "insee", "secu", "securite sociale"]
        r"^[1-8] ?[0-9]{2} ?[0-9]{2} ?(?:[0-9]{2}|2[ABab]) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}$" checked!(checks::fr_nir);
    "nl_bsn" Checksum ["bsn", "burgerservicenummer", "sofinummer"] r"^[0-9]{9}$" checked!(checks::nl_bsn);
    "br_cpf" Checksum ["cpf"] r"^[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}-?[0-9]{2}$" checked!(checks::br_cpf);
    "pl_pesel" Checksum ["pesel"] r"^[0-9]{11}$" checked!(checks::pl_pesel);
    "se_personnummer" Checksum ["personnummer"] r"^(?:[0-9]{2})?[0-9]{6}[-+]?[0-9]{4}$" checked!(checks::se_personnummer);
    "fi_hetu" Checksum ["hetu", "henkilötunnus", "henkilotunnus"] r"^[0-9]{6}[-+A-FU-Ya-fu-y][0-9]{3}[0-9A-Ya-y]$"
        |value| sure(checks::fi_hetu(&value.to_ascii_uppercase()));
    "ca_sin" Shared ["sin", "social insurance", "nas"] r"^[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}$" checked!(checks::ca_sin);
    "ch_ahv" Checksum ["ahv", "avs", "ahv nr"] r"^756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}$" checked!(checks::ch_ahv);
    "be_nrn" Checksum ["rijksregisternummer", "nrn", "insz", "niss"] r"^[0-9]{2}\.?[0-9]{2}\.?[0-9]{2}-?[0-9]{3}[.-]?[0-9]{2}$"
        checked!(checks::be_nrn);
    "cn_ric" Checksum ["身份证", "身份证号", "shenfenzheng"] r"^[1-9][0-9]{16}[0-9Xx]$" checked!(checks::cn_ric);
    "in_aadhaar" Checksum ["aadhaar", "aadhar", "uidai"] r"^[2-9][0-9]{3} ?[0-9]{4} ?[0-9]{4}$" checked!(checks::in_aadhaar);
    "no_fnr" Checksum ["fødselsnummer", "fodselsnummer", "fnr"] r"^[0-9]{6} ?[0-9]{5}$" checked!(checks::no_fnr);
    "de_steuer_id" Checksum ["steuer id", "steuerid", "steueridentifikationsnummer", "tin", "idnr"] r"^[1-9][0-9](?: ?[0-9]{3}){3}$"
        checked!(checks::de_steuer_id);
    "tr_tckn" Checksum ["tckn", "tc kimlik", "kimlik no"] r"^[1-9][0-9]{10}$" checked!(checks::tr_tckn);
    "ro_cnp" Checksum ["cnp"] r"^[1-9][0-9]{12}$" checked!(checks::ro_cnp);
    "dk_cpr" Weak ["cpr", "cpr nr", "cprnummer"] r"^[0-9]{6}-?[0-9]{4}$" separated!(checks::dk_cpr);
    "aws_access_key" Secret ["aws access key", "access key id"] r"^(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}$" |_| Likeness::Strong;
    "google_api_key" Secret ["google api key", "gcp key"] r"^AIza[0-9A-Za-z_-]{35}$" |_| Likeness::Strong;
    "github_token" Secret ["github token"] r"^(?:gh[pousr]_[0-9A-Za-z]{36,255}|github_pat_[0-9A-Za-z_]{22,255})$" |_| Likeness::Strong;
    "slack_token" Secret ["slack token"] r"^(?:xox[abeoprs]|xapp)-[0-9A-Za-z-]{10,}$" |_| Likeness::Strong;
    "stripe_key" Secret ["stripe key"] r"^[rs]k_(?:live|test)_[0-9A-Za-z]{16,}$" |_| Likeness::Strong;
    "private_key" Secret ["private key"] r"^-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----" |_| Likeness::Strong;
    "jwt" Secret ["jwt", "id token"] r"^eyJ[0-9A-Za-z_-]{8,}(?:\.eyJ[0-9A-Za-z_-]*(?:\.[0-9A-Za-z_-]*)?)$" |_| Likeness::Strong;
    "person_name" Name ["first name", "last name", "full name", "given name", "family name", "middle name", "maiden name", "fname", "lname",
        "surname", "forename", "customer name", "client name", "patient name", "employee name", "contact name", "vorname", "nachname",
        "familienname", "prenom", "prénom", "nom de famille", "nombre", "apellido", "apellidos", "cognome", "sobrenome", "achternaam", "voornaam"]
        r"^$" |_| Likeness::Not;
    "address" Name ["address", "street", "street address", "home address", "postal address", "strasse", "straße", "adresse", "direccion",
        "dirección", "indirizzo", "endereço", "endereco", "rue", "calle", "adres", "postcode", "zip code", "zipcode", "plz"]
        r"^$" |_| Likeness::Not;
}

/// The ways in which each is written, two sets: letters of all the world's scripts make an
/// automaton large, and only addresses of mail have them.
static PATTERNS: LazyLock<[RegexSet; 2]> = LazyLock::new(|| {
    let set = |mail: bool| {
        // In the other set, a pattern that nothing is written like.
        RegexSet::new(
            ENTITIES.iter().map(|e| if (e.name == "email") == mail { e.pattern } else { "^$" }),
        )
    };
    [false, true].map(|mail| set(mail).unwrap_or_else(|_| RegexSet::empty()))
});

/// Which it is written like. All have a digit, a colon or an at sign, or are as long as keys are:
/// most values are let go at once.
fn written_like(value: &str) -> impl Iterator<Item = usize> {
    let has = |test: fn(&u8) -> bool| value.as_bytes().iter().any(test);
    let [others, mail] = &*PATTERNS;
    let is_long = value.len() >= KEY_BYTES;
    let others = (is_long || has(|b| b.is_ascii_digit() || *b == b':'))
        .then(|| others.matches(value).into_iter());
    let mail = has(|b| *b == b'@').then(|| mail.matches(value).into_iter());
    others.into_iter().flatten().chain(mail.into_iter().flatten())
}

/// The shortest key is that long.
const KEY_BYTES: usize = 16;

/// Looks at every value as every entity that it is written like.
#[must_use]
pub fn evidence(values: &[&str], kind: Kind) -> Vec<Evidence> {
    let mut all = vec![Evidence::default(); ENTITIES.len()];
    for value in values {
        // A date is nothing but a date.
        for i in written_like(value)
            .filter(|i| kind != Kind::Date || ENTITIES[*i].name == "date_of_birth")
        {
            match (ENTITIES[i].test)(value) {
                Likeness::Strong => all[i].strong += 1,
                Likeness::Weak => all[i].weak += 1,
                Likeness::Not => {}
            }
        }
    }
    // Codes of parts have the same letters before their digits and behind them; numbers that were
    // given out have many.
    let nino = ENTITIES.iter().position(|e| e.name == "uk_nino");
    if let Some(i) = nino.filter(|i| all[*i].strong > 0 && !varied(values)) {
        all[i] = Evidence { strong: 0, weak: all[i].strong };
    }
    // Versions look like addresses of small numbers; real ones use all of a byte.
    let ip = ENTITIES.iter().position(|e| e.name == "ip_address");
    if let Some(i) = ip.filter(|_| !spread(values)) {
        all[i] = Evidence { strong: 0, weak: all[i].strong };
    }
    all
}

/// Whether the two letters that values begin with are different ones, a pair for ten values or so.
fn varied(values: &[&str]) -> bool {
    let pairs: std::collections::HashSet<String> =
        values.iter().map(|value| value.chars().take(2).collect()).collect();
    pairs.len() * 10 >= values.len().min(100)
}

/// Whether a tenth of the IPv4 addresses begin above the numbers that versions begin with, and some
/// octet is large.
fn spread(values: &[&str]) -> bool {
    let octets: Vec<[u8; 4]> = values.iter().filter_map(|v| ipv4(v)).map(|a| a.octets()).collect();
    let large = octets.iter().filter(|o| o[0] >= 10 && o[1..].iter().any(|n| *n >= 100)).count();
    octets.is_empty() || large * 10 >= octets.len()
}

fn ipv4(value: &str) -> Option<Ipv4Addr> {
    value.split([':', '/']).next()?.parse().ok()
}

fn ip_address(value: &str) -> Likeness {
    sure(ipv4(value).is_some() || value.parse::<Ipv6Addr>().is_ok())
}

/// Between 1900 and today, as far as a year says.
fn date_of_birth(value: &str) -> Likeness {
    let mut parts =
        value.split(['-', '/', '.']).filter_map(|p| p.parse::<u32>().ok().map(|n| (p.len(), n)));
    let (mut year, mut small) = (0, Vec::new());
    parts.by_ref().for_each(|(length, n)| if length == 4 { year = n } else { small.push(n) });
    let this_year = 1970
        + std::time::UNIX_EPOCH
            .elapsed()
            .map_or(0, |d| u32::try_from(d.as_secs() / 31_556_952).unwrap_or(0));
    let days = small.len() == 2
        && small.iter().all(|n| (1..=31).contains(n))
        && small.iter().any(|n| *n <= 12);
    if days && (1900..=this_year).contains(&year) { Likeness::Weak } else { Likeness::Not }
}

/// Telephone numbers, told from dates, amounts, addresses and other numbers by how they are
/// grouped.
fn phone(value: &str) -> Likeness {
    static OTHERS: LazyLock<RegexSet> = LazyLock::new(|| {
        let others = [
            r"^[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}",
            r"^[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{4}$",
            r"^[0-9]{1,3}(\.[0-9]{1,3}){3}$",
            r"^[0-9]{3}-[0-9]{2}-[0-9]{4}$",
            r"^[0-9]*\.[0-9]*$",
        ];
        RegexSet::new(others).unwrap_or_else(|_| RegexSet::empty())
    });
    static WRITTEN: LazyLock<RegexSet> = LazyLock::new(|| {
        let written = [
            // An area code in parentheses, or a country's.
            r"^(?:\+?[0-9]{1,3}[ -]?)?\(\+?[0-9]{2,5}\)",
            // A trunk prefix and groups; joined by hyphens alone they may be the number of a part,
            // unless the second is long.
            r"^0[1-9][0-9]{0,4}[ /.-][0-9].*[ /]",
            r"^0[1-9][0-9]{0,4}[ /][0-9]",
            r"^0[1-9](?:\.[0-9]{2}){4}$",
            r"^0[1-9][0-9]{0,3}-[0-9]{6,8}$",
            r"^8[ -]\(?[0-9]{3}\)?[ -]",
            // North America.
            r"^(?:(?:\+|00)?1[ .-])?[0-9]{3}[.-][0-9]{3}[.-][0-9]{4}(?: ?(?:x|ext)|$)",
            // An extension.
            r"[0-9] ?(?:x|ext\.?) ?[0-9]{1,6}$",
        ];
        RegexSet::new(written).unwrap_or_else(|_| RegexSet::empty())
    });
    let number = value.split(['x', 'e', '#']).next().unwrap_or(value).replace("(0)", "");
    let digits = bare(&number);
    // Journals are numbered so: four digits, a hyphen, three and the check digit.
    if value.len() == 9 && value.as_bytes()[4] == b'-' && checks::issn(&digits) {
        return Likeness::Not;
    }
    if !(7..=15).contains(&digits.len())
        || OTHERS.is_match(value)
        || (digits.len() > 13 && checks::card(&digits))
    {
        return Likeness::Not;
    }
    let international = number.trim_start_matches('(').strip_prefix('+').or_else(|| {
        // 00 before a country's number; zeros that fill a number up are followed by more of them.
        number.strip_prefix("00").filter(|rest| {
            rest.starts_with(|c: char| ('1'..='9').contains(&c)) && rest.contains([' ', '-', '/'])
        })
    });
    if let Some(number) = international {
        // Numbers made up for tests and books often belong to no plan: the country must exist, the
        // length be possible.
        let number = bare(number);
        return match phonelib::is_valid_phone_number(&format!("+{number}"))
            || (8..=15).contains(&number.len()) && !number.starts_with('0')
        {
            true => Likeness::Strong,
            false => Likeness::Not,
        };
    }
    if WRITTEN.is_match(value) { Likeness::Strong } else { Likeness::Weak }
}

/// How something stands in prose: its entity, what all of it has, how it is written, and whether it
/// is real.
type Look = (&'static str, &'static str, Regex, checks::Rule);

/// The same with its pattern as text.
type LookText = (&'static str, &'static str, &'static str, checks::Rule);

/// What is looked for in prose. Most texts have not even the characters that all of a kind have.
static LOOKS: LazyLock<Vec<Look>> = LazyLock::new(|| {
    let looks: [LookText; 12] = [
        (
            "email",
            "@",
            r"[\p{L}\p{N}._%+-]+@[\p{L}\p{N}-]+(?:\.[\p{L}\p{N}-]+)*\.\p{L}{2,}",
            |_| true,
        ),
        ("credit_card", "", r"\b[0-9](?:[ -]?[0-9]){11,18}\b", |found| checks::card(&bare(found))),
        ("iban", "", r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){10,30}\b", |found| {
            found.parse::<Iban>().is_ok()
        }),
        ("phone", "+", r"\+[0-9][0-9 ()/.\-]{6,20}[0-9]", |found| {
            phonelib::is_valid_phone_number(&format!("+{}", bare(found)))
        }),
        ("ip_address", ".", r"\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}\b", |found| {
            found.parse::<Ipv4Addr>().is_ok_and(|a| a.octets().iter().any(|n| *n >= 100))
        }),
        ("aws_access_key", "", r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b", |_| true),
        ("google_api_key", "AIza", r"\bAIza[0-9A-Za-z_-]{35}", |_| true),
        (
            "github_token",
            "_",
            r"\b(?:gh[pousr]_[0-9A-Za-z]{36,255}|github_pat_[0-9A-Za-z_]{22,255})",
            |_| true,
        ),
        ("slack_token", "-", r"\b(?:xox[abeoprs]|xapp)-[0-9A-Za-z-]{10,}", |_| true),
        ("stripe_key", "k_", r"\b[rs]k_(?:live|test)_[0-9A-Za-z]{16,}", |_| true),
        ("private_key", "-----BEGIN", r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----", |_| true),
        ("jwt", "eyJ", r"\beyJ[0-9A-Za-z_-]{8,}\.eyJ[0-9A-Za-z_-]{4,}", |_| true),
    ];
    looks
        .into_iter()
        .filter_map(|(name, has, pattern, real)| Some((name, has, Regex::new(pattern).ok()?, real)))
        .collect()
});

/// Whether an entity opens something: then one in any text counts.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    ENTITIES.iter().any(|entity| entity.name == name && entity.class == Class::Secret)
}

/// The first of each entity that stands in a text.
#[must_use]
pub fn found_within(text: &str) -> Vec<(&'static str, &str)> {
    let looks = LOOKS.iter().filter(|(_, has, ..)| text.contains(has));
    looks
        .filter_map(|(name, _, pattern, real)| {
            Some((*name, pattern.find_iter(text).map(|m| m.as_str()).find(|m| real(m))?))
        })
        .collect()
}

/// What stands in prose: entity and how many of these texts hold one.
#[must_use]
pub fn within<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<(&'static str, usize)> {
    let mut counts: Vec<(&'static str, usize)> =
        LOOKS.iter().map(|(name, ..)| (*name, 0)).collect();
    for text in texts {
        for (found, _) in found_within(text) {
            counts.iter_mut().filter(|(name, _)| *name == found).for_each(|(_, count)| *count += 1);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert!(PATTERNS.iter().all(|set| set.len() == ENTITIES.len()));
    }

    #[test]
    fn telephone_numbers_are_told_from_what_looks_like_them() {
        for value in [
            "+49 30 901820",
            "(591)341-7776",
            "206.269.0743x9150",
            "+44(0)115 4960914",
            "04 15 39 15 00",
            "00420 702 914 177",
            "08-170 669 07",
        ] {
            assert_eq!(phone(value), Likeness::Strong, "{value}");
        }
        for value in [
            "0317-8471",
            "2024-01-02",
            "02.01.2024",
            "192.168.10.20",
            "123456.789",
            "0123-45-678",
            "078-05-1120",
            "12345",
            "4111111111111111",
        ] {
            assert_eq!(phone(value), Likeness::Not, "{value}");
        }
        for value in [
            "0317-8472",
            "13891417776",
            "0000012345",
            "2023-000123",
            "0001-00012345",
            "978-0-306-40615",
        ] {
            assert_eq!(phone(value), Likeness::Weak, "{value}");
        }
    }

    #[test]
    fn secrets_are_found_and_what_only_looks_so_is_not() {
        let key = |name: &str| match name {
            "aws_access_key" => {
                format!("{}{}", "AKIA", "IOSFODNN7EXAMPLE".replace(['0', '1', '8', '9'], "2"))
            }
            "google_api_key" => {
                format!("AIza{}", "Sy0a-_".repeat(6).chars().take(35).collect::<String>())
            }
            "github_token" => format!("ghp_{}", "a1B2".repeat(9)),
            "slack_token" => format!("xoxb-{}", "12345-abcde".repeat(2)),
            "stripe_key" => format!("sk_live_{}", "4eC3".repeat(6)),
            "private_key" => "-----BEGIN RSA PRIVATE KEY-----\nMIIE".to_owned(),
            _ => format!("eyJ{0}.eyJ{0}.{0}", "hbGciOiJI1"),
        };
        for entity in ENTITIES.iter().filter(|entity| entity.class == Class::Secret) {
            let key = key(entity.name);
            let at = ENTITIES.iter().position(|other| other.name == entity.name).expect("there");
            assert_eq!(evidence(&[&key], Kind::Text)[at].strong, 1, "{key}");
            let text = format!("use {key} for now");
            assert_eq!(
                found_within(&text).iter().map(|(name, _)| *name).collect::<Vec<_>>(),
                [entity.name],
                "{text}"
            );
        }
        for other in [
            "AKIAshort",
            "ghp_short",
            "-----BEGIN CERTIFICATE-----",
            "eyJub3Q",
            "sk_live_",
            "xoxo-hugs",
        ] {
            assert!(!found_within(other).iter().any(|(name, _)| is_secret(name)), "{other}");
        }
    }

    #[test]
    fn versions_are_not_addresses() {
        let versions: Vec<String> =
            (0..100).map(|i| format!("{}.{}.{}.{}", i % 5, i % 10, i % 20, i)).collect();
        let of = |values: &[String]| {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            evidence(&values, Kind::Text)
                [ENTITIES.iter().position(|e| e.name == "ip_address").expect("there")]
            .strong
        };
        assert_eq!(of(&versions), 0);
        assert_eq!(of(&(0..100).map(|i| format!("10.0.{i}.{}", 255 - i)).collect::<Vec<_>>()), 100);
    }
}
