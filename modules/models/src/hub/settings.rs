//! Where the hub is, who asks it, and where its cache lies: by the same variables as the hub's own
//! client (`huggingface_hub`) reads.

use std::path::{Path, PathBuf};
use std::{env, fmt, fs};

/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// Longest token that is read from a file: real ones have 37 characters.
const TOKEN_BYTES_MAX: usize = 4096;

/// Words that mean yes in a variable, as the hub's own client has them.
const YES: [&str; 4] = ["1", "on", "yes", "true"];

/// A token, and where it was found. Its text is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
    /// The variable or the file that holds it, for people.
    pub origin: String,
}

impl Token {
    /// What a request's header says.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// How the hub is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// Its address, without a slash at the end.
    pub endpoint: String,
    /// Who asks; nobody if there is none.
    pub token: Option<Token>,
    /// Whether nobody may be asked.
    pub is_offline: bool,
    /// The folder of its cache, which every client of the hub shares.
    pub cache: PathBuf,
}

impl HubSettings {
    /// From the environment: `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`,
    /// `HF_HUB_CACHE`, `HF_HOME`. Without a home the hub's cache lies in ours.
    #[must_use]
    pub fn from_env(cache: &Path) -> Self {
        Self::of(&|name| env::var(name).ok().filter(|value| !value.is_empty()), cache)
    }

    fn of(variable: &dyn Fn(&str) -> Option<String>, cache: &Path) -> Self {
        let home = variable("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let base = variable("XDG_CACHE_HOME").map(PathBuf::from);
            base.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))
                .unwrap_or_else(|| cache.to_owned())
                .join("huggingface")
        });
        let folder = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(variable);
        let is_yes = |name: &str| {
            variable(name).is_some_and(|value| YES.contains(&value.to_lowercase().as_str()))
        };
        Self {
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or_else(|| ENDPOINT.to_owned())
                .trim_end_matches('/')
                .to_owned(),
            token: token(variable, &home),
            is_offline: is_yes("HF_HUB_OFFLINE"),
            cache: folder.map_or_else(|| home.join("hub"), PathBuf::from),
        }
    }
}

fn token(variable: &dyn Fn(&str) -> Option<String>, home: &Path) -> Option<Token> {
    let by_variable = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
        .into_iter()
        .find_map(|name| Some((variable(name)?, name.to_owned())));
    let found = by_variable.or_else(|| {
        let path = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        // What `hf auth login` has written; none is none.
        let text = fs::read(&path).ok().filter(|bytes| bytes.len() <= TOKEN_BYTES_MAX)?;
        Some((String::from_utf8(text).ok()?, path.display().to_string()))
    });
    let (text, origin) = found?;
    let text = text.trim().to_owned();
    // Anything else would not be a header.
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()))
        .then_some(Token { text, origin })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        HubSettings::of(&variable, Path::new("/var/cache/brahman"))
    }

    #[test]
    fn the_cache_is_where_every_client_of_the_hub_has_it() {
        for (variables, expected) in [
            (&[][..], "/var/cache/brahman/huggingface/hub"),
            (&[("HOME", "/home/x")], "/home/x/.cache/huggingface/hub"),
            (&[("HOME", "/home/x"), ("XDG_CACHE_HOME", "/c")], "/c/huggingface/hub"),
            (&[("HOME", "/home/x"), ("HF_HOME", "/hf")], "/hf/hub"),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/models")], "/models"),
        ] {
            assert_eq!(settings(variables).cache, Path::new(expected), "{variables:?}");
        }
    }

    #[test]
    fn a_token_is_found_and_never_shown() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let of_home = home.path().display().to_string();
        assert_eq!(settings(&[("HF_HOME", &of_home)]).token, None);
        fs::write(home.path().join("token"), "hf_file\n").expect("written");
        let token = settings(&[("HF_HOME", &of_home)]).token.expect("from the file");
        assert_eq!(token.header(), "Bearer hf_file");
        assert!(token.origin.ends_with("/token"));
        let by_name = settings(&[("HF_HOME", &of_home), ("HF_TOKEN", "hf_name")]);
        let token = by_name.token.as_ref().expect("from the variable");
        assert_eq!(
            (token.header().as_str(), token.origin.as_str()),
            ("Bearer hf_name", "HF_TOKEN")
        );
        assert!(!format!("{by_name:?}").contains("hf_name"));
        assert_eq!(settings(&[("HF_TOKEN", "two\nlines")]).token, None, "no header can say that");
    }

    #[test]
    fn offline_is_said_as_the_hubs_client_has_it() {
        for (word, is_offline) in
            [("1", true), ("TRUE", true), ("on", true), ("0", false), ("no", false)]
        {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", word)]).is_offline, is_offline, "{word}");
        }
        assert_eq!(settings(&[("HF_ENDPOINT", "http://mirror:1/")]).endpoint, "http://mirror:1");
    }
}
