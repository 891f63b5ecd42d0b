"""Proxies, tokens, certificates and the disk: `mgpack pull` does as huggingface_hub does, or refuses first."""

import base64
import os
import shutil
import ssl
import subprocess

import pytest
from proxy_server import Proxy
from pulling import BIG, BLOBS, SNAPSHOT, check, model_hub, pull, python


@pytest.fixture
def hub():
    hub = model_hub()
    yield hub
    hub.server.shutdown()


@pytest.fixture
def proxy():
    proxy = Proxy()
    yield proxy
    proxy.server.shutdown()


# Variables, with PROXY for the proxy's address, and the hosts that are then asked through it. The hub is
# 127.0.0.1 and sends large files from localhost. Nothing listens on port 9.
BOTH = {"127.0.0.1", "localhost"}
PROXIES = [
    ({}, set()),
    ({"HTTP_PROXY": "PROXY"}, BOTH),
    ({"http_proxy": "PROXY", "HTTP_PROXY": "http://127.0.0.1:9"}, BOTH),
    ({"ALL_PROXY": "PROXY"}, BOTH),
    ({"all_proxy": "PROXY", "HTTPS_PROXY": "http://127.0.0.1:9"}, BOTH),
    ({"HTTP_PROXY": "PROXY", "ALL_PROXY": "http://127.0.0.1:9"}, BOTH),
    ({"HTTPS_PROXY": "PROXY", "https_proxy": "PROXY"}, set()),
    ({"HTTP_PROXY": "PROXY", "http_proxy": ""}, set()),
    ({"HTTP_PROXY": "PROXY", "NO_PROXY": "example.org, 127.0.0.1"}, {"localhost"}),
    ({"HTTP_PROXY": "PROXY", "no_proxy": "localhost"}, {"127.0.0.1"}),
    ({"ALL_PROXY": "PROXY", "NO_PROXY": "127.0.0.1,localhost"}, set()),
    ({"HTTP_PROXY": "PROXY", "NO_PROXY": "*"}, set()),
    ({"HTTP_PROXY": "PROXY", "NO_PROXY": "host,.localhost,27.0.0.1"}, BOTH),
]


@pytest.mark.parametrize("variables, hosts", PROXIES, ids=lambda value: " ".join(value))
def test_proxies_are_asked_for_the_hosts_for_which_huggingface_hub_asks_them(hub, proxy, tmp_path, variables, hosts):
    variables = {key: value.replace("PROXY", proxy.url) for key, value in variables.items()}
    done = pull(hub, tmp_path / "ours", **variables)
    assert done.returncode == 0, done.stderr
    check(hub, tmp_path / "ours")
    assert {host for _, host, _ in proxy.asked} == hosts
    proxy.asked.clear()
    python(hub, tmp_path / "theirs", "h.snapshot_download('org/model')", **variables)
    assert {host for _, host, _ in proxy.asked} == hosts


def test_a_proxy_gets_its_password_and_nobody_else_sees_it(hub, proxy, tmp_path):
    given = proxy.url.replace("//", "//me:pass%20word@")
    assert pull(hub, tmp_path, HTTP_PROXY=given, HF_TOKEN="hf_secret").returncode == 0
    assert {said for *_, said in proxy.asked} == {f"Basic {base64.b64encode(b'me:pass word').decode()}"}
    assert {said for _, said in hub.asked} == {"Bearer hf_secret", None}
    proxy.server.shutdown()
    proxy.server.server_close()
    done = pull(hub, tmp_path / "two", HTTP_PROXY="ftp://me:secret@127.0.0.1:9")
    assert done.returncode == 2 and "the proxy in HTTP_PROXY is not usable" in done.stderr
    assert "secret" not in done.stderr


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 and localhost, which is its own authority, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=hub", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", folder / "key.pem"]
    line = ["openssl", "req", "-x509", *key, "-out", folder / "cert.pem", "-days", "2", *names]
    # An authority may not stand for a host.
    subprocess.run([*line, "-addext", "basicConstraints=critical,CA:FALSE"], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def tls_hub(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    hub = model_hub(context)
    yield hub
    hub.server.shutdown()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_https_goes_through_the_proxy_as_a_tunnel_and_only_to_a_known_authority(
    tls_hub, proxy, tmp_path, certificate, variable
):
    done = pull(tls_hub, tmp_path, HTTPS_PROXY=proxy.url)
    assert done.returncode == 2 and tls_hub.asked == [], "an unknown certificate was accepted"
    assert "SSL_CERT_FILE" in done.stderr and len(proxy.asked) == 1, done.stderr
    proxy.asked.clear()
    done = pull(tls_hub, tmp_path, HTTPS_PROXY=proxy.url, HF_TOKEN="hf_secret", **{variable: str(certificate[0])})
    assert done.returncode == 0, done.stderr
    check(tls_hub, tmp_path)
    assert {(method, host) for method, host, _ in proxy.asked} == {("CONNECT", "127.0.0.1"), ("CONNECT", "localhost")}
    # The token went to the hub and to no other host.
    assert {path.startswith("/cdn/"): said for path, said in tls_hub.asked} == {False: "Bearer hf_secret", True: None}


def test_a_redirect_from_https_to_http_is_refused(hub, tls_hub, tmp_path, certificate):
    tls_hub.cdn = hub.url
    done = pull(tls_hub, tmp_path, HF_TOKEN="hf_secret", SSL_CERT_FILE=str(certificate[0]))
    assert done.returncode == 2 and "it leads from https to http" in done.stderr, done.stderr
    assert hub.asked == [] and not (tmp_path / SNAPSHOT).exists()


STORED = "from huggingface_hub.utils._headers import get_token_to_send; print(get_token_to_send(None) or '')"
TOKENS = {
    "HF_TOKEN": {"HF_TOKEN": " hf_given\n", "HF_TOKEN_PATH": "other"},
    "HF_TOKEN_PATH": {"HF_TOKEN_PATH": "other"},
    "HF_HOME": {},
    "XDG_CACHE_HOME": {"HF_HOME": None, "XDG_CACHE_HOME": "cache"},
    "HOME": {"HF_HOME": None},
    "tilde": {"HF_TOKEN_PATH": "~/mine"},
    "old name": {"HUGGING_FACE_HUB_TOKEN": "hf_old"},
    "disabled": {"HF_TOKEN": "hf_given", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"},
    "none": {"HF_TOKEN_PATH": "absent"},
}


@pytest.mark.parametrize("where", TOKENS)
def test_the_token_is_the_one_that_huggingface_hub_sends(hub, tmp_path, where):
    places = {
        "other": "hf_path\n", "home/token": "hf_home\n", "cache/huggingface/token": "hf_cache",
        "user/.cache/huggingface/token": "hf_user\r\n", "user/mine": "hf_mine",
    }  # fmt: skip
    for path, token in places.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(token)
    variables = {"HOME": "user", "HF_HUB_CACHE": "hub"} | TOKENS[where]
    names = ("HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH", "XDG_CACHE_HOME")
    for name in names:
        if variables.get(name) and not variables[name].startswith("~"):
            variables[name] = str(tmp_path / variables[name])
    theirs = python(hub, tmp_path / "home", STORED, **variables)
    assert (theirs == "") == (where in ("disabled", "none")), theirs
    assert pull(hub, tmp_path / "home", **variables).returncode == 0
    sent = {said for path, said in hub.asked if not path.startswith("/cdn/")}
    assert sent == {f"Bearer {theirs}" if theirs else None}
    assert {said for path, said in hub.asked if path.startswith("/cdn/")} == {None}


def test_a_token_that_the_hub_does_not_accept_is_told_from_none(hub, tmp_path):
    for token, words in (("hf_old", "does not accept the token"), (None, "wants a token for `org/model`")):
        hub.faults["listing"] = [(401, {})]
        done = pull(hub, tmp_path, HF_TOKEN=token)
        assert done.returncode == 2 and words in done.stderr and "HF_TOKEN" in done.stderr, done.stderr
        assert "hf_old" not in done.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no small file system can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"no small file system can be mounted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_without_room_is_refused_before_the_first_byte(hub, small_disk):
    need = sum(len(hub.files[name]) for name in hub.files if name != "pytorch_model.bin")
    done = pull(hub, small_disk)
    stat = os.statvfs(small_disk)
    free = stat.f_bavail * stat.f_frsize
    assert free < need and done.returncode == 2
    assert "not enough free space for the download" in done.stderr
    assert f"{need} bytes are still to be downloaded, {free} free: {need - free} too few" in done.stderr
    assert hub.log == [] and not [path for path in small_disk.rglob("*") if path.is_file()]
    # What is there already needs no room.
    hub.files[BIG] = hub.files[BIG][: (1 << 20) + 500_000]
    blobs = small_disk / BLOBS
    blobs.mkdir(parents=True)
    (blobs / f"{hub.digest(BIG)}.incomplete").write_bytes(hub.files[BIG][: 1 << 20])
    stat = os.statvfs(small_disk)
    assert stat.f_bavail * stat.f_frsize < len(hub.files[BIG])
    done = pull(hub, small_disk)
    assert done.returncode == 0, done.stderr
    check(hub, small_disk)
