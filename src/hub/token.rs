//! The token that the hub is asked with: the first that huggingface_hub would find, or an error where it is unusable.
//!
//! Another token than the one that the user set is not taken in its place: it may be of another account.

use std::ffi::OsString;
use std::io::{self, Read as _};

use super::is_true;
use crate::checkpoint::hub::{hub_home, hub_path};
use crate::error::{HubError, IoError, Result};
use crate::regular;

/// Longest stored token.
const MAX_LEN: u64 = 4096;

/// `HF_TOKEN`, else its old name, else the stored token: `HF_TOKEN_PATH`, else `HF_HOME`/token.
pub(super) fn find(var: &impl Fn(&str) -> Option<OsString>) -> Result<Option<String>> {
    if is_true(var("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
        return Ok(None);
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        let text = var(name).map(|text| text.into_string().unwrap_or_else(|_| "\u{fffd}".to_owned()));
        if let Some(token) = clean(text.unwrap_or_default(), name)? {
            return Ok(Some(token));
        }
    }
    let Some(path) = hub_path(var, "HF_TOKEN_PATH").or_else(|| Some(hub_home(var)?.join("token"))) else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    match regular::open(&path).and_then(|file| file.take(MAX_LEN).read_to_end(&mut bytes)) {
        Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(cause) => Err(IoError::new("reading the stored token", path, cause).into()),
        Ok(_) => clean(String::from_utf8_lossy(&bytes).into_owned(), &path.display().to_string()),
    }
}

/// A token without white space; `None` where nothing is left.
fn clean(text: String, place: &str) -> Result<Option<String>> {
    let token: String = text.split_whitespace().collect();
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(HubError::BadToken { place: place.to_owned() }.into());
    }
    Ok((!token.is_empty()).then_some(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn find_in(pairs: &[(&str, &str)]) -> Result<Option<String>> {
        find(&|name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
    }

    #[test]
    fn a_token_that_no_header_can_hold_is_an_error_and_never_another_token() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().to_str().unwrap();
        std::fs::write(format!("{home}/token"), "hf_stored\n").unwrap();
        let stored = ("HF_HOME", home);
        assert_eq!(find_in(&[stored]).unwrap().as_deref(), Some("hf_stored"));
        assert_eq!(find_in(&[stored, ("HF_TOKEN", " hf_given\n")]).unwrap().as_deref(), Some("hf_given"));
        assert_eq!(find_in(&[stored, ("HF_TOKEN", " ")]).unwrap().as_deref(), Some("hf_stored"));
        let refused = find_in(&[stored, ("HF_TOKEN", "hf_gïven")]);
        assert!(
            matches!(&refused, Err(Error::Hub(HubError::BadToken { place })) if place == "HF_TOKEN"),
            "{refused:?}"
        );
        std::fs::write(format!("{home}/token"), b"hf_\xff").unwrap();
        let refused = find_in(&[stored]);
        assert!(
            matches!(&refused, Err(Error::Hub(HubError::BadToken { place })) if place.ends_with("/token")),
            "{refused:?}"
        );
    }
}
