//! Which path is whose. Pure.
//!
//! Invariant: a path is taken literally: with an empty part, a dot part or a percent sign it is
//! none of ours, but for an object's key.

use hyper::Method;

use crate::refusal::Dialect;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `/`
    Page,
    /// `/page/{view}`
    View(&'a str),
    /// `/page/matrix`, to which the form with a conversation is sent.
    Matrix,
    /// `/health`, of TEI and of load balancers.
    Health,
    /// `/metrics`
    Metrics,
    /// `/openapi.json`
    OpenApi,
    /// `/mcp`
    Mcp,
    /// `/v1/models`
    Models,
    /// `/v1/models/{model}`
    Model(&'a str),
    /// `/v1/embeddings`
    OpenAiEmbeddings,
    /// `/api/embed`
    OllamaEmbed,
    /// `/api/embeddings`
    OllamaEmbeddings,
    /// `/api/tags`
    OllamaTags,
    /// `/api/show`
    OllamaShow,
    /// `/api/ps`
    OllamaProcesses,
    /// `/api/version`
    OllamaVersion,
    /// `/embed`
    TeiEmbed,
    /// `/info`
    TeiInfo,
    /// `/rerank`
    TeiRerank,
    /// `/v1/rerank`
    Rerank,
    /// `/v2/rerank`, which never gives the documents back.
    RerankSecond,
    /// `/v1/score`
    Score,
    /// `/v1/call/{method}`
    Call(&'a str),
    /// `/v1/interfaces`
    Interfaces,
    /// `/v1/interfaces/{interface}`
    Interface(&'a str),
    /// `/v1/status`
    Status,
    /// `/v1/events`, by which the page follows the status.
    Events,
    /// `/v1/indexes`
    Indexes,
    /// `/v1/indexes/{name}`
    Index(&'a str),
    /// `/v1/indexes/{name}/search`
    Search(&'a str),
    /// `/v1/ingest/files`
    Upload,
    /// `/v1/datasets`
    Datasets,
    /// `/v1/datasets/{name}`
    Dataset(&'a str),
    /// `/v1/buckets/{bucket}/objects/{key}`
    Object(&'a str, &'a str),
}

impl<'a> Route<'a> {
    /// What a path means.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        if let Some((bucket, key)) =
            path.strip_prefix("/v1/buckets/").and_then(|rest| rest.split_once("/objects/"))
        {
            return (is_plain(bucket) && !bucket.contains('/') && !key.is_empty())
                .then_some(Self::Object(bucket, key));
        }
        if let Some(model) = path.strip_prefix("/v1/models/") {
            return is_plain(model).then_some(Self::Model(model));
        }
        if path == "/" {
            return Some(Self::Page);
        }
        let rest = path.strip_prefix('/').filter(|rest| is_plain(rest))?;
        let parts: Vec<&str> = rest.split('/').collect();
        Some(match parts.as_slice() {
            ["page", "matrix"] => Self::Matrix,
            ["page", view] => Self::View(view),
            ["health"] => Self::Health,
            ["metrics"] => Self::Metrics,
            ["openapi.json"] => Self::OpenApi,
            ["mcp"] => Self::Mcp,
            ["v1", "models"] => Self::Models,
            ["v1", "embeddings"] => Self::OpenAiEmbeddings,
            ["api", "embed"] => Self::OllamaEmbed,
            ["api", "embeddings"] => Self::OllamaEmbeddings,
            ["api", "tags"] => Self::OllamaTags,
            ["api", "show"] => Self::OllamaShow,
            ["api", "ps"] => Self::OllamaProcesses,
            ["api", "version"] => Self::OllamaVersion,
            ["embed"] => Self::TeiEmbed,
            ["info"] => Self::TeiInfo,
            ["rerank"] => Self::TeiRerank,
            ["v1", "rerank"] => Self::Rerank,
            ["v2", "rerank"] => Self::RerankSecond,
            ["v1", "score"] => Self::Score,
            ["v1", "call", method] => Self::Call(method),
            ["v1", "interfaces"] => Self::Interfaces,
            ["v1", "interfaces", interface] => Self::Interface(interface),
            ["v1", "status"] => Self::Status,
            ["v1", "events"] => Self::Events,
            ["v1", "indexes"] => Self::Indexes,
            ["v1", "indexes", name] => Self::Index(name),
            ["v1", "indexes", name, "search"] => Self::Search(name),
            ["v1", "ingest", "files"] => Self::Upload,
            ["v1", "datasets"] => Self::Datasets,
            ["v1", "datasets", name] => Self::Dataset(name),
            _ => return None,
        })
    }

    /// Its path without the names in it, for metrics.
    pub(crate) fn pattern(&self) -> &'static str {
        match self {
            Self::Page => "/",
            Self::View(_) => "/page/{view}",
            Self::Matrix => "/page/matrix",
            Self::Health => "/health",
            Self::Metrics => "/metrics",
            Self::OpenApi => "/openapi.json",
            Self::Mcp => "/mcp",
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{model}",
            Self::OpenAiEmbeddings => "/v1/embeddings",
            Self::OllamaEmbed => "/api/embed",
            Self::OllamaEmbeddings => "/api/embeddings",
            Self::OllamaTags => "/api/tags",
            Self::OllamaShow => "/api/show",
            Self::OllamaProcesses => "/api/ps",
            Self::OllamaVersion => "/api/version",
            Self::TeiEmbed => "/embed",
            Self::TeiInfo => "/info",
            Self::TeiRerank => "/rerank",
            Self::Rerank => "/v1/rerank",
            Self::RerankSecond => "/v2/rerank",
            Self::Score => "/v1/score",
            Self::Call(_) => "/v1/call/{method}",
            Self::Interfaces => "/v1/interfaces",
            Self::Interface(_) => "/v1/interfaces/{interface}",
            Self::Status => "/v1/status",
            Self::Events => "/v1/events",
            Self::Indexes => "/v1/indexes",
            Self::Index(_) => "/v1/indexes/{name}",
            Self::Search(_) => "/v1/indexes/{name}/search",
            Self::Upload => "/v1/ingest/files",
            Self::Datasets => "/v1/datasets",
            Self::Dataset(_) => "/v1/datasets/{name}",
            Self::Object(..) => "/v1/buckets/{bucket}/objects/{key}",
        }
    }

    /// Whether it is asked for by POST; by GET else.
    pub(crate) fn is_post(&self) -> bool {
        matches!(
            self,
            Self::OpenAiEmbeddings
                | Self::OllamaEmbed
                | Self::OllamaEmbeddings
                | Self::OllamaShow
                | Self::TeiEmbed
                | Self::TeiRerank
                | Self::Rerank
                | Self::RerankSecond
                | Self::Score
                | Self::Call(_)
                | Self::Search(_)
                | Self::Upload
                | Self::Mcp
                | Self::Matrix
        )
    }

    /// Whether it may be asked for in this way.
    pub(crate) fn takes(&self, method: &Method) -> bool {
        if self.is_post() {
            // By the latter a session is ended.
            method == Method::POST || (*self == Self::Mcp && method == Method::DELETE)
        } else {
            method == Method::GET || method == Method::HEAD
        }
    }
}

/// Whose shape an error at a path has.
pub(crate) fn dialect(path: &str) -> Dialect {
    match Route::of(path) {
        Some(Route::Rerank | Route::RerankSecond) => Dialect::Cohere,
        // As a server for scores has always said it.
        Some(Route::Score) => Dialect::Ollama,
        Some(Route::TeiEmbed | Route::TeiInfo | Route::TeiRerank) => Dialect::Tei,
        Some(Route::Models | Route::Model(_) | Route::OpenAiEmbeddings) => Dialect::OpenAi,
        Some(_) if !path.starts_with("/api/") => Dialect::Own,
        None if path.starts_with("/v1/") => Dialect::OpenAi,
        _ if path.starts_with("/api/") => Dialect::Ollama,
        _ => Dialect::Own,
    }
}

/// Whether a person may look at what is at a path: a view of the page, or nothing at all.
pub(crate) fn is_of_page(path: &str) -> bool {
    match Route::of(path) {
        Some(Route::Page | Route::View(_) | Route::Matrix) => true,
        Some(_) => false,
        None => true,
    }
}

fn is_plain(path: &str) -> bool {
    path.split('/')
        .all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains(['%', '\\']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_one_thing_or_nothing() {
        for (path, route) in [
            ("/", Some(Route::Page)),
            ("/page/search", Some(Route::View("search"))),
            ("/page/matrix", Some(Route::Matrix)),
            ("/page/../metrics", None),
            ("/v1/embeddings", Some(Route::OpenAiEmbeddings)),
            (
                "/v1/models/sentence-transformers/all-MiniLM-L6-v2",
                Some(Route::Model("sentence-transformers/all-MiniLM-L6-v2")),
            ),
            ("/v1/indexes/notes/search", Some(Route::Search("notes"))),
            ("/v1/buckets/primary/objects/a/b%20c", Some(Route::Object("primary", "a/b%20c"))),
            ("/v1/call/org.example.Thing.Do", Some(Route::Call("org.example.Thing.Do"))),
            ("//", None),
            ("/v1/indexes/../datasets", None),
            ("/v1/indexes/%2e%2e/search", None),
            ("/v1/models/../x", None),
            ("/v1/embeddings/", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
        assert!(
            Route::Search("x").takes(&Method::POST)
                && !Route::Search("x").takes(&Method::GET)
                && Route::Page.takes(&Method::HEAD)
        );
        assert!(
            Route::Mcp.takes(&Method::DELETE)
                && !Route::Mcp.takes(&Method::GET)
                && !Route::Score.takes(&Method::DELETE)
        );
        assert_eq!(
            (dialect("/api/nothing"), dialect("/v1/nothing"), dialect("/v1/status")),
            (Dialect::Ollama, Dialect::OpenAi, Dialect::Own)
        );
        assert!(["/", "/page/x", "/page/matrix", "/x", "/v1/x"].iter().all(|p| is_of_page(p)));
        assert!(!["/v1/status", "/api/tags", "/embed"].iter().any(|path| is_of_page(path)));
    }
}
