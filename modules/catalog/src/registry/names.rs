//! Names of datasets and runs, as the catalog refuses them; what a name is says
//! [`brahman_card::names`].

use brahman_card::names::{Kind, NameError};

use super::RegistryError;

/// Whether a name can be a file's: it never leads out of the folder that it is put into.
///
/// # Errors
/// [`RegistryError::BadName`].
pub fn check(name: &str) -> Result<(), RegistryError> {
    Kind::Dataset.check(name).map_err(refused)
}

/// Whether a dataset that is not there yet may have this name.
///
/// # Errors
/// [`RegistryError::BadName`], [`RegistryError::Reserved`].
pub fn check_new(name: &str) -> Result<(), RegistryError> {
    Kind::Dataset.check_new(name).map_err(refused)
}

fn refused(error: NameError) -> RegistryError {
    match error {
        NameError::Reserved { name, .. } => RegistryError::Reserved(name),
        NameError::Malformed { name, .. } | NameError::TrailingDot { name, .. } => {
            RegistryError::BadName(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_elsewhere_or_is_ours_is_refused() {
        for bad in
            ["", ".", "..", ".hidden", "a/b", "/a", "a\0b", "a b", "ä", "a\n", &"x".repeat(129)]
        {
            assert!(matches!(check(bad), Err(RegistryError::BadName(_))), "{bad:?}");
        }
        assert!(matches!(check_new("a."), Err(RegistryError::BadName(_))));
        for ours in ["buckets", "mock", "Mock", "lineage"] {
            assert!(
                matches!(check_new(ours), Err(RegistryError::Reserved(_))) && check(ours).is_ok(),
                "{ours}"
            );
        }
        assert!(check_new("shop.Orders").is_ok());
    }
}
