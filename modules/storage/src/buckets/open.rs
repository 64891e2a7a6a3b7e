//! From what is registered to a store: URLs, options, secrets, keys.
//!
//! Invariants: a key is what its reader says it is, for nothing here percent-encodes
//! ([`object_store`] does so where a path is made `From` a text, and not where it is parsed); an
//! option that holds a secret, or that nobody knows, is refused by name; no message holds a value.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use brahman_card::chain;
use brahman_card::interface::storage::{AddBucketIn, Bucket};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::error::{BucketError, has_userinfo, mask};
use crate::secrets;

/// How long one request may take, and all its retries.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);
/// Retries of one request: beyond these whoever asked is told.
const RETRIES_MAX: usize = 3;

/// Where a bucket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket of S3, and what all our keys in it begin with.
    S3 { bucket: String, prefix: String },
}

fn bad(name: &str, why: &str) -> BucketError {
    BucketError::Bad(format!("bucket `{name}`: {why}"))
}

impl Location {
    /// By its URL.
    pub(super) fn parse(name: &str, url: &str) -> Result<Self, BucketError> {
        if let Some(folder) = url.strip_prefix("file://") {
            if !Path::new(folder).is_absolute() {
                return Err(bad(
                    name,
                    &format!("{}: expected file:///an/absolute/folder", mask(url, &[])),
                ));
            }
            return Ok(Self::Folder(Path::new(folder).components().collect()));
        }
        let Some(place) = url.strip_prefix("s3://").filter(|place| !place.is_empty()) else {
            return Err(bad(
                name,
                &format!("{}: expected file:///folder or s3://bucket/prefix", mask(url, &[])),
            ));
        };
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
    }

    /// As it is registered.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Folder(folder) => format!("file://{}", folder.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => format!("s3://{bucket}"),
            Self::S3 { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
        }
    }
}

/// The location of a bucket that is about to be registered, by rules that earlier versions did not
/// have.
pub(super) fn check(ask: &AddBucketIn) -> Result<Location, BucketError> {
    let (name, url) = (ask.name.as_str(), ask.url.as_str());
    if has_userinfo(url) {
        return Err(bad(
            name,
            "its URL names a user or a password: put the password into the secrets file and name its entry (`secret`)",
        ));
    }
    let location = Location::parse(name, url)?;
    match &location {
        Location::Folder(folder) => {
            // Once a link stands in its place, `..` leads somewhere else.
            let plain = folder
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            if !plain || url.chars().any(char::is_control) {
                return Err(bad(
                    name,
                    &format!(
                        "{}: expected a folder's own path, without . and ..",
                        url.escape_debug()
                    ),
                ));
            }
            if ask.secret.is_some()
                || ask.options.as_ref().is_some_and(|options| !options.is_empty())
            {
                return Err(bad(name, "`options` and `secret` are of S3: a folder has none"));
            }
        }
        Location::S3 { bucket, prefix } => {
            if bucket.is_empty()
                || !bucket
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            {
                return Err(bad(
                    name,
                    &format!(
                        "{}: expected s3://bucket/prefix, the bucket of a-z 0-9 . - _",
                        url.escape_debug()
                    ),
                ));
            }
            self::prefix(name, prefix)?;
        }
    }
    check_options(name, ask.options.iter().flatten())?;
    Ok(location)
}

/// A key as it is: what is no path in every kind of bucket is refused.
pub(super) fn key(name: &str, text: &str) -> Result<Key, BucketError> {
    // To the library that turns keys into files' paths, whatever ends so is a drive, and a drive is
    // a folder.
    let is_folder =
        matches!(text.as_bytes(), [.., letter, b':' | b'|'] if letter.is_ascii_alphabetic());
    let refused = || {
        bad(
            name,
            &format!(
                "key `{}`: expected one that does not end in a letter and : or |",
                text.escape_debug()
            ),
        )
    };
    if is_folder { Err(refused()) } else { prefix(name, text) }
}

/// What keys begin with, as it is.
pub(super) fn prefix(name: &str, text: &str) -> Result<Key, BucketError> {
    // `a:` is a drive to the same library, wherever it stands.
    let is_drive = |part: &str| {
        matches!(
            part.trim().as_bytes(),
            [letter, b':' | b'|'] if letter.is_ascii_alphabetic()
        )
    };
    let parsed = Key::parse(text)
        .ok()
        .filter(|parsed| parsed.as_ref() == text && !text.split('/').any(is_drive));
    let expected = "expected parts apart by single slashes, none of them . or .. or a letter with a colon, without control characters";
    parsed.ok_or_else(|| bad(name, &format!("key `{}`: {expected}", text.escape_debug())))
}

/// As an earlier version has written a prefix: percent-encoded, and what was no path left out.
pub(super) fn encoded(prefix: &str) -> String {
    Key::from(prefix).into()
}

/// An option by the name that the person gave it.
fn option(name: &str, spelled: &str) -> Result<AmazonS3ConfigKey, BucketError> {
    let unknown = || bad(name, &format!("`{}` is no option of S3", spelled.escape_debug()));
    spelled.parse().map_err(|_| unknown())
}

/// What of the secrets file an option is, if it holds a secret.
fn secret_entry(option: AmazonS3ConfigKey) -> Option<&'static str> {
    let canonical: &str = option.as_ref();
    match canonical {
        "aws_secret_access_key" => Some("password"),
        "aws_session_token" => Some("token"),
        // Named by its end, so that a customer's key of another kind is one, too.
        other if other.ends_with("key_base64") => Some("customer_key"),
        _ => None,
    }
}

fn check_options<'a>(
    name: &str,
    options: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<(), BucketError> {
    let mut seen = BTreeSet::new();
    for (spelled, value) in options {
        let known = option(name, spelled)?;
        if let Some(entry) = secret_entry(known) {
            return Err(bad(
                name,
                &format!(
                    "`{spelled}` is a secret: put it into the secrets file as `{entry}` of an entry, and name that (`secret`)"
                ),
            ));
        }
        if known == AmazonS3ConfigKey::Bucket {
            return Err(bad(
                name,
                &format!("`{spelled}`: the bucket stands in the URL, s3://bucket/prefix"),
            ));
        }
        let canonical: &str = known.as_ref();
        if !seen.insert(canonical.to_owned()) {
            return Err(bad(
                name,
                &format!("`{spelled}` is said twice, by two names of one option"),
            ));
        }
        // A URL with an @ has a user in it, and one with a query may have been signed.
        if value.contains("://") && value.contains(['@', '?', '#']) {
            let expected =
                "expected scheme://host:port/path, without a user, a password or a query";
            return Err(bad(name, &format!("`{spelled}`: {expected}")));
        }
    }
    Ok(())
}

/// Options as they may be shown, and whether anything had to be hidden. An earlier version took
/// what is refused now.
pub(super) fn shown(options: &BTreeMap<String, String>) -> (BTreeMap<String, String>, bool) {
    let mut hidden = false;
    let mut show = |(spelled, value): (&String, &String)| {
        let secret =
            spelled.parse::<AmazonS3ConfigKey>().is_ok_and(|known| secret_entry(known).is_some());
        let told = if secret { super::error::MASK.to_owned() } else { mask(value, &[]) };
        hidden |= told != *value;
        (spelled.clone(), told)
    };
    let shown = options.iter().map(&mut show).collect();
    (shown, hidden)
}

/// The first value that is given for one of these options, in the order in which they count.
fn value_of(options: &BTreeMap<String, String>, wanted: &[AmazonS3ConfigKey]) -> Option<String> {
    let find = |wanted: &AmazonS3ConfigKey| {
        let mut given = options.iter().filter(|(spelled, _)| {
            spelled.parse::<AmazonS3ConfigKey>().is_ok_and(|known| known == *wanted)
        });
        given.next().map(|(_, value)| value.trim_end_matches('/').to_owned())
    };
    wanted.iter().find_map(find)
}

/// Whether something other than a key lets one in: none is needed, or it is said where one is
/// fetched. What is not said is not asked: a cloud's metadata service answers whoever runs on its
/// machines.
fn has_other_credentials(options: &BTreeMap<String, String>) -> bool {
    use AmazonS3ConfigKey::{
        ContainerAuthorizationTokenFile, ContainerCredentialsFullUri,
        ContainerCredentialsRelativeUri, ImdsV1Fallback, MetadataEndpoint, RoleArn, SkipSignature,
        WebIdentityTokenFile,
    };
    let is_said = |option: AmazonS3ConfigKey| {
        value_of(options, &[option]).is_some_and(|value| !matches!(&*value, "" | "false" | "0"))
    };
    [SkipSignature, MetadataEndpoint, ImdsV1Fallback, ContainerCredentialsRelativeUri]
        .into_iter()
        .any(is_said)
        || is_said(ContainerCredentialsFullUri) && is_said(ContainerAuthorizationTokenFile)
        || is_said(WebIdentityTokenFile) && is_said(RoleArn)
}

/// Refuses a bucket that no key is given for: without one the client would ask the machine's
/// metadata service.
fn check_credentials(bucket: &Bucket, has_secret: bool) -> Result<(), BucketError> {
    let options = &bucket.options;
    let has_id = value_of(options, &[AmazonS3ConfigKey::AccessKeyId]).is_some();
    let has_secret =
        has_secret || value_of(options, &[AmazonS3ConfigKey::SecretAccessKey]).is_some();
    let secrets = secrets::file();
    let secret = format!(
        "its secret key as `password` of an entry of the secrets file, {}, named by `--secret`",
        secrets.display()
    );
    let refused = |why: String| Err(bad(&bucket.name, &why));
    match (has_id, has_secret) {
        (true, true) => Ok(()),
        (true, false) => refused(format!("an access key's id is given and no secret key: expected {secret}")),
        (false, true) => refused("a secret key is given and no access key's id: expected `-o aws_access_key_id=…` as well".to_owned()),
        (false, false) if has_other_credentials(options) => Ok(()),
        (false, false) => refused(format!(
            "no key is given: expected `-o aws_access_key_id=…` and {secret}; or `-o aws_skip_signature=true`, for a bucket that is open to \
             all; or, to use the role of this machine, `-o aws_metadata_endpoint=http://169.254.169.254`"
        )),
    }
}

/// What tells one place from another: the URL, the endpoint and the region. Credentials may change,
/// these may not while anything lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    url: String,
    endpoint: Option<String>,
    region: String,
}

/// The region that the client takes where none is said.
const REGION: &str = "us-east-1";

impl Site {
    pub(super) fn of(url: &str, options: &BTreeMap<String, String>) -> Self {
        let endpoint =
            value_of(options, &[AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]);
        let region =
            value_of(options, &[AmazonS3ConfigKey::Region, AmazonS3ConfigKey::DefaultRegion]);
        let region = region.unwrap_or_else(|| REGION.to_owned());
        Self { url: url.trim_end_matches('/').to_owned(), endpoint, region }
    }

    /// Whether keys of one are keys of the other: the same bucket of S3, and one's prefix begins
    /// the other's.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let below = |one: &str, two: &str| {
            one.strip_prefix(two).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.url.starts_with("s3://")
            && self.endpoint == other.endpoint
            && (below(&self.url, &other.url) || below(&other.url, &self.url))
    }
}

/// A bucket of S3; no request is made yet. Told with what of its settings is secret.
pub(super) fn s3(
    bucket: &Bucket,
    s3: &str,
    prefix: &str,
) -> Result<(Arc<dyn ObjectStore>, Vec<String>), BucketError> {
    let name = bucket.name.as_str();
    let mut hidden: Vec<String> = Vec::new();
    // The client takes whatever library of cryptography the process has settled on; a second
    // settling is refused, and harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    };
    let client = ClientOptions::new().with_timeout(REQUEST_TIMEOUT);
    let mut builder =
        AmazonS3Builder::new().with_bucket_name(s3).with_retry(retry).with_client_options(client);
    for (spelled, value) in &bucket.options {
        let known = option(name, spelled)?;
        // Only an earlier version has registered such a one; what was reachable with it stays so.
        if secret_entry(known).is_some() {
            hidden.push(value.clone());
        } else if let Some((user, _)) =
            value.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'))
        {
            hidden.push(user.to_owned());
        }
        builder = builder.with_config(known, value);
    }
    let mut has_secret = false;
    if let Some(entry) = &bucket.secret {
        let found = secrets::read(&secrets::file(), entry).map_err(|e| bad(name, &chain(&e)))?;
        hidden.extend(
            [&found.password, &found.token, &found.customer_key].into_iter().flatten().cloned(),
        );
        if let Some(password) = found.password {
            has_secret = true;
            builder = builder.with_secret_access_key(password);
        }
        if let Some(token) = found.token {
            builder = builder.with_token(token);
        }
        if let Some(customer_key) = found.customer_key {
            builder = builder.with_ssec_encryption(customer_key);
        }
    }
    check_credentials(bucket, has_secret)?;
    let store = builder.build().map_err(|e| bad(name, &mask(&e.to_string(), &hidden)))?;
    let store: Arc<dyn ObjectStore> = match prefix {
        "" => Arc::new(store),
        prefix => Arc::new(PrefixStore::new(store, self::prefix(name, prefix)?)),
    };
    Ok((store, hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(url: &str, options: &[(&str, &str)]) -> AddBucketIn {
        let options = options
            .iter()
            .map(|(option, value)| ((*option).to_owned(), (*value).to_owned()))
            .collect();
        AddBucketIn { name: "b".into(), url: url.into(), options: Some(options), secret: None }
    }

    #[test]
    fn what_is_secret_or_unknown_is_refused_by_name_and_never_repeated() {
        for (url, options, words) in [
            ("s3://b", &[("aws_secret_access_key", "hunter2")][..], "`password`"),
            ("s3://b", &[("token", "hunter2")][..], "`token`"),
            ("s3://b", &[("aws_sse_customer_key_base64", "hunter2")][..], "`customer_key`"),
            ("s3://b", &[("sse_customer_key_base64", "hunter2")][..], "secrets file"),
            ("s3://b", &[("aws_endpoint", "https://me:hunter2@host")][..], "`aws_endpoint`"),
            ("s3://b", &[("proxy_url", "http://me:hun/ter2@host")][..], "`proxy_url`"),
            (
                "s3://b",
                &[("aws_endpoint", "https://host/?X-Amz-Signature=hunter2")][..],
                "without a user",
            ),
            ("s3://b", &[("aws_speed", "hunter2")][..], "`aws_speed` is no option"),
            ("s3://b", &[("bucket", "hunter2")][..], "stands in the URL"),
            ("s3://b", &[("region", "hunter2"), ("aws_region", "x")][..], "said twice"),
            ("s3://me:hunter2@b/p", &[][..], "user or a password"),
            ("file://me:hunter2@host/x", &[][..], "user or a password"),
            ("file:///x", &[("aws_region", "hunter2")][..], "are of S3"),
            ("file:///x/../y", &[][..], "without . and .."),
            ("s3://b/a//b", &[][..], "single slashes"),
            ("s3://b/../c", &[][..], "none of them . or .."),
            ("s3://b c/x", &[][..], "s3://bucket/prefix"),
        ] {
            let error = check(&ask(url, options)).expect_err(url).to_string();
            assert!(
                error.contains(words) && !error.contains("hunter2"),
                "{url} {options:?}: {error}"
            );
        }
        for (url, options) in [
            (
                "s3://b/ü+1 %/x",
                &[
                    ("aws_endpoint", "http://127.0.0.1:9000/"),
                    ("aws_allow_http", "true"),
                    ("aws_access_key_id", "me"),
                ][..],
            ),
            ("file:///x/ü+1 %", &[][..]),
        ] {
            let location = check(&ask(url, options)).expect(url);
            assert_eq!(location.url(), url);
        }
    }

    #[test]
    fn without_a_key_nobody_is_asked_for_one_but_who_is_named() {
        let bucket = |options: &[(&str, &str)]| {
            let options = ask("s3://b", options).options.unwrap_or_default();
            let (name, url) = ("b".to_owned(), "s3://b".to_owned());
            Bucket {
                name,
                url,
                options,
                secret: None,
                protected: false,
                conditional_put: true,
                added_ms: 1,
                id: None,
            }
        };
        for (options, words) in [
            (&[("aws_endpoint", "http://h")][..], "no key is given"),
            (&[("access_key_id", "me")][..], "no secret key"),
            (&[("aws_skip_signature", "false")][..], "secrets file"),
            (&[("aws_role_arn", "r")][..], "no key is given"),
        ] {
            let refused =
                s3(&bucket(options), "b", "").expect_err("nothing lets one in").to_string();
            assert!(refused.contains(words) && refused.contains("`b`"), "{options:?}: {refused}");
        }
        for options in [
            &[("aws_skip_signature", "true")][..],
            &[("metadata_endpoint", "http://169.254.169.254")][..],
            &[("aws_web_identity_token_file", "/x"), ("aws_role_arn", "r")][..],
            // As an earlier version has registered it.
            &[("aws_access_key_id", "me"), ("aws_secret_access_key", "hunter2")][..],
        ] {
            s3(&bucket(options), "b", "").expect("said");
        }
        assert!(
            check_credentials(&bucket(&[]), true)
                .is_err_and(|error| error.to_string().contains("aws_access_key_id"))
        );
    }

    #[test]
    fn what_an_earlier_version_has_stored_is_masked() {
        let options = ask(
            "",
            &[
                ("aws_sse_customer_key_base64", "hunter2"),
                ("endpoint", "https://me:hunter2@h"),
                ("region", "x"),
            ],
        )
        .options;
        let (told, hidden) = shown(&options.unwrap_or_default());
        assert!(
            hidden && !format!("{told:?}").contains("hunter2") && told["region"] == "x",
            "{told:?}"
        );
        assert!(told["endpoint"].ends_with("@h"), "{told:?}");
    }

    #[test]
    fn another_endpoint_region_or_prefix_is_another_place_and_credentials_are_not() {
        let site = |url: &str, options: &[(&str, &str)]| {
            Site::of(url, &ask(url, options).options.unwrap_or_default())
        };
        let one = site(
            "s3://b/p",
            &[("aws_endpoint", "http://h"), ("aws_region", "r"), ("aws_access_key_id", "me")],
        );
        assert_eq!(
            one,
            site(
                "s3://b/p/",
                &[("endpoint_url", "http://h/"), ("region", "r"), ("access_key_id", "you")]
            )
        );
        for (url, options) in [
            ("s3://b/q", &[("endpoint", "http://h"), ("region", "r")][..]),
            ("s3://b/p", &[("endpoint", "http://i"), ("region", "r")][..]),
            ("s3://b/p", &[("endpoint", "http://h"), ("region", "s")][..]),
            (
                "s3://b/p",
                &[("endpoint", "http://h"), ("region", "r"), ("aws_endpoint_url_s3", "http://j")][..],
            ),
        ] {
            assert_ne!(one, site(url, options), "{url} {options:?}");
        }
        let at = |url: &str| site(url, &[("endpoint", "http://h")]);
        assert!(
            at("s3://b").overlaps(&at("s3://b/p")) && at("s3://b/p/q").overlaps(&at("s3://b/p"))
        );
        assert!(
            !at("s3://b/pq").overlaps(&at("s3://b/p")) && !at("s3://bb").overlaps(&at("s3://b"))
        );
    }
}
