//! Requests to the hub: redirects, the token, which answers are worth another attempt, and the waits.
//!
//! Redirects are followed here, not by the HTTP crate, so that one rule holds in one place: the token goes to
//! the endpoint's own origin and nowhere else, and https never becomes http. Every address is asked through the
//! proxy that `proxy` chooses for it.

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ureq::http::{Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::proxy::Proxies;
use crate::error::HubError;
use crate::progress::Stop;

/// Attempts in a row that bring nothing before a request is given up.
pub(super) const MAX_ATTEMPTS: u32 = 6;

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 8;

/// First wait between attempts; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// Longest wait of our own, and the longest that a server may ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Longest file of certificates. Those of the systems have about 250 KiB.
const MAX_CERTIFICATES_LEN: u64 = 16 << 20;

/// Why one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt may succeed, after this wait if the server named one.
    Again { url: String, why: String, wait: Option<Duration> },
    /// None will.
    Final(HubError),
}

impl Failure {
    /// One that another attempt may mend. The address is told without its query.
    pub(super) fn again(url: &str, why: String) -> Self {
        Failure::Again { url: bare(url).to_owned(), why, wait: None }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Failure::Final(error)
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

/// Sends requests.
pub(super) struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<String>,
    proxies: Proxies,
}

impl Client {
    /// `endpoint`: `https://HOST[/PATH]`, or http. `stall`: longest silence of a server. `var`: the environment,
    /// for proxies and certificates.
    pub(super) fn new(
        endpoint: &str,
        token: Option<String>,
        stall: Duration,
        var: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, HubError> {
        let uri = endpoint.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some()
                && uri.query().is_none()
        });
        let Some(endpoint) = uri else {
            return Err(HubError::BadEndpoint { text: endpoint.to_owned() });
        };
        let config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(stall))
            .timeout_recv_response(Some(stall))
            .timeout_per_read(Some(stall))
            .user_agent(concat!("mgpack/", env!("CARGO_PKG_VERSION")))
            // Without this, ureq would choose one for all addresses.
            .proxy(None)
            .tls_config(TlsConfig::builder().root_certs(roots(&var)?).build())
            .build();
        Ok(Self { agent: config.new_agent(), endpoint, token, proxies: Proxies::from_env(var) })
    }

    /// Ends all requests at once, and refuses new ones: nobody waits for a silent server.
    pub(super) fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    /// One GET of `url`, redirects followed. `from`: the first byte wanted, where it is not the file's first.
    pub(super) fn get(&self, url: &str, from: u64, subject: Subject<'_>) -> Result<Response<Body>, Failure> {
        self.send(url, (from > 0).then(|| format!("bytes={from}-")), subject)
    }

    /// The same for the first `len` bytes; a server that knows no ranges sends more.
    pub(super) fn get_first(
        &self,
        url: &str,
        len: u64,
        subject: Subject<'_>,
    ) -> Result<Response<Body>, Failure> {
        self.send(url, Some(format!("bytes=0-{}", len.saturating_sub(1))), subject)
    }

    fn send(
        &self,
        url: &str,
        range: Option<String>,
        subject: Subject<'_>,
    ) -> Result<Response<Body>, Failure> {
        let mut at: Uri = url.parse().map_err(|_| HubError::BadEndpoint { text: bare(url).to_owned() })?;
        for _ in 0..=MAX_REDIRECTS {
            let proxy = self.proxies.of(&at)?.cloned();
            let request = self.agent.get(&at).config().proxy(proxy).build();
            let mut request = request.header("accept-encoding", "identity");
            if let Some(range) = &range {
                request = request.header("range", range);
            }
            let token = self.token.as_ref().filter(|_| same_origin(&at, &self.endpoint));
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let shown = bare(&at.to_string()).to_owned();
            let answer = request.call().map_err(|error| transport(&shown, &error))?;
            if !answer.status().is_redirection() {
                return judge(answer, shown, subject, token.is_some());
            }
            let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
            at = redirect(&at, location).map_err(|why| HubError::Redirect { url: shown, why })?;
        }
        Err(HubError::Redirect { url: bare(url).to_owned(), why: "too many redirects in a row" }.into())
    }
}

/// The certificates that servers are checked with: those of `SSL_CERT_FILE`, else `REQUESTS_CA_BUNDLE`, else
/// Mozilla's. Source: what huggingface_hub's HTTP clients read, today's and the one before.
fn roots(var: &impl Fn(&str) -> Option<OsString>) -> Result<RootCerts, HubError> {
    let path = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let Some(path) = path("SSL_CERT_FILE").or_else(|| path("REQUESTS_CA_BUNDLE")) else {
        return Ok(RootCerts::WebPki);
    };
    let failed = |cause| HubError::Io { doing: "reading certificates", path: path.clone(), cause };
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
        return Err(failed(std::io::Error::other("it holds no certificate in PEM form")));
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
            let wait =
                header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
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
            Failure::Final(HubError::Certificate { url, why: cause.to_string() })
        }
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Protocol(_) => Failure::Again { url, why, wait: None },
        _ => Failure::Final(HubError::Answer { url, why }),
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

/// An address without its query, which may hold a signature.
fn bare(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
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

/// Tries until it succeeds, fails for good or has failed [`MAX_ATTEMPTS`] times, with waits between.
///
/// # Errors
/// The final failure, [`HubError::Answer`] after the last attempt, [`HubError::Interrupted`].
pub(super) fn retried<T>(
    stop: &Stop,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, HubError> {
    for number in 1..=MAX_ATTEMPTS {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Again { url, why, .. }) if number == MAX_ATTEMPTS => {
                return Err(HubError::Answer { url, why: format!("{why}, {number} times in a row") });
            }
            Err(Failure::Again { wait, .. }) => pause(number, wait, stop)?,
        }
    }
    Err(HubError::Interrupted)
}

/// Waits before attempt number `attempt` (from 1), unless asked to stop.
pub(super) fn pause(attempt: u32, asked: Option<Duration>, stop: &Stop) -> Result<(), HubError> {
    let doubled = FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(MAX_WAIT);
    // Between half and the whole, so that many clients do not come back together.
    let jitter = RandomState::new().build_hasher().finish() % 512;
    let own = doubled.mul_f64(0.5 + jitter as f64 / 1024.0);
    let until = Instant::now() + asked.map_or(own, |asked| asked.min(MAX_RETRY_AFTER).max(own));
    loop {
        if stop.requested() {
            return Err(HubError::Interrupted);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
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
}
