//! Errors of downloading from the hub.

use crate::size::{agreed, counted};
use std::io;
use std::path::PathBuf;

use super::Explain;

/// The hub did not give what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The network is needed and may not be used.
    #[error("`{repo_id}` cannot be fetched: the network may not be used")]
    Offline {
        /// The repository.
        repo_id: String,
    },
    /// `HF_ENDPOINT` is no address.
    #[error("the hub's address is not usable")]
    BadEndpoint {
        /// As given.
        text: String,
    },
    /// The token is none that a request can carry.
    #[error("the hub's token in {place} is not usable")]
    BadToken {
        /// The variable or the file.
        place: String,
    },
    /// The proxy that the environment names cannot be used.
    #[error("the proxy in {name} is not usable")]
    BadProxy {
        /// The variable.
        name: String,
        /// Which rule it breaks. The value is not repeated: it may hold a password.
        why: &'static str,
    },
    /// The hub wants a token, or another one, or knows none by this name.
    #[error("the hub {} `{repo_id}`, or has no such repository", if *token { "does not accept the token for" } else { "wants a token for" })]
    Unauthorized {
        /// The repository.
        repo_id: String,
        /// A token was sent.
        token: bool,
    },
    /// The repository's terms were not accepted, or the token may not read it.
    #[error("the hub denies access to `{repo_id}`")]
    Forbidden {
        /// The repository.
        repo_id: String,
        /// Its owner wants terms accepted first.
        gated: bool,
    },
    /// No such repository.
    #[error("the hub does not have `{repo_id}` at revision `{revision}`")]
    NotFound {
        /// The repository.
        repo_id: String,
        /// The revision asked for.
        revision: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("`{repo_id}` has no revision `{revision}`")]
    NoRevision {
        /// The repository.
        repo_id: String,
        /// The revision asked for.
        revision: String,
    },
    /// A file that the listing names is not there.
    #[error("the hub lists `{file}` in `{repo_id}` and does not have it")]
    NoFile {
        /// The repository.
        repo_id: String,
        /// The revision asked for.
        revision: String,
        /// The file, in its repository.
        file: String,
    },
    /// An answer that is not expected, or attempts that all failed.
    #[error("the hub did not answer as it should")]
    Answer {
        /// The address, without its query.
        url: String,
        /// What came.
        why: String,
    },
    /// The server's certificate is not of an authority that is known.
    #[error("the hub's certificate is not trusted")]
    Certificate {
        /// The address, without its query.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A redirect that is not followed.
    #[error("the hub redirects to an address that is not followed")]
    Redirect {
        /// The address that redirects, without its query.
        url: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// The listing of a repository breaks a rule.
    #[error("the hub's listing of `{repo_id}` is not usable")]
    BadListing {
        /// The repository.
        repo_id: String,
        /// Which rule it breaks.
        why: String,
    },
    /// Nothing in the repository is wanted.
    #[error("`{repo_id}` holds no file that is wanted")]
    NothingWanted {
        /// The repository.
        repo_id: String,
    },
    /// The weights cannot be planned before they are whole.
    #[error("the weights of `{repo_id}` cannot be converted as they arrive")]
    NotStreamable {
        /// The repository.
        repo_id: String,
    },
    /// Bytes that are not those of the listing, twice.
    #[error("what was received is not the file that the hub lists")]
    WrongBytes {
        /// The file, in its repository.
        file: String,
        /// Digest in the listing.
        listed: String,
        /// Digest of what came.
        received: String,
    },
    /// A file of another length than the listing says, twice.
    #[error("the hub does not send `{file}` as long as its listing says")]
    WrongLength {
        /// The file, in its repository.
        file: String,
        /// Bytes, by the listing.
        listed: u64,
        /// Bytes, by the answer.
        found: Option<u64>,
    },
    /// Another program removes what is fetched.
    #[error("files of `{repo_id}` were removed from the cache while they were fetched")]
    Removed {
        /// The repository.
        repo_id: String,
    },
    /// A link where the cache has a folder or a file of its own.
    #[error("the cache has a link where mgpack would write")]
    LinkInCache {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// The disk has no room.
    #[error("not enough free space for the download")]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes that are still to be fetched.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The file system refused.
    #[error("{doing} failed")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The user asked to stop.
    #[error("interrupted; what was fetched is kept, and the same command goes on from there")]
    Interrupted,
}

impl Explain for HubError {
    fn place(&self) -> Option<String> {
        match self {
            HubError::BadEndpoint { text } => Some(format!("HF_ENDPOINT={text}")),
            HubError::Answer { url, .. }
            | HubError::Certificate { url, .. }
            | HubError::Redirect { url, .. } => Some(url.clone()),
            HubError::WrongBytes { file, .. } => Some(file.clone()),
            HubError::NoSpace { path, .. }
            | HubError::Io { path, .. }
            | HubError::LinkInCache { path, .. } => {
                Some(path.display().to_string()).filter(|path| !path.is_empty())
            }
            _ => None,
        }
    }

    fn why(&self) -> Option<String> {
        match self {
            HubError::Answer { why, .. }
            | HubError::Certificate { why, .. }
            | HubError::BadListing { why, .. } => Some(why.clone()),
            HubError::Redirect { why, .. } | HubError::BadProxy { why, .. } => Some((*why).to_owned()),
            HubError::NoFile { revision, .. } => {
                Some(format!("it answers with 404 at revision `{revision}`"))
            }
            HubError::WrongBytes { listed, received, .. } => {
                Some(format!("the listing says {listed}, the bytes are {received}"))
            }
            HubError::WrongLength { listed, found, .. } => {
                let found = found.map_or("another number".to_owned(), |found| found.to_string());
                Some(format!("the listing says {}, the answer {found}", counted(listed, "byte")))
            }
            HubError::BadToken { .. } => {
                Some("it has letters that are not ASCII, or control characters".into())
            }
            HubError::LinkInCache { target, .. } => {
                Some(format!("what is written there would land in {}", target.display()))
            }
            HubError::NoSpace { needed, free, .. } => Some(format!(
                "{}, {free} free: {} too few",
                agreed(needed, "byte is still to be fetched", "bytes are still to be fetched"),
                needed.saturating_sub(*free)
            )),
            HubError::NotStreamable { .. } => {
                Some("they are no safetensors files, and others tell nothing before they are whole".into())
            }
            HubError::Io { cause, .. } => Some(cause.to_string()),
            _ => None,
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            HubError::BadEndpoint { .. } => {
                "give https://HOST, or http://HOST for a server of your own".into()
            }
            HubError::BadProxy { .. } => {
                "give http://HOST:PORT, or name the hub's host in NO_PROXY to ask it directly".into()
            }
            HubError::Unauthorized { token: true, .. } => {
                "check the name; make a new token on the hub's settings page and set HF_TOKEN to it".into()
            }
            HubError::Unauthorized { token: false, .. } => {
                "check the name; for a private repository run `hf auth login`, or set HF_TOKEN".into()
            }
            HubError::Forbidden { repo_id, gated: true } => {
                format!(
                    "accept the terms on the page of {repo_id}, then use a token of that account (HF_TOKEN)"
                )
            }
            HubError::Forbidden { gated: false, .. } => "use a token that may read it (HF_TOKEN)".into(),
            HubError::NotFound { .. } => {
                "check the name and ‹revision›; a private repository needs a token that may read it (HF_TOKEN)"
                    .into()
            }
            HubError::NoRevision { .. } => {
                "give a branch, a tag or a whole commit with ‹revision›, or leave it out for `main`".into()
            }
            HubError::BadToken { .. } => {
                "copy it again from the hub's settings page, or unset it to ask without a token".into()
            }
            HubError::LinkInCache { .. } => {
                "remove the link; to keep the cache on another disk set HF_HUB_CACHE, or link the whole folder".into()
            }
            HubError::Removed { .. } => {
                "wait for the conversion with ‹discard_source› that runs, then repeat the command".into()
            }
            HubError::NoFile { .. } | HubError::WrongLength { .. } => {
                "try again later; if it stays so, tell the repository's owner, or leave it out with ‹exclude›"
                    .into()
            }
            HubError::Certificate { .. } => {
                "set SSL_CERT_FILE to the certificates of your proxy or mirror, in PEM form".into()
            }
            HubError::Answer { .. } => "the same command goes on from where this one ended; without a network, ‹offline=true› uses only what \
                 is in the cache, and HF_ENDPOINT names a mirror to fetch from"
                .into(),
            HubError::NoSpace { .. } => {
                "free some space, or set HF_HUB_CACHE to a folder on another disk".into()
            }
            HubError::Offline { .. } => "leave out ‹offline› and unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE, which allow only what is in the \
                 cache; HF_ENDPOINT names a mirror to fetch from, HF_HUB_CACHE another cache"
                .into(),
            HubError::NotStreamable { .. } => "convert it without ‹stream=true›".into(),
            HubError::WrongBytes { .. } => {
                "a proxy or mirror may alter files: try without it, or with another HF_ENDPOINT".into()
            }
            _ => return None,
        })
    }
}
