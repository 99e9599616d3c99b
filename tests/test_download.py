import hashlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests

from lia_adapter import download
from lia_adapter.download import cache_dir, fetch, source_stem
from lia_adapter.errors import DownloadError

CONTENT = bytes(range(256)) * 8192  # 2 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Site:
    """What the test server serves; a test changes it and reads what was asked."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.headers: dict[str, str] = {"ETag": '"1"'}
        self.status = 200
        self.location = ""
        self.ranges = True
        self.heeds_if_range = True
        self.drops: list[int] = []  # after how many bytes to hang up, one number a request
        self.delay_s = 0.0
        self.asked: list[str] = []  # the Range header of each request
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    def __init__(self, *args: Any, site: Site) -> None:
        self.site = site
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        site = self.site
        asked = self.headers.get("Range", "")
        site.asked.append(asked)
        time.sleep(site.delay_s)
        content, status, headers = site.content, site.status, dict(site.headers)
        if site.location:
            status, content, headers = 302, b"", {"Location": site.location}
        tag = site.headers.get("ETag", site.headers.get("Last-Modified"))
        if asked and site.ranges and (self.headers["If-Range"] == tag or not site.heeds_if_range):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start < len(content):
                status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
                content = content[start:]
            else:
                status, content, headers = 416, b"<html>", {"Content-Type": "text/html"}
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content[: site.drops.pop(0)] if site.drops else content)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("LIA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site=site))
    site.url = f"http://127.0.0.1:{server.server_port}/models/a%20face.pkl?key=secret"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def cached() -> list[str]:
    return sorted(re.sub("^[0-9a-f]{8}-", "", file.name) for file in cache_dir().iterdir() if file.suffix != ".lock")


def test_a_url_is_downloaded_once(site: Site) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(site.url, progress=lambda *args: seen.append(args))
    assert path.read_bytes() == CONTENT
    assert re.fullmatch("[0-9a-f]{8}-a_face.pkl", path.name)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(site.url, sha256=SHA256.upper()) == path
    assert len(site.asked) == 1
    assert cached() == ["a_face.pkl"]


def test_a_broken_download_goes_on_where_it_stopped(site: Site) -> None:
    site.drops = [1_000_000, 300_000]
    assert fetch(site.url, sha256=SHA256).read_bytes() == CONTENT
    starts = [int(asked[6:-1] or 0) for asked in site.asked]
    assert starts[0] == 0 < starts[1] < starts[2]
    assert cached() == ["a_face.pkl"]


@pytest.mark.parametrize("tag", [{"Last-Modified": "Sun, 22 Nov 2026 16:00:00 GMT"}, {"ETag": 'W/"1"'}, {}])
def test_only_a_firm_tag_is_resumed(site: Site, tag: dict[str, str]) -> None:
    site.headers = tag
    site.drops = [1_000_000]
    assert fetch(site.url).read_bytes() == CONTENT
    assert bool(site.asked[1]) == ("Last-Modified" in tag)


def test_it_goes_on_in_a_later_call(site: Site) -> None:
    site.drops = [600_000, *[0] * 4]
    with pytest.raises(DownloadError, match="no connection, or it broke, 5 times"):
        fetch(site.url)
    assert cached() == ["a_face.pkl.part", "a_face.pkl.part.tag"]
    assert fetch(site.url).read_bytes() == CONTENT
    assert site.asked[-1] > "bytes="


def test_a_server_without_ranges_starts_over(site: Site) -> None:
    site.ranges = False
    site.drops = [1_000_000]
    assert fetch(site.url).read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_not_glued_together(site: Site) -> None:
    site.drops = [1_000_000, *[0] * 4]
    with pytest.raises(DownloadError):
        fetch(site.url)
    site.content, site.headers = CONTENT[::-1], {"ETag": '"2"'}
    assert fetch(site.url).read_bytes() == CONTENT[::-1]


def test_a_server_that_ignores_if_range_is_seen_through(site: Site) -> None:
    site.drops = [1_000_000, *[0] * 4]
    with pytest.raises(DownloadError):
        fetch(site.url)
    site.content, site.headers, site.heeds_if_range = CONTENT[::-1], {"ETag": '"2"'}, False
    assert fetch(site.url).read_bytes() == CONTENT[::-1]


def test_a_part_that_is_too_long_starts_over(site: Site) -> None:
    site.drops = [1_000_000, *[0] * 4]
    with pytest.raises(DownloadError):
        fetch(site.url)
    (part,) = cache_dir().glob("*.part")
    part.write_bytes(bytes(len(CONTENT)))
    assert fetch(site.url).read_bytes() == CONTENT


def test_another_hash_is_refused_and_not_kept(site: Site) -> None:
    with pytest.raises(DownloadError, match=f"has the SHA-256 {SHA256}, expected {'0' * 64}"):
        fetch(site.url, sha256="0" * 64)
    assert cached() == []
    with pytest.raises(DownloadError, match="64 hexadecimal digits"):
        fetch(site.url, sha256="abc")


def test_the_first_digits_of_a_hash_are_enough_where_no_more_is_known(site: Site) -> None:
    assert fetch(site.url, sha256=SHA256[:8].upper()).read_bytes() == CONTENT
    site.content, site.headers = CONTENT[::-1], {"ETag": '"2"'}
    with pytest.raises(DownloadError, match=f"expected {SHA256[:10]}\\."):
        fetch(site.url + "2", sha256=SHA256[:10])
    assert cached() == ["a_face.pkl"]
    with pytest.raises(DownloadError, match="at least the first 8"):
        fetch(site.url, sha256=SHA256[:7])
    with pytest.raises(DownloadError, match="plain http"):  # eight digits can be made to fit
        fetch("http://example.org/a.pth", sha256=SHA256[:8])


def test_a_damaged_file_in_the_cache_is_fetched_again(site: Site) -> None:
    path = fetch(site.url)
    path.write_bytes(b"damaged")
    assert fetch(site.url, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("announced", [True, False])
def test_the_size_is_capped(site: Site, monkeypatch: pytest.MonkeyPatch, announced: bool) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1_000_000)
    if not announced:
        site.headers["Content-Length"] = ""
    with pytest.raises(DownloadError, match="has more than .* GiB"):
        fetch(site.url)
    assert cached() == []


def test_refusals_say_what_to_do_and_keep_secrets(site: Site) -> None:
    site.status = 404
    with pytest.raises(DownloadError, match="404 Not Found. Check the URL") as caught:
        fetch(site.url.replace("127.", "me:password@127.", 1))
    assert "secret" not in str(caught.value)
    assert "password" not in str(caught.value)
    site.status = 403
    with pytest.raises(DownloadError, match="It may be private"):
        fetch(site.url)
    assert len(site.asked) == 2


def test_a_busy_server_is_asked_again(site: Site) -> None:
    site.status = 503
    with pytest.raises(DownloadError, match="answers 503 Service Unavailable, 5 times"):
        fetch(site.url)
    assert len(site.asked) == 5


def test_a_web_page_is_refused(site: Site) -> None:
    site.headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="is a web page.*Google Drive"):
        fetch(site.url)
    assert cached() == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.org/a.pkl", "plain http"),
        ("ftp://example.org/a.pkl", "expected an https URL"),
        ("file:///etc/passwd", "expected an https URL"),
        ("https:///a.pkl", "expected an https URL"),
        ("https://[/a.pkl", "is malformed"),
        ("https://127.0.0.1:99999999/a.pkl", "Check the URL"),
        ("none.pkl", "there is no file none.pkl"),
        ("https:/example.org/a.pkl", "there is no file"),
    ],
)
def test_sources_that_are_refused(site: Site, url: str, message: str) -> None:
    with pytest.raises(DownloadError, match=message):
        fetch(url)


@pytest.mark.parametrize("location", ["http://example.org/a.pkl", "file:///etc/passwd", "https://["])
def test_redirections_are_checked_as_the_first_url_is(site: Site, location: str) -> None:
    site.location = location
    with pytest.raises(DownloadError, match="plain http|expected an https URL|is malformed"):
        fetch(site.url)


def test_https_never_becomes_http() -> None:
    response = requests.Response()
    response.status_code, response.url = 302, "https://example.org/a.pkl"
    response.headers["Location"] = "http://localhost/a.pkl"
    with pytest.raises(DownloadError, match="plain http, which is refused"):
        download._Session(pinned=True).get_redirect_target(response)


def test_a_redirection_is_followed(site: Site) -> None:
    site.location = "/b.pkl"

    def once(self: Handler) -> None:
        original(self)
        site.location = ""

    original = Handler.do_GET
    with mock.patch.object(Handler, "do_GET", once):
        assert fetch(site.url).read_bytes() == CONTENT


def test_endless_redirections_end(site: Site) -> None:
    site.location = site.url
    with pytest.raises(DownloadError, match="TooManyRedirects"):
        fetch(site.url)


def test_plain_http_is_taken_where_the_hash_is_known() -> None:
    download._check_hop("http://example.org/a.pkl", pinned=True)
    for host in ("localhost", "127.0.0.5", "[::1]:80"):
        download._check_hop(f"http://{host}/a.pkl", pinned=False)


def test_two_processes_download_once(site: Site) -> None:
    site.delay_s = 1.0  # longer than the second process takes to start
    code = "import sys; from lia_adapter.download import fetch; print(fetch(sys.argv[1]))"
    command = [sys.executable, "-c", code, site.url]
    one, two = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    paths = {process.communicate()[0].strip() for process in (one, two)}
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == CONTENT
    assert len(site.asked) == 1


def test_a_cache_that_cannot_be_written_is_named(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIA_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="cannot write to the cache .*LIA_CACHE_DIR"):
        fetch(site.url)


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/lia-adapter")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache/lia-adapter"


def test_a_path_is_returned_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(CONTENT)
    assert fetch(str(path)) == fetch(path, sha256=SHA256) == path
    with pytest.raises(DownloadError, match="does not have the SHA-256"):
        fetch(path, sha256="0" * 64)


def test_stems() -> None:
    assert source_stem("https://example.org/x/stylegan2-ffhq.v1.pkl?a=b.c#d") == "stylegan2-ffhq.v1"
    assert source_stem("https://example.org/") == "download"
    assert source_stem("https://example.org/..%2F..%2Fetc%2Fpasswd") == "passwd"
    assert source_stem("models/a face.pkl") == "a face"
