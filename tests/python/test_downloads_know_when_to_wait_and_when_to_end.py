"""`mgpack pull` against servers that refuse, ask for patience, keep silent, or send what they did not announce."""

import random
import signal
import socket
import subprocess
import time

import conftest
import pytest
from hub_server import Hub
from pulling import BIG, BLOBS, REPO, SNAPSHOT, check, environment, model_hub, pull, python, run


@pytest.fixture
def hub():
    hub = model_hub()
    yield hub
    hub.server.shutdown()


def asked(hub, name=BIG):
    return [given for path, given in hub.ranges if path == name]


@pytest.mark.parametrize("lengthless", [False, True])
@pytest.mark.parametrize("more", [-1, 1, 1 << 20])
def test_a_file_that_is_not_as_long_as_listed_is_given_up_the_second_time(hub, tmp_path, more, lengthless):
    # Once it was asked for without end: the bytes before its end counted as progress each time.
    hub.sizes[BIG], hub.lengthless = len(hub.files[BIG]) + more, lengthless
    done = pull(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="30")
    assert done.returncode == 2 and len(asked(hub)) <= 4, done.stderr
    if more > 0:
        assert f"the hub does not send `{BIG}` as long as its listing says" in done.stderr
        assert f"the listing says {hub.sizes[BIG]} bytes, the answer {len(hub.files[BIG])}" in done.stderr
    assert not (tmp_path / BLOBS / hub.digest(BIG)).exists()


def test_a_server_that_was_never_reached_is_not_waited_for_as_one_that_was(hub, tmp_path):
    # Its patience is ten minutes with this silence; without a network a user would have sat through it.
    hub.server.shutdown()
    hub.server.server_close()
    done = pull(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="60")
    assert done.returncode == 2 and "of the 5 s that mgpack waits" in done.stderr, done.stderr


def test_a_server_without_ranges_that_always_breaks_off_is_given_up(hub, tmp_path):
    hub.faults[BIG] = ["cut"] + ["cut and no range"] * 99
    done = pull(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="30")
    assert done.returncode == 2 and "does not go on where it ended" in done.stderr, done.stderr
    assert len(asked(hub)) <= 8


def test_a_file_that_fails_for_good_does_not_wait_for_another_that_is_to_come_later(hub, tmp_path):
    hub.faults[BIG] = [(429, {"Retry-After": "300"})]
    hub.faults["tokenizer.json"] = [(404, {"X-Error-Code": "EntryNotFound"})]
    # `run` fails after 100 s.
    done = pull(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="60")
    assert done.returncode == 2 and "`tokenizer.json`" in done.stderr, done.stderr


@pytest.mark.parametrize("status, header, value", [
    (429, "RateLimit", '"resolvers";r=0;t=2'), (503, "Retry-After", "2"), (503, "Retry-After", "DATE"),
])  # fmt: skip
def test_a_server_is_not_asked_before_the_time_that_it_names(hub, tmp_path, status, header, value):
    at = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2.999))
    hub.faults["config.json"] = [(status, {header: value.replace("DATE", at)})]
    hub.faults[BIG] = [(status, {header: value.replace("DATE", at)})]
    begun = time.monotonic()
    assert pull(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="2").returncode == 0
    check(hub, tmp_path)
    # A date counts whole seconds, of which the first had begun.
    assert [time for name, time in hub.times if name == BIG][0] - begun > (2 if value != "DATE" else 1)


def test_a_server_that_asks_for_more_patience_than_there_is_ends_the_download_and_is_quoted(hub, tmp_path):
    hub.faults[BIG] = [(503, {"Retry-After": "3600"})]
    done = pull(hub, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "HTTP status 503; nothing came for 0 s of the 20 s that mgpack waits, and the server asks to wait for 60 min" in done.stderr


def test_an_outage_that_outlasts_six_attempts_is_waited_for(hub, tmp_path):
    hub.faults["listing"] = [(503, {})] * 3
    hub.faults[BIG] = [(502, {})] * 6
    done = pull(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="2")
    assert done.returncode == 0 and "HTTP status 502; the next attempt is in" in done.stderr, done.stderr
    check(hub, tmp_path)


def test_a_head_that_broke_off_goes_on_where_it_ended(made, tmp_path):
    source = made.checkpoint("llama")
    hub = Hub(REPO, {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()})
    name = max((name for name in hub.files if name.endswith(".safetensors")), key=lambda name: len(hub.files[name]))
    length = min(64 << 10, len(hub.files[name]))
    hub.faults[name] = ["cut"]
    done = run(["convert", REPO, "--fp16", "--stream", "--dry-run"], hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [entry[1:3] for entry in hub.log if entry[0] == name] == [(0, length // 2), (length // 2, length - length // 2)]


def large_hub():
    """A file of some pieces, and a hub that does not give it whole."""
    hub = Hub(REPO, {"config.json": b"{}", BIG: random.Random(7).randbytes((41 << 20) + 12345)})
    hub.insists = 16 << 20
    return hub


def test_a_large_file_comes_through_several_ranges_at_once_and_never_without_one(tmp_path):
    hub = large_hub()
    hub.faults[BIG] = ["cut", None, (500, {}), "cut"]
    done = pull(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / SNAPSHOT / BIG).read_bytes() == hub.files[BIG]
    assert None not in asked(hub) and len(asked(hub)) > 8
    assert sum(sent for name, _, sent, _ in hub.log if name == BIG) == len(hub.files[BIG]), "bytes came twice"


def test_a_large_file_that_is_killed_is_the_begin_of_its_content_and_goes_on(tmp_path):
    hub = large_hub()
    hub.rate = 8 << 20
    part = tmp_path / BLOBS / f"{hub.digest(BIG)}.incomplete"
    line = [conftest.BINARY, "pull", REPO, "--progress", "none"]
    running = subprocess.Popen(line, env=environment(hub, tmp_path), stderr=subprocess.DEVNULL)
    while not (part.exists() and part.stat().st_size > 9 << 20) and running.poll() is None:
        time.sleep(0.005)
    running.kill()
    running.wait()
    kept = part.read_bytes()
    assert 9 << 20 < len(kept) < len(hub.files[BIG]) and kept == hub.files[BIG][: len(kept)]
    time.sleep(0.3)
    hub.rate, seen = None, len(hub.ranges)
    assert pull(hub, tmp_path).returncode == 0
    assert (tmp_path / SNAPSHOT / BIG).read_bytes() == hub.files[BIG]
    assert min(int(given[6:].split("-")[0]) for name, given in hub.ranges[seen:] if name == BIG) == len(kept)


def test_a_server_that_knows_no_ranges_sends_a_large_file_whole(tmp_path):
    hub = large_hub()
    hub.insists = 1 << 60
    hub.faults[BIG] = ["no range"] * 99
    assert pull(hub, tmp_path).returncode == 0
    assert (tmp_path / SNAPSHOT / BIG).read_bytes() == hub.files[BIG] and len(asked(hub)) == 1


def test_files_share_connections_as_those_of_huggingface_hub_do(tmp_path):
    hub = Hub(REPO, {f"part{n}.json": b"%d" % n for n in range(60)} | {BIG: bytes(2000)})
    assert pull(hub, tmp_path / "ours").returncode == 0
    ours, hub.connections = hub.connections, 0
    python(hub, tmp_path / "theirs", "h.snapshot_download('org/model')")
    assert ours <= max(hub.connections, 8), (ours, hub.connections)


def test_a_signal_ends_a_connection_that_does_not_come_about(hub, tmp_path):
    # A full queue: whoever connects now gets no answer.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        hub.url = f"http://127.0.0.1:{port}"
        line = [conftest.BINARY, "pull", REPO, "--progress", "none"]
        env = environment(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="300")
        running = subprocess.Popen(line, env=env, stderr=subprocess.PIPE, text=True)
        ours = {filler.getsockname()[1] for filler in fillers}
        while not connecting(port) - ours:
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 130
        for filler in fillers:
            filler.close()


def connecting(port):
    """Local ports of what waits for an answer from this one."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "02" and row[2].endswith(f":{port:04X}")}


def test_names_and_passwords_in_addresses_are_never_shown(hub, tmp_path):
    for endpoint in ("http://me:secret@127.0.0.1:9", "htp://me:secret@127.0.0.1:9", "me:se/cret?@host", "http://me:secret@"):
        done = pull(hub, tmp_path, HF_ENDPOINT=endpoint, HF_HUB_DOWNLOAD_TIMEOUT="1")
        assert done.returncode == 2 and "127.0.0.1" in done.stderr or "HF_ENDPOINT" in done.stderr, done.stderr
        assert "secret" not in done.stderr and "cret" not in done.stderr and "me:" not in done.stderr, done.stderr
    hub.cdn = hub.cdn.replace("://", "://me:secret@")
    hub.faults[BIG] = [(400, {})]
    done = pull(hub, tmp_path)
    assert done.returncode == 2 and "/cdn/" in done.stderr and "secret" not in done.stderr, done.stderr


def test_a_token_that_no_request_can_carry_is_refused_and_no_other_is_sent(hub, tmp_path):
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "token").write_text("hf_stored")
    done = pull(hub, tmp_path, HF_TOKEN="hf_gïven")
    assert done.returncode == 2 and "the hub's token in HF_TOKEN is not usable" in done.stderr, done.stderr
    assert hub.asked == [] and "ven" not in done.stderr.replace("given", "")


@pytest.mark.parametrize("seconds", ["18446744073709551615", "99999999999", "-1", "soon"])
def test_no_timeout_is_too_long_to_count_with(hub, tmp_path, seconds):
    assert pull(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT=seconds).returncode == 0
    check(hub, tmp_path)
