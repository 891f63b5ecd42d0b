//! Errors of downloading from the hub.

use std::path::PathBuf;

use super::explain::{at, what};
use super::{Explain, Explanation};
use crate::size::{agreed, counted};

/// The hub did not send what was asked for. Addresses are without their query, which may hold a signature.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.explain().what)]
#[non_exhaustive]
pub enum HubError {
    /// A download is needed where none is allowed.
    Offline { repo_id: String },
    /// `text`: `HF_ENDPOINT`, without a password.
    BadEndpoint { text: String },
    /// `place`: the variable or the file that has the token.
    BadToken { place: String },
    /// `name`: the variable. Its value is not repeated: it may hold a password.
    BadProxy { name: String, why: &'static str },
    /// `token`: one was sent.
    Unauthorized { repo_id: String, token: bool },
    /// `gated`: its owner wants terms accepted first.
    Forbidden { repo_id: String, gated: bool },
    /// No such repository.
    NotFound { repo_id: String, revision: String },
    /// The repository has no such branch, tag or commit.
    NoRevision { repo_id: String, revision: String },
    /// A file of the listing is not there.
    NoFile { repo_id: String, revision: String, file: String },
    /// An unexpected answer, or attempts that all failed.
    Answer { url: String, why: String },
    /// The server's certificate is of no known authority.
    Certificate { url: String, why: String },
    /// A redirect that is not followed, from `url`.
    Redirect { url: String, why: &'static str },
    /// The listing of a repository breaks a rule.
    BadListing { repo_id: String, why: String },
    /// Nothing in the repository is to be downloaded.
    NothingWanted { repo_id: String },
    /// The weights cannot be planned before all of them are there.
    NotStreamable { repo_id: String },
    /// Twice the bytes had another digest than the listing has.
    WrongBytes { file: String, listed: String, received: String },
    /// Twice the file had another length than the listing has, in bytes.
    WrongLength { file: String, listed: u64, found: Option<u64> },
    /// Another program removes what is downloaded.
    Removed { repo_id: String },
    /// A link where the cache has a folder or a file of its own.
    LinkInCache { path: PathBuf, target: PathBuf },
    /// Bytes that are still to be downloaded, and those that are free.
    NoSpace { path: PathBuf, needed: u64, free: u64 },
}

/// The address does not lead to a whole file.
const TRY_LATER: &str = "try again later; if the error stays, report it to the owner of the repository, or leave the file out with \
                         ‹exclude›";

impl Explain for HubError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Offline { repo_id } => {
                what(format!("`{repo_id}` cannot be downloaded: network access is off")).help(
                    "leave out ‹offline› and unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE, which allow only what is in \
                     the cache; HF_ENDPOINT names a mirror to download from, HF_HUB_CACHE another cache",
                )
            }
            Self::BadEndpoint { text } => what("the hub's address is not usable")
                .place(format!("HF_ENDPOINT={text}"))
                .help("give https://HOST, or http://HOST for a server of your own"),
            Self::BadToken { place } => what(format!("the hub's token in {place} is not usable"))
                .why("it has letters that are not ASCII, or control characters")
                .help("copy it again from the hub's settings page, or unset it to ask without a token"),
            Self::BadProxy { name, why } => what(format!("the proxy in {name} is not usable"))
                .why(why)
                .help("give http://HOST:PORT, or list the hub's host in NO_PROXY to ask it directly"),
            Self::Unauthorized { repo_id, token: true } => {
                what(format!("the hub does not accept the token for `{repo_id}`, or has no such repository"))
                    .help("check the name; make a new token on the hub's settings page and set HF_TOKEN to it")
            }
            Self::Unauthorized { repo_id, token: false } => {
                what(format!("the hub wants a token for `{repo_id}`, or has no such repository"))
                    .help("check the name; for a private repository run `hf auth login`, or set HF_TOKEN")
            }
            Self::Forbidden { repo_id, gated } => {
                what(format!("the hub denies access to `{repo_id}`")).help(if *gated {
                    format!("accept the terms on the page of {repo_id}, then use a token of that account (HF_TOKEN)")
                } else {
                    "use a token that may read it (HF_TOKEN)".to_owned()
                })
            }
            Self::NotFound { repo_id, revision } => {
                what(format!("the hub does not have `{repo_id}` at revision `{revision}`")).help(
                    "check the name and ‹revision›; a private repository needs a token that may read it (HF_TOKEN)",
                )
            }
            Self::NoRevision { repo_id, revision } => what(format!("`{repo_id}` has no revision `{revision}`"))
                .help("give a branch, a tag or a whole commit with ‹revision›, or leave it out for `main`"),
            Self::NoFile { repo_id, revision, file } => {
                what(format!("the hub lists `{file}` in `{repo_id}` and does not have it"))
                    .why(format!("it answers with 404 at revision `{revision}`"))
                    .help(TRY_LATER)
            }
            Self::Answer { url, why } => {
                what("the hub did not answer as it should").place(url).why(why).help(
                    "the same command goes on from where this one ended; without a network, ‹offline=true› uses only \
                     what is in the cache, and HF_ENDPOINT names a mirror to download from",
                )
            }
            Self::Certificate { url, why } => what("the hub's certificate is not trusted")
                .place(url)
                .why(why)
                .help("set SSL_CERT_FILE to the certificates of your proxy or mirror, in PEM form"),
            Self::Redirect { url, why } => {
                what("the hub redirects to an address that is not followed").place(url).why(why)
            }
            Self::BadListing { repo_id, why } => {
                what(format!("the hub's listing of `{repo_id}` is not usable")).why(why)
            }
            Self::NothingWanted { repo_id } => what(format!("`{repo_id}` has no file to download")),
            Self::NotStreamable { repo_id } => {
                what(format!("the weights of `{repo_id}` cannot be converted as they arrive"))
                    .why("they are not safetensors, and other files can be read only when they are complete")
                    .help("convert it without ‹stream=true›")
            }
            Self::WrongBytes { file, listed, received } => {
                what("what was received is not the file that the hub lists")
                    .place(file)
                    .why(format!("the listing says {listed}, the bytes are {received}"))
                    .help("a proxy or mirror may alter files: try without it, or with another HF_ENDPOINT")
            }
            Self::WrongLength { file, listed, found } => {
                let found = found.map_or("another number".to_owned(), |found| found.to_string());
                what(format!("the hub does not send `{file}` as long as its listing says"))
                    .why(format!("the listing says {}, the answer {found}", counted(listed, "byte")))
                    .help(TRY_LATER)
            }
            Self::Removed { repo_id } => {
                what(format!("files of `{repo_id}` were removed from the cache during the download")).help(
                    "wait for the conversion with ‹discard_source› that runs, then repeat the command",
                )
            }
            Self::LinkInCache { path, target } => at(path, "the cache has a link where mgpack would write")
                .why(format!("what is written there would land in {}", target.display()))
                .help(
                    "remove the link; to keep the cache on another disk set HF_HUB_CACHE, or link the whole folder",
                ),
            Self::NoSpace { path, needed, free } => at(path, "not enough free space for the download")
                .why(format!(
                    "{}, {free} free: {} too few",
                    agreed(needed, "byte is still to be downloaded", "bytes are still to be downloaded"),
                    needed.saturating_sub(*free)
                ))
                .help("free some space, or set HF_HUB_CACHE to a folder on another disk"),
        }
    }
}
