//! Names of datasets and runs, checked once, where they come in.

use super::BookError;

/// Longest name.
const NAME_BYTES_MAX: usize = 128;
/// Names of files and folders of our own beside the datasets'.
const RESERVED: [&str; 5] = ["buckets", "mock", "node", "errors", "lineage"];

/// Whether a name can be a file's: it never leads out of the folder that it is put into.
///
/// # Errors
/// [`BookError::BadName`].
pub fn check(name: &str) -> Result<(), BookError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.') {
        Ok(())
    } else {
        Err(BookError::BadName(name.to_owned()))
    }
}

/// Whether a dataset that is not there yet may have this name.
///
/// # Errors
/// [`BookError::BadName`], [`BookError::Reserved`].
pub fn check_new(name: &str) -> Result<(), BookError> {
    check(name)?;
    match RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
        true => Err(BookError::Reserved(name.to_owned())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_leads_elsewhere_or_is_ours_is_refused() {
        for bad in ["", ".", "..", ".hidden", "a/b", "/a", "a\0b", "a b", "ä", "a\n", &"x".repeat(129)] {
            assert!(matches!(check(bad), Err(BookError::BadName(_))), "{bad:?}");
        }
        for ours in ["buckets", "mock", "Mock", "lineage"] {
            assert!(matches!(check_new(ours), Err(BookError::Reserved(_))) && check(ours).is_ok(), "{ours}");
        }
        for good in ["notes", "shop.Orders", "a-b_c.1", "buckets2"] {
            assert!(check_new(good).is_ok(), "{good}");
        }
    }

    proptest! {
        #[test]
        fn a_good_name_is_one_step_down(name in ".{0,12}") {
            if check(&name).is_ok() {
                let path = std::path::Path::new("/state/datasets").join(&name);
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/state/datasets")));
                prop_assert_eq!(path.components().count(), 4);
            }
        }
    }
}
