//! Requests to the hub: redirects, the token, and which answers are worth another attempt.
//!
//! Redirects are followed here, not by the HTTP crate, so that one rule holds in one place: the token goes to
//! the endpoint's own origin and nowhere else, and https never becomes http. Every address is asked through the
//! proxy that `proxy` chooses for it. Addresses are shown without what may be secret in them ([`bare`]).
//!
//! A name that is looked up and a host that does not answer cannot be interrupted, so every request is sent by a
//! thread of its own, which is left alone when nobody waits for it any more.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use ureq::config::Config;
use ureq::http::{Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::patience::{self, Halt, TICK};
use super::proxy::Proxies;
use crate::error::{Error, HubError, IoError, Result};

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 8;

/// Longest body of a redirect that is read so that its connection can be used again.
const MAX_REDIRECT_LEN: u64 = 64 << 10;

/// Connections kept for the next requests to a host.
const IDLE: usize = 16;

/// Longest file of certificates. Those of the systems have about 250 KiB.
const MAX_CERTIFICATES_LEN: u64 = 16 << 20;

/// Why one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt may succeed, after this wait if the server named one.
    Again { url: String, why: String, wait: Option<Duration> },
    /// None will.
    Final(Error),
}

impl Failure {
    /// One that another attempt may mend. The address is shown bare.
    pub(super) fn again(url: &str, why: String) -> Self {
        Failure::Again { url: bare(url), why, wait: None }
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Final(error.into())
    }
}

/// What errors of a request name.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) repo_id: &'a str,
    pub(super) revision: &'a str,
    /// The file that is asked for; `None` for the listing.
    pub(super) file: Option<&'a str>,
}

/// The part of a file that is asked for: from a byte on, and up to a byte that does not belong to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) first: u64,
    /// `None`: to the file's end.
    pub(super) end: Option<u64>,
}

/// Sends requests.
pub(super) struct Client {
    config: Config,
    agent: RwLock<Agent>,
    endpoint: Uri,
    token: Option<String>,
    proxies: Proxies,
    patience: Duration,
    /// Set by the first answer, whatever it says.
    is_reached: AtomicBool,
}

impl Client {
    /// `endpoint`: `https://HOST[/PATH]`, or http. `stall`: longest silence of a server. `var`: the environment,
    /// for proxies and certificates.
    pub(super) fn new(
        endpoint: &str,
        token: Option<String>,
        stall: Duration,
        var: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let uri = endpoint.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some()
                && uri.query().is_none()
        });
        let Some(endpoint) = uri else {
            return Err(HubError::BadEndpoint { text: without_secrets(endpoint) }.into());
        };
        let config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(stall))
            .timeout_recv_response(Some(stall))
            .timeout_per_read(Some(stall))
            .max_idle_connections(2 * IDLE)
            .max_idle_connections_per_host(IDLE)
            .user_agent(concat!("mgpack/", env!("CARGO_PKG_VERSION")))
            // Without this, ureq would choose one for all addresses.
            .proxy(None)
            .tls_config(TlsConfig::builder().root_certs(roots(&var)?).build())
            .build();
        let agent = RwLock::new(config.new_agent());
        let (proxies, patience) = (Proxies::from_env(var), patience::limit(stall));
        let is_reached = AtomicBool::new(false);
        Ok(Self { config, agent, endpoint, token, proxies, patience, is_reached })
    }

    /// How long a transfer goes on while no bytes arrive; little where no server was ever reached, for then there
    /// is no network, or a name is wrong.
    pub(super) fn patience(&self) -> Duration {
        if self.is_reached.load(Ordering::Relaxed) {
            self.patience
        } else {
            self.patience.min(patience::UNREACHED)
        }
    }

    /// Ends all requests at once: nobody waits for a silent server. Later ones have connections of their own.
    pub(super) fn end_requests(&self) {
        let mut agent = self.agent.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *agent, self.config.new_agent()).shutdown();
    }

    /// One GET of `url`, or of a range of it, redirects followed. A server that knows no ranges sends all.
    pub(super) fn get(
        &self,
        url: &str,
        range: Option<Range>,
        subject: Subject<'_>,
        halt: Halt<'_>,
    ) -> Result<Response<Body>, Failure> {
        let range = range.map(|Range { first, end }| match end {
            Some(end) => format!("bytes={first}-{}", end.saturating_sub(1)),
            None => format!("bytes={first}-"),
        });
        let mut at: Uri = url.parse().map_err(|_| HubError::BadEndpoint { text: without_secrets(url) })?;
        for _ in 0..=MAX_REDIRECTS {
            let token = self.token.as_ref().filter(|_| same_origin(&at, &self.endpoint));
            let shown = bare(&at.to_string());
            let answer = self.ask(&at, range.as_deref(), token.map(String::as_str), halt)?;
            if !answer.status().is_redirection() {
                return judge(answer, shown, subject, token.is_some());
            }
            let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
            at = redirect(&at, location).map_err(|why| HubError::Redirect { url: shown, why })?;
            // Best effort: read to its end, the connection serves the next request.
            let _ = read_at_most(answer, MAX_REDIRECT_LEN);
        }
        Err(HubError::Redirect { url: bare(url), why: "too many redirects in a row" }.into())
    }

    /// One request, without what it leads to.
    fn ask(
        &self,
        at: &Uri,
        range: Option<&str>,
        token: Option<&str>,
        halt: Halt<'_>,
    ) -> Result<Response<Body>, Failure> {
        let proxy = self.proxies.of(at)?.cloned();
        let agent = self.agent.read().unwrap_or_else(PoisonError::into_inner).clone();
        if halt.is_asked() {
            return Err(Error::Interrupted { kept: true }.into());
        }
        let request = agent.get(at).config().proxy(proxy).build();
        let mut request = request.header("accept-encoding", "identity");
        if let Some(range) = range {
            request = request.header("range", range);
        }
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let shown = bare(&at.to_string());
        let (give, take) = mpsc::sync_channel(1);
        let send = move || {
            // Nobody waits any more where the other end is gone.
            let _ = give.send(request.call());
        };
        let spawned = std::thread::Builder::new().name("request".into()).spawn(send);
        spawned.map_err(|cause| IoError::new("starting a thread", "", cause))?;
        loop {
            match take.recv_timeout(TICK) {
                Ok(answer) => {
                    self.is_reached.fetch_or(answer.is_ok(), Ordering::Relaxed);
                    return answer.map_err(|error| transport(&shown, &error));
                }
                Err(RecvTimeoutError::Timeout) if halt.is_asked() => {
                    return Err(Error::Interrupted { kept: true }.into());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::again(&shown, "the request was not carried out".to_owned()));
                }
            }
        }
    }
}

/// The certificates that servers are checked with: those of `SSL_CERT_FILE`, else `REQUESTS_CA_BUNDLE`, else
/// Mozilla's. Source: what huggingface_hub's HTTP clients read, today's and the one before.
fn roots(var: &impl Fn(&str) -> Option<OsString>) -> Result<RootCerts> {
    let path = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let Some(path) = path("SSL_CERT_FILE").or_else(|| path("REQUESTS_CA_BUNDLE")) else {
        return Ok(RootCerts::WebPki);
    };
    let failed = |cause| IoError::new("reading certificates", &path, cause);
    let mut text = Vec::new();
    let file = fs::File::open(&path).map_err(failed)?;
    file.take(MAX_CERTIFICATES_LEN).read_to_end(&mut text).map_err(failed)?;
    let certificates: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(failed(std::io::Error::other("it holds no certificate in PEM form")).into());
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// Sorts an answer that is no redirect. 416 passes: the caller knows what it asked for. `token`: one was sent.
fn judge(
    answer: Response<Body>,
    url: String,
    subject: Subject<'_>,
    token: bool,
) -> Result<Response<Body>, Failure> {
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let (repo_id, revision) = (subject.repo_id.to_owned(), subject.revision.to_owned());
    let code = header("x-error-code");
    let gated = code == Some("GatedRepo");
    let status = answer.status().as_u16();
    match status {
        200 | 206 | 416 => Ok(answer),
        401 | 403 if gated => Err(HubError::Forbidden { repo_id, gated }.into()),
        401 => Err(HubError::Unauthorized { repo_id, token }.into()),
        403 => Err(HubError::Forbidden { repo_id, gated }.into()),
        404 => Err(match subject.file {
            Some(file) => HubError::NoFile { repo_id, revision, file: file.to_owned() },
            None if code == Some("RevisionNotFound") => HubError::NoRevision { repo_id, revision },
            None => HubError::NotFound { repo_id, revision },
        }
        .into()),
        408 | 429 | 500..=599 => {
            let wait = patience::asked(answer.headers(), SystemTime::now());
            Err(Failure::Again { url, why: format!("HTTP status {status}"), wait })
        }
        _ => Err(HubError::Answer { url, why: format!("HTTP status {status}") }.into()),
    }
}

/// A failure below HTTP. Only what the network does is worth another attempt.
fn transport(url: &str, error: &ureq::Error) -> Failure {
    let (url, why) = (url.to_owned(), error.to_string());
    match error {
        // rustls puts its verdict into an error of io.
        ureq::Error::Io(cause) if cause.to_string().starts_with("invalid peer certificate") => {
            HubError::Certificate { url, why: cause.to_string() }.into()
        }
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Protocol(_) => Failure::Again { url, why, wait: None },
        _ => HubError::Answer { url, why }.into(),
    }
}

/// Where a redirect leads.
fn redirect(from: &Uri, location: Option<&str>) -> Result<Uri, &'static str> {
    let location = location.ok_or("it names no address")?;
    let absolute = match (location.strip_prefix('/'), from.scheme_str(), from.authority()) {
        (Some(rest), ..) if rest.starts_with('/') => return Err("it names no scheme"),
        (Some(_), Some(scheme), Some(authority)) => format!("{scheme}://{authority}{location}"),
        _ => location.to_owned(),
    };
    let to: Uri = absolute.parse().map_err(|_| "it is no address")?;
    match (from.scheme_str(), to.scheme_str()) {
        (Some("https"), Some("https")) | (Some("http"), Some("http" | "https")) => Ok(to),
        (Some("https"), Some("http")) => Err("it leads from https to http"),
        _ => Err("it is neither https nor http"),
    }
}

/// Scheme, host and port are the same.
fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme_str() == b.scheme_str() && host(a) == host(b) && port(a) == port(b)
}

/// An address without its query, which may hold a signature, and without the name and password before its host.
pub(super) fn bare(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// What is no address, without all before its last `@`: a password may hold any letter.
fn without_secrets(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{}", bare(rest)),
        None => bare(text),
    }
}

/// The begin of an answer's body, at most `len` bytes.
///
/// # Errors
/// What the connection says, in words.
pub(super) fn read_at_most(answer: Response<Body>, len: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let body = answer.into_body().into_with_config().limit(u64::MAX).reader();
    body.take(len).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap_or_default()
    }

    #[test]
    fn a_redirect_never_leads_from_https_to_http() {
        let from = uri("https://hub.test/a/b");
        assert_eq!(redirect(&from, Some("https://cdn.test/x?s=1")).ok(), Some(uri("https://cdn.test/x?s=1")));
        assert_eq!(redirect(&from, Some("/c/d")).ok(), Some(uri("https://hub.test/c/d")));
        for bad in ["http://hub.test/x", "//evil.test/x", "file:///etc/passwd", "", "x y"] {
            assert!(redirect(&from, Some(bad)).is_err(), "{bad:?}");
        }
        assert!(redirect(&from, None).is_err());
    }

    #[test]
    fn the_token_is_for_one_scheme_host_and_port() {
        let hub = uri("https://hub.test");
        assert!(same_origin(&uri("https://HUB.test:443/a"), &hub));
        for other in ["http://hub.test/a", "https://hub.test:8443/a", "https://cdn.hub.test/a"] {
            assert!(!same_origin(&uri(other), &hub), "{other}");
        }
    }

    #[test]
    fn addresses_are_shown_without_names_passwords_and_signatures() {
        for (url, shown) in [
            ("https://me:secret@hub.test:8443/a@b?sig=secret", "https://hub.test:8443/a@b"),
            ("https://hub.test#secret", "https://hub.test"),
            ("http://a@b:secret@hub.test", "http://hub.test"),
            ("https://hub.test/a", "https://hub.test/a"),
        ] {
            assert_eq!(bare(url), shown);
        }
        for bad in ["htp:/me:secret@hub.test", "me:se/cr?et@hub.test", "https://me:secret#@@hub.test"] {
            assert_eq!(without_secrets(bad), "…@hub.test", "{bad}");
        }
    }
}
