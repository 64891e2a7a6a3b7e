//! Check digits of numbers that identify people, each by the published rule of whoever gives them out.
//!
//! A function takes a number's digits (and letters) without separators and says whether it could have been given out.

/// The digits of a text, if it is nothing else.
fn digits(text: &str) -> Option<Vec<u32>> {
    text.chars().map(|c| c.to_digit(10)).collect()
}

fn weighed(digits: &[u32], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(d, w)| d * w).sum()
}

/// Luhn (ISO/IEC 7812-1 annex B).
#[must_use]
pub fn luhn(text: &str) -> bool {
    let doubled = |d: u32| if d > 4 { d * 2 - 9 } else { d * 2 };
    digits(text)
        .is_some_and(|all| all.iter().rev().enumerate().map(|(i, d)| if i % 2 == 1 { doubled(*d) } else { *d }).sum::<u32>() % 10 == 0)
}

/// A payment card: the issuer's leading digits, the lengths that it gives out, and Luhn.
#[must_use]
pub fn card(text: &str) -> bool {
    let lead = |n: usize| text.get(..n).and_then(|t| t.parse::<u32>().ok()).unwrap_or(0);
    let issued = match text.len() {
        13 => lead(1) == 4,
        14 => matches!(lead(3), 300..=305 | 309) || matches!(lead(2), 36 | 38 | 39),
        15 => matches!(lead(2), 34 | 37) || matches!(lead(4), 2131 | 1800),
        16 => {
            lead(1) == 4
                || matches!(lead(2), 51..=55 | 65)
                || matches!(lead(4), 2221..=2720 | 6011 | 3528..=3589)
                || matches!(lead(3), 644..=649)
                || matches!(lead(2), 50 | 56..=58 | 62 | 63 | 67)
        }
        19 => lead(1) == 4 || matches!(lead(2), 62 | 63 | 65 | 67) || lead(4) == 6011,
        12 | 17 | 18 => matches!(lead(2), 50 | 56..=58 | 63 | 67),
        _ => false,
    };
    issued && luhn(text)
}

/// Month and day that there are, of a number that begins with a birth date.
fn month_day(month: u32, day: u32) -> bool {
    (1..=12).contains(&month) && (1..=31).contains(&day)
}

/// United States: Social Security number. No check digit: what is never given out.
#[must_use]
pub fn us_ssn(text: &str) -> bool {
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or("000");
    text.len() == 9
        && digits(text).is_some()
        && !matches!(part(0..3), "000" | "666")
        && !text.starts_with('9')
        && part(3..5) != "00"
        && part(5..9) != "0000"
}

/// United Kingdom: National Insurance number. No check digit: prefixes that are given out.
#[must_use]
pub fn uk_nino(text: &str) -> bool {
    let prefix = text.get(..2).unwrap_or_default();
    !matches!(prefix, "BG" | "GB" | "KN" | "NK" | "NT" | "TN" | "ZZ")
        && !prefix.contains(['D', 'F', 'I', 'Q', 'U', 'V'])
        && !prefix.ends_with('O')
}

/// Spain: NIF and NIE, a letter by the number's remainder of 23.
#[must_use]
pub fn es_nif(text: &str) -> bool {
    let (number, letter) = text.split_at(text.len().saturating_sub(1));
    let number = match number.as_bytes().first() {
        Some(b'X') => format!("0{}", &number[1..]),
        Some(b'Y') => format!("1{}", &number[1..]),
        Some(b'Z') => format!("2{}", &number[1..]),
        _ => number.to_owned(),
    };
    number.parse::<usize>().is_ok_and(|n| b"TRWAGMYFPDXBNJZSQVHLCKE"[n % 23] == letter.as_bytes()[0])
}

/// Italy: codice fiscale, a letter by values of odd and even places.
#[must_use]
pub fn it_codice_fiscale(text: &str) -> bool {
    const ODD: [u32; 26] = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let value = |c: u8| u32::from(if c.is_ascii_digit() { c - b'0' } else { c - b'A' });
    let Some((last, body)) = text.as_bytes().split_last() else { return false };
    let sum: u32 = body.iter().enumerate().map(|(i, c)| if i % 2 == 0 { ODD[value(*c) as usize] } else { value(*c) }).sum();
    sum % 26 == value(*last)
}

/// France: NIR (INSEE), 97 less the number's remainder of 97; Corsica's 2A and 2B count as 19 and 18.
#[must_use]
pub fn fr_nir(text: &str) -> bool {
    let Some((body, key)) = text.split_at_checked(13) else { return false };
    let body = body.replacen("2A", "19", 1).replacen("2B", "18", 1);
    body.parse::<u64>().ok().zip(key.parse::<u64>().ok()).is_some_and(|(n, key)| 97 - n % 97 == key)
}

/// Netherlands: BSN, the eleven test.
#[must_use]
pub fn nl_bsn(text: &str) -> bool {
    digits(text).is_some_and(|d| {
        d.len() == 9 && d.iter().any(|n| *n > 0) && (weighed(&d, &[9, 8, 7, 6, 5, 4, 3, 2]) + 10 * d[8]).is_multiple_of(11)
    })
}

/// Brazil: CPF, two digits by remainders of 11.
#[must_use]
pub fn br_cpf(text: &str) -> bool {
    let digit = |d: &[u32], n: u32| {
        let sum: u32 = d.iter().zip((2..=n).rev()).map(|(d, w)| d * w).sum();
        (sum * 10 % 11) % 10
    };
    digits(text)
        .is_some_and(|d| d.len() == 11 && d.iter().any(|n| *n != d[0]) && digit(&d[..9], 10) == d[9] && digit(&d[..10], 11) == d[10])
}

/// Poland: PESEL; its month says the century.
#[must_use]
pub fn pl_pesel(text: &str) -> bool {
    digits(text).is_some_and(|d| {
        let month = (d[2] * 10 + d[3]) % 20;
        d.len() == 11 && month_day(month, d[4] * 10 + d[5]) && (weighed(&d, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3]) + d[10]).is_multiple_of(10)
    })
}

/// Sweden: personnummer, Luhn over ten digits that begin with a birth date (a coordination number's day has 60 more).
#[must_use]
pub fn se_personnummer(text: &str) -> bool {
    let ten = text.get(text.len().saturating_sub(10)..).unwrap_or_default();
    digits(ten).is_some_and(|d| {
        let day = d[4] * 10 + d[5];
        d.len() == 10 && month_day(d[2] * 10 + d[3], if day > 60 { day - 60 } else { day }) && luhn(ten)
    })
}

/// Finland: henkilötunnus, a character by the remainder of 31.
#[must_use]
pub fn fi_hetu(text: &str) -> bool {
    // DDMMYY, century sign, three digits, check character.
    let number = text.get(..6).zip(text.get(7..10)).and_then(|(a, b)| format!("{a}{b}").parse::<usize>().ok());
    number.is_some_and(|n| text.as_bytes().last() == Some(&b"0123456789ABCDEFHJKLMNPRSTUVWXY"[n % 31]))
}

/// Canada: SIN, Luhn over nine digits; 0 and 8 are not given to people.
#[must_use]
pub fn ca_sin(text: &str) -> bool {
    text.len() == 9 && !text.starts_with(['0', '8']) && luhn(text)
}

/// Switzerland: AHV number, an EAN-13 of prefix 756.
#[must_use]
pub fn ch_ahv(text: &str) -> bool {
    digits(text).is_some_and(|d| {
        let sum: u32 = d.iter().enumerate().map(|(i, d)| if i % 2 == 0 { *d } else { 3 * d }).sum();
        d.len() == 13 && text.starts_with("756") && sum.is_multiple_of(10)
    })
}

/// Belgium: rijksregisternummer, 97 less the remainder of 97, with 2 before it for those born since 2000.
#[must_use]
pub fn be_nrn(text: &str) -> bool {
    let Some((body, key)) = text.split_at_checked(9) else { return false };
    let right = |body: &str| body.parse::<u64>().ok().zip(key.parse::<u64>().ok()).is_some_and(|(n, key)| 97 - n % 97 == key);
    text.len() == 11 && (right(body) || right(&format!("2{body}")))
}

/// China: resident identity number (GB 11643), ISO 7064 mod 11-2.
#[must_use]
pub fn cn_ric(text: &str) -> bool {
    let Some((body, last)) = text.split_at_checked(17) else { return false };
    digits(body).is_some_and(|d| {
        let sum = weighed(&d, &[7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]);
        month_day(d[10] * 10 + d[11], d[12] * 10 + d[13]) && b"10X98765432"[(sum % 11) as usize] == last.as_bytes()[0]
    })
}

/// India: Aadhaar, checked by Verhoeff's digit.
#[must_use]
pub fn in_aadhaar(text: &str) -> bool {
    const PERMUTATION: [[u32; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    // The dihedral group of ten: rotations below 5, reflections above.
    let times = |a: u32, b: u32| match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => (a + b - 5) % 5 + 5,
        (false, true) => (a - 5 + 5 - b) % 5 + 5,
        (false, false) => (a + 5 - b) % 5,
    };
    digits(text).is_some_and(|d| {
        let check = d.iter().rev().enumerate().fold(0, |c, (i, d)| times(c, PERMUTATION[i % 8][*d as usize]));
        d.len() == 12 && d[0] > 1 && check == 0
    })
}

/// Norway: fødselsnummer, two digits by remainders of 11.
#[must_use]
pub fn no_fnr(text: &str) -> bool {
    digits(text).is_some_and(|d| {
        let day = d[0] * 10 + d[1];
        d.len() == 11
            && month_day((d[2] * 10 + d[3]) % 40, if day > 40 { day - 40 } else { day })
            && (weighed(&d, &[3, 7, 6, 1, 8, 9, 4, 5, 2, 1])).is_multiple_of(11)
            && (weighed(&d, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1])).is_multiple_of(11)
    })
}

/// Germany: Steuer-Identifikationsnummer, ISO 7064 mod 11,10; of the first ten digits one stands two or three times.
#[must_use]
pub fn de_steuer_id(text: &str) -> bool {
    digits(text).is_some_and(|d| {
        let product = d[..d.len() - 1].iter().fold(10, |p, d| {
            let sum = (d + p) % 10;
            (if sum == 0 { 10 } else { sum }) * 2 % 11
        });
        let most = (0..10).map(|n| d[..10.min(d.len())].iter().filter(|d| **d == n).count()).max();
        d.len() == 11 && d[0] > 0 && matches!(most, Some(2 | 3)) && (11 - product) % 10 == d[10]
    })
}

/// Türkiye: T.C. kimlik numarası.
#[must_use]
pub fn tr_tckn(text: &str) -> bool {
    digits(text).is_some_and(|d| {
        let (odd, even): (u32, u32) = (d[0] + d[2] + d[4] + d[6] + d[8], d[1] + d[3] + d[5] + d[7]);
        d.len() == 11 && d[0] > 0 && (odd * 7 + 10 * even - even) % 10 == d[9] && d[..10].iter().sum::<u32>() % 10 == d[10]
    })
}

/// Romania: CNP, weighted sum modulo 11.
#[must_use]
pub fn ro_cnp(text: &str) -> bool {
    digits(text).is_some_and(|d| {
        let rest = weighed(&d, &[2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9]) % 11;
        d.len() == 13 && d[0] > 0 && month_day(d[3] * 10 + d[4], d[5] * 10 + d[6]) && (if rest == 10 { 1 } else { rest }) == d[12]
    })
}

/// Denmark: CPR number. Its check digit ran out in 2007: a birth date is all there is to test.
#[must_use]
pub fn dk_cpr(text: &str) -> bool {
    digits(text).is_some_and(|d| d.len() == 10 && month_day(d[2] * 10 + d[3], d[0] * 10 + d[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule, a number that its publisher or an encyclopaedia gives as an example, and places at which one digit is changed.
    type Case = (fn(&str) -> bool, &'static str);

    const CASES: [Case; 18] = [
        (card, "4111111111111111"),
        (card, "378282246310005"),
        (es_nif, "12345678Z"),
        (es_nif, "X1234567L"),
        (it_codice_fiscale, "RSSMRA85T10A562S"),
        (fr_nir, "255081416802538"),
        (nl_bsn, "111222333"),
        (br_cpf, "52998224725"),
        (pl_pesel, "44051401359"),
        (se_personnummer, "8112189876"),
        (fi_hetu, "131052-308T"),
        (ca_sin, "130692544"),
        (ch_ahv, "7569217076985"),
        (be_nrn, "85073003328"),
        (cn_ric, "11010519491231002X"),
        (in_aadhaar, "999941057058"),
        (de_steuer_id, "86095742719"),
        (tr_tckn, "10000000146"),
    ];

    #[test]
    fn published_examples_are_right_and_one_wrong_digit_is_seen() {
        for (rule, number) in CASES {
            assert!(rule(number), "{number}");
            let last = number.char_indices().rev().find(|(_, c)| c.is_ascii_digit()).expect("a digit");
            let other = if last.1 == '9' { '0' } else { '9' };
            let wrong: String = number.char_indices().map(|(i, c)| if i == last.0 { other } else { c }).collect();
            assert!(!rule(&wrong), "{wrong}");
        }
        assert!(us_ssn("536221234") && !us_ssn("000221234") && !us_ssn("666221234") && !us_ssn("536001234"));
        assert!(uk_nino("AB123456C") && !uk_nino("QQ123456C"));
    }
}
