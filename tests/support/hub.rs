//! A hub on this machine: listings, redirects of large files to another host, ranges, and faults on request.

// Every test needs another part of this.
#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::world::World;

pub(crate) const COMMIT: &str = "cccccccccccccccccccccccccccccccccccccccc";

/// From this length on a file is a large one: its digest is a sha256, and its bytes come from another host.
const LARGE_LEN: usize = 1000;

/// What goes wrong with one request for a file.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing: what goes wrong is another request.
    None,
    /// An answer without the file.
    Status(u16, &'static str),
    /// Half of what was asked for, then the end of the connection.
    Cut,
    /// As many bytes as asked for, but others.
    Wrong,
    /// The whole file, whatever range was asked for.
    NoRange,
    /// Half of the whole file, whatever range was asked for.
    CutNoRange,
}

/// One request for a file's bytes, or for a listing (`/api/...`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    /// The other host, which large files come from.
    pub(crate) elsewhere: bool,
}

#[derive(Default)]
struct State {
    /// Repository to its files.
    repos: Mutex<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
    faults: Mutex<BTreeMap<String, VecDeque<Fault>>>,
    sizes: Mutex<BTreeMap<String, u64>>,
    asked: Mutex<Vec<Asked>>,
    port: u16,
}

/// Repositories, served until the process ends.
pub(crate) struct Hub(Arc<State>);

impl Hub {
    pub(crate) fn new(repo: &str, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(State {
            repos: Mutex::new([(repo.to_owned(), files.into_iter().collect())].into()),
            port: listener.local_addr().unwrap().port(),
            ..State::default()
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client may go away at any time.
                std::thread::spawn(move || drop(state.serve(&stream)));
            }
        });
        Self(state)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.0.port)
    }

    /// Serves another repository as well.
    pub(crate) fn add(&self, repo: &str, files: impl IntoIterator<Item = (String, Vec<u8>)>) {
        self.0.repos.lock().unwrap().insert(repo.to_owned(), files.into_iter().collect());
    }

    /// What goes wrong with the next requests for a file, in this order. `listing` is a file too.
    pub(crate) fn fault(&self, path: &str, faults: &[Fault]) {
        self.0.faults.lock().unwrap().insert(path.to_owned(), faults.iter().cloned().collect());
    }

    /// The listing says another length than the true one.
    pub(crate) fn lists(&self, path: &str, size: u64) {
        self.0.sizes.lock().unwrap().insert(path.to_owned(), size);
    }

    /// All requests since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.0.asked.lock().unwrap())
    }

    /// The real command in this world, with this hub and a cache in `home/hf/hub`.
    pub(crate) fn command(&self, world: &World, args: &[&str]) -> Command {
        let mut command = world.command(args);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().to_ascii_lowercase().ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command
            .env("HF_HUB_OFFLINE", "0")
            .env("HF_ENDPOINT", self.url())
            .env("HF_HOME", world.path("hf"))
            .env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
        command
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest by which a content is listed.
pub(crate) fn digest(bytes: &[u8]) -> String {
    if bytes.len() >= LARGE_LEN {
        return hex(&Sha256::digest(bytes));
    }
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

impl State {
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        loop {
            let Some(first) = lines.next() else { return Ok(()) };
            let first = first?;
            let mut headers = BTreeMap::new();
            for line in lines.by_ref() {
                let line = line?;
                let Some((name, value)) = line.split_once(':') else { break };
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            let path = first.split(' ').nth(1).unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default().replace("%20", " ");
            if !self.answer(stream, &path, &headers)? {
                return Ok(());
            }
        }
    }

    /// False where the connection ends.
    fn answer(
        &self,
        stream: &TcpStream,
        path: &str,
        headers: &BTreeMap<String, String>,
    ) -> std::io::Result<bool> {
        let (place, elsewhere) = match path.strip_prefix("/cdn/") {
            Some(place) => (place, true),
            None => (path.trim_start_matches('/'), false),
        };
        let asked = |path: &str| {
            self.asked.lock().unwrap().push(Asked {
                path: path.to_owned(),
                range: headers.get("range").cloned(),
                authorization: headers.get("authorization").cloned(),
                elsewhere,
            });
        };
        if let Some(place) = place.strip_prefix("api/models/") {
            asked(path);
            if let Some(Fault::Status(status, header)) = self.fault("listing") {
                return send(stream, status, header, b"");
            }
            let (repo, revision) = place.split_once("/revision/").unwrap_or((place, ""));
            return match self.listing(repo) {
                None => send(stream, 404, "X-Error-Code: RepoNotFound", b""),
                Some(listing) if revision == "main" || revision == COMMIT => {
                    send(stream, 200, "", listing.to_string().as_bytes())
                }
                Some(_) => send(stream, 404, "X-Error-Code: RevisionNotFound", b""),
            };
        }
        let (repo, rest) = place.split_once("/resolve/").unwrap_or((place, ""));
        let name = rest.strip_prefix(COMMIT).map_or("", |name| name.trim_start_matches('/')).to_owned();
        let bytes = self.repos.lock().unwrap().get(repo).and_then(|files| files.get(&name)).cloned();
        let Some(bytes) = bytes else {
            return send(stream, 404, "X-Error-Code: EntryNotFound", b"");
        };
        asked(&name);
        if bytes.len() >= LARGE_LEN && !elsewhere {
            // Another name of this machine, so another host.
            let at = format!("Location: http://localhost:{}/cdn/{place}?sig=secret", self.port);
            return send(stream, 302, &at, b"");
        }
        let fault = self.fault(&name);
        if let Some(Fault::Status(status, header)) = fault {
            return send(stream, status, header, b"");
        }
        let whole = matches!(fault, Some(Fault::NoRange | Fault::CutNoRange));
        let range = headers.get("range").filter(|_| !whole).and_then(|range| {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((first.parse::<usize>().ok()?, last.parse::<usize>().map_or(bytes.len(), |last| last + 1)))
        });
        let (first, end) = range.unwrap_or((0, bytes.len()));
        if first >= bytes.len() && !bytes.is_empty() {
            return send(stream, 416, &format!("Content-Range: bytes */{}", bytes.len()), b"");
        }
        let end = end.min(bytes.len());
        let mut sent = bytes[first..end].to_vec();
        if matches!(fault, Some(Fault::Wrong)) {
            sent.iter_mut().for_each(|byte| *byte = !*byte);
        }
        let (status, header) = match range {
            Some(_) => (206, format!("Content-Range: bytes {first}-{}/{}\r\n", end - 1, bytes.len())),
            None => (200, String::new()),
        };
        let head = format!("HTTP/1.1 {status} X\r\n{header}Content-Length: {}\r\n\r\n", sent.len());
        (&*stream).write_all(head.as_bytes())?;
        let is_cut = matches!(fault, Some(Fault::Cut | Fault::CutNoRange));
        (&*stream).write_all(&sent[..if is_cut { sent.len() / 2 } else { sent.len() }])?;
        Ok(!is_cut)
    }

    fn fault(&self, name: &str) -> Option<Fault> {
        self.faults.lock().unwrap().get_mut(name)?.pop_front()
    }

    fn listing(&self, repo: &str) -> Option<Value> {
        let (repos, sizes) = (self.repos.lock().unwrap(), self.sizes.lock().unwrap());
        let sibling = |(path, bytes): (&String, &Vec<u8>)| {
            let size = sizes.get(path).copied().unwrap_or(bytes.len() as u64);
            let digest = digest(bytes);
            let mut one = json!({ "rfilename": path, "size": size, "blobId": &digest[..40] });
            if bytes.len() >= LARGE_LEN {
                one["lfs"] = json!({ "sha256": digest, "size": size, "pointerSize": 130 });
            }
            one
        };
        let siblings: Vec<Value> = repos.get(repo)?.iter().map(sibling).collect();
        Some(json!({ "id": repo, "sha": COMMIT, "siblings": siblings, "private": false }))
    }
}

fn send(stream: &TcpStream, status: u16, header: &str, body: &[u8]) -> std::io::Result<bool> {
    let end = if header.is_empty() { "" } else { "\r\n" };
    let head = format!("HTTP/1.1 {status} X\r\n{header}{end}Content-Length: {}\r\n\r\n", body.len());
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    Ok(true)
}
