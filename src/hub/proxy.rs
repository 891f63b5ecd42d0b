//! Which proxy a request goes through. Pure.
//!
//! `HTTPS_PROXY` for https, `HTTP_PROXY` for http, else `ALL_PROXY`; `NO_PROXY` names what goes there directly.
//! A name in small letters comes before the same in capitals, also where it is empty. Source: getproxies of
//! Python's urllib and the rules of httpx, by which huggingface_hub chooses. The HTTP crate asks a proxy for a
//! tunnel (CONNECT) to http addresses as well; a proxy that gives tunnels to port 443 alone serves https only.

use std::ffi::OsString;
use std::net::IpAddr;

use ureq::Proxy;
use ureq::http::Uri;

use crate::error::{HubError, Result};

/// The proxies of the environment.
pub(super) struct Proxies {
    http: Option<Setting>,
    https: Option<Setting>,
    exempt: Vec<Exempt>,
}

/// One variable. A value that is no use is an error only once it is needed.
struct Setting {
    name: String,
    proxy: Result<Proxy, &'static str>,
}

/// One entry of `NO_PROXY`.
#[derive(Debug, PartialEq, Eq)]
struct Exempt {
    host: String,
    port: Option<u16>,
    hosts: Hosts,
}

/// Which hosts an entry means.
#[derive(Debug, PartialEq, Eq)]
enum Hosts {
    /// `*`
    All,
    /// An address, or `localhost`.
    Only,
    /// A name: it and all below it.
    Domain,
    /// `.name`: all below it.
    Below,
}

impl Proxies {
    pub(super) fn from_env(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let given = |name: &str| -> Option<(String, String)> {
            let name = if var(name).is_some() { name.to_owned() } else { name.to_ascii_uppercase() };
            let value = var(&name)?.into_string().ok()?.trim().to_owned();
            (!value.is_empty()).then_some((name, value))
        };
        let setting = |name: &str| {
            let (name, value) = given(name).or_else(|| given("all_proxy"))?;
            Some(Setting { name, proxy: parse(&value) })
        };
        let exempt = given("no_proxy").map(|(_, list)| list).unwrap_or_default();
        Self {
            http: setting("http_proxy"),
            https: setting("https_proxy"),
            exempt: exempt.split(',').filter_map(Exempt::parse).collect(),
        }
    }

    /// The proxy for `uri`, or `None` where it is asked directly.
    ///
    /// # Errors
    /// [`HubError::BadProxy`] where there should be one and its value is no use.
    pub(super) fn of(&self, uri: &Uri) -> Result<Option<&Proxy>> {
        let (setting, port) = match uri.scheme_str() {
            Some("https") => (&self.https, 443),
            _ => (&self.http, 80),
        };
        let Some(setting) = setting else { return Ok(None) };
        let host = bare(uri.host().unwrap_or_default());
        let port = uri.port_u16().unwrap_or(port);
        if self.exempt.iter().any(|entry| entry.fits(&host, port)) {
            return Ok(None);
        }
        match &setting.proxy {
            Ok(proxy) => Ok(Some(proxy)),
            Err(why) => Err(HubError::BadProxy { name: setting.name.clone(), why }.into()),
        }
    }
}

/// `value` is not repeated in errors: it may hold a password.
fn parse(value: &str) -> Result<Proxy, &'static str> {
    match value.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
        None | Some("http" | "https") => Proxy::new(value).map_err(|_| "its value is no address"),
        Some(scheme) if scheme.starts_with("socks") => Err("SOCKS proxies are not supported"),
        Some(_) => Err("its address begins with neither http:// nor https://"),
    }
}

/// A host in small letters, an IPv6 address without its brackets.
fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

impl Exempt {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim();
        let entry = entry.split_once("://").map_or(entry, |(_, rest)| rest);
        let address = |text: &str| bare(text).parse::<IpAddr>().is_ok();
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !address(entry) => (host, Some(port.parse().ok()?)),
            _ => (entry, None),
        };
        let (host, hosts) = match host.strip_prefix("*").unwrap_or(host) {
            "" if host == "*" => ("", Hosts::All),
            "" => return None,
            _ if address(host) || host.eq_ignore_ascii_case("localhost") => (host, Hosts::Only),
            rest => rest.strip_prefix('.').map_or((rest, Hosts::Domain), |name| (name, Hosts::Below)),
        };
        Some(Self { host: bare(host), port, hosts })
    }

    fn fits(&self, host: &str, port: u16) -> bool {
        let below = || host.strip_suffix(&self.host).is_some_and(|rest| rest.ends_with('.'));
        self.port.is_none_or(|own| own == port)
            && match self.hosts {
                Hosts::All => true,
                Hosts::Only => host == self.host,
                Hosts::Domain => host == self.host || below(),
                Hosts::Below => below(),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The port of the proxy for `url`, given variables as `NAME=VALUE`.
    fn chosen(variables: &[&str], url: &str) -> Option<u16> {
        let var = |name: &str| {
            let found = variables.iter().find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
            found.map(OsString::from)
        };
        let proxies = Proxies::from_env(var);
        proxies.of(&url.parse().unwrap()).unwrap().map(Proxy::port)
    }

    #[test]
    fn each_scheme_has_its_own_proxy_and_small_letters_come_first() {
        let all = ["HTTP_PROXY=http://a:1", "HTTPS_PROXY=b:2", "ALL_PROXY=http://c:3"];
        assert_eq!(chosen(&all, "http://hub.test/x"), Some(1));
        assert_eq!(chosen(&all, "https://hub.test/x"), Some(2));
        assert_eq!(chosen(&all[2..], "https://hub.test/x"), Some(3));
        assert_eq!(chosen(&all[..1], "https://hub.test/x"), None);
        assert_eq!(chosen(&["HTTP_PROXY=http://a:1", "http_proxy=http://d:4"], "http://hub.test"), Some(4));
        assert_eq!(chosen(&["HTTP_PROXY=http://a:1", "http_proxy="], "http://hub.test"), None);
    }

    #[test]
    fn no_proxy_names_hosts_domains_and_ports() {
        let cases = [
            ("hub.test", "hub.test cdn.hub.test HUB.test:8080", "myhub.test test"),
            (".hub.test", "cdn.hub.test", "hub.test"),
            ("*.hub.test", "cdn.hub.test", "hub.test"),
            ("other, hub.test:8080 ,", "hub.test:8080", "hub.test hub.test:81"),
            ("127.0.0.1,[::1]", "127.0.0.1:5 [::1] [::1]:5", "127.0.0.2 [::2]"),
            ("::1", "[::1]", "[::2]"),
            ("localhost", "localhost LOCALHOST:5", "a.localhost"),
            ("*", "a b:5 1.2.3.4", ""),
        ];
        for (list, direct, proxied) in cases {
            let variables = ["http_proxy=http://p:1", &format!("NO_PROXY={list}")];
            for host in direct.split_whitespace() {
                assert_eq!(chosen(&variables, &format!("http://{host}/x")), None, "{list}: {host}");
            }
            for host in proxied.split_whitespace() {
                assert_eq!(chosen(&variables, &format!("http://{host}/x")), Some(1), "{list}: {host}");
            }
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_told_without_its_value() {
        for value in ["socks5://me:secret@p:1", "ftp://me:secret@p", "http://"] {
            let proxies = Proxies::from_env(|name| (name == "ALL_PROXY").then(|| value.into()));
            let error = proxies.of(&"https://hub.test".parse().unwrap()).err().unwrap();
            assert!(
                matches!(&error, crate::Error::Hub(HubError::BadProxy { name, .. }) if name == "ALL_PROXY"),
                "{error:?}"
            );
            assert!(!format!("{error:?}").contains("secret"));
        }
    }
}
