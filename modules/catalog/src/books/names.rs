//! Names of datasets and runs, as the catalog refuses them; what a name is says [`brahman_card::names`].

use brahman_card::names::{Kind, NameError};

use super::BookError;

/// Whether a name can be a file's: it never leads out of the folder that it is put into.
///
/// # Errors
/// [`BookError::BadName`].
pub fn check(name: &str) -> Result<(), BookError> {
    Kind::Dataset.check(name).map_err(refused)
}

/// Whether a dataset that is not there yet may have this name.
///
/// # Errors
/// [`BookError::BadName`], [`BookError::Reserved`].
pub fn check_new(name: &str) -> Result<(), BookError> {
    Kind::Dataset.check_new(name).map_err(refused)
}

fn refused(error: NameError) -> BookError {
    match error {
        NameError::Reserved { name, .. } => BookError::Reserved(name),
        NameError::Malformed { name, .. } | NameError::TrailingDot { name, .. } => BookError::BadName(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_elsewhere_or_is_ours_is_refused() {
        for bad in ["", ".", "..", ".hidden", "a/b", "/a", "a\0b", "a b", "ä", "a\n", &"x".repeat(129)] {
            assert!(matches!(check(bad), Err(BookError::BadName(_))), "{bad:?}");
        }
        assert!(matches!(check_new("a."), Err(BookError::BadName(_))));
        for ours in ["buckets", "mock", "Mock", "lineage"] {
            assert!(matches!(check_new(ours), Err(BookError::Reserved(_))) && check(ours).is_ok(), "{ours}");
        }
        assert!(check_new("shop.Orders").is_ok());
    }
}
