"""URL → cached file: streamed, resumed, size-capped, checked against a SHA-256, and renamed into place when whole.

A download lives in the cache folder as `<name>.part`, and beside it `<name>.part.tag`, which says what version of the
file on the server the part belongs to. A lock that dies with its process keeps two processes from writing one part.
"""

import contextlib
import fcntl
import hashlib
import ipaddress
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import requests

from lia_adapter.errors import DownloadError
from lia_adapter.files import publish, sha256_file

__all__ = ["cache_dir", "cached", "downloading", "fetch", "is_url", "shown", "source_stem"]

MAX_BYTES = 8 * 2**30
"""A file larger than this is refused; the largest known checkpoints are about 1 GiB."""

Progress = Callable[[int, int | None], None]

_ATTEMPTS = 5
_PAUSE_S = 1.0  # before the second attempt; doubled before each further one
_TIMEOUT_S = (10, 60)  # to connect, and between two pieces
_PIECE_BYTES = 2**18


class _BrokenError(Exception):
    """The connection or the server failed in a way that may pass: worth another attempt."""


_MAY_PASS = (_BrokenError, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def fetch(source: str | Path, *, sha256: str | None = None, progress: Progress | None = None) -> Path:
    """The local file of a path or a URL, downloaded unless it is in the cache already.

    Args:
        source: A path, which is returned as it is, or an https URL. Plain http is taken from this machine, or where all of
            `sha256` says what must come.
        sha256: What the file's bytes must hash to, as 64 hexadecimal digits, or at least the first 8 of them where no more
            was published: enough against damage and mix-ups, but not against somebody who makes a file to fit.
        progress: Called as the download goes on, with the bytes that are there and the bytes in all, if known.

    Raises:
        DownloadError: There is no such file, the URL or the server's answer is refused, the connection keeps breaking,
            or the file does not have the hash.
    """
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{8,64}", sha256):
        raise DownloadError(
            f"{sha256!r} is not a SHA-256; expected 64 hexadecimal digits, as sha256sum prints, or at least the first 8."
        )
    source = os.fspath(source)
    if not is_url(source):
        if not os.path.exists(source):
            raise DownloadError(f"there is no file {source}. Check the path, or pass an https URL.")
        if not _matches(Path(source), sha256):
            raise DownloadError(f"{source} does not have the SHA-256 {sha256}. Get the file again.")
        return Path(source)
    _check_hop(source, pinned=_is_whole(sha256))
    target = cache_dir() / _cache_name(source)
    try:
        if target.exists() and _matches(target, sha256):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            if target.exists() and not _matches(target, sha256):
                target.unlink()
            if not target.exists():  # it does if another process held the lock and downloaded it meanwhile
                _download(source, target, sha256, progress)
    except OSError as error:
        raise DownloadError(
            f"cannot write to the cache {target.parent}: {(error.strerror or str(error)).lower()}. "
            "Free some space there, or set LIA_CACHE_DIR to another folder."
        ) from error
    return target


def downloading(progress: Callable[[str, int, int | None], None] | None, what: str = "") -> Progress | None:
    """What `fetch` is to tell, told as work with a name."""
    name = f"download {what}, bytes" if what else "download, bytes"
    return None if progress is None else lambda done, total: progress(name, done, total)


def cached(source: str) -> Path | None:
    """The file that a URL was downloaded to, None where it was not; nothing is asked of anybody."""
    target = cache_dir() / _cache_name(source)
    return target if target.exists() else None


def is_url(source: str | Path) -> bool:
    """Whether a source is an address and no file."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", os.fspath(source)) is not None


def cache_dir() -> Path:
    """The folder of downloaded files: LIA_CACHE_DIR, or lia-adapter in XDG_CACHE_HOME or in ~/.cache."""
    if folder := os.environ.get("LIA_CACHE_DIR"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lia-adapter"


def source_stem(source: str | Path) -> str:
    """The name of a checkpoint without folder, host and ending; results are named after it.

    >>> source_stem("https://example.org/models/ffhq.pkl?download=1")
    'ffhq'
    """
    source = os.fspath(source)
    return PurePosixPath(_base_name(source)).stem if is_url(source) else Path(source).stem


def _split(url: str, base: str = "") -> SplitResult:
    try:
        return urlsplit(urljoin(base, url))
    except ValueError as error:  # such as a bracket in the host
        raise DownloadError(f"the URL is malformed: {error}. Check it.") from error


def _base_name(url: str) -> str:
    """The last part of the URL's path, without what could leave the folder or trouble a shell."""
    name = PurePosixPath(unquote(_split(url).path)).name
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".-")[-100:] or "download"


def _cache_name(url: str) -> str:
    # The hash tells apart the many files that are named alike, such as network-snapshot.pkl.
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{_base_name(url)}"


def shown(url: str) -> str:
    """The URL as messages show it: without a password or a signed query, which may be secret."""
    parts = _split(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _matches(file: Path, sha256: str | None) -> bool:
    return sha256 is None or sha256_file(file).startswith(sha256.lower())


def _is_whole(sha256: str | None) -> bool:
    return sha256 is not None and len(sha256) == 64


def _check_hop(url: str, *, pinned: bool) -> None:
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(f"cannot download {shown(url)}; expected an https URL or the path of a file.")
    if parts.scheme == "http" and not pinned and not _is_this_machine(parts.hostname):
        raise DownloadError(
            f"{shown(url)} is plain http, so that anybody on the way could change the file. "
            "Use https, or say what SHA-256 is expected."
        )


def _is_this_machine(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    # The lock file stays: to remove it would let a third process lock a new one while the second waits on the old.
    with open(_beside(target, ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits; the system lets go when the process ends, however it ends
        yield


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


class _Session(requests.Session):
    """A session that checks every redirection as it does the first URL."""

    def __init__(self, pinned: bool) -> None:
        super().__init__()
        self.pinned = pinned
        # A compressed answer has neither the length nor the byte ranges of the file.
        self.headers["Accept-Encoding"] = "identity"

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        location = super().get_redirect_target(resp)
        if location is not None:
            parts = _split(location, resp.url)
            _check_hop(parts.geturl(), pinned=self.pinned)
            if parts.scheme == "http" and _split(resp.url).scheme == "https":
                raise DownloadError(f"{shown(resp.url)} leads on to plain http, which is refused. Find an https URL.")
        return location


def _download(url: str, target: Path, sha256: str | None, progress: Progress | None) -> None:
    part = _beside(target, ".part")
    with _Session(pinned=_is_whole(sha256)) as session:
        for attempt in range(_ATTEMPTS):
            try:
                _attempt(session, url, part, progress)
                break
            except _MAY_PASS as error:
                if attempt == _ATTEMPTS - 1:
                    raise DownloadError(
                        f"cannot download {shown(url)}: {_why(error)}, {_ATTEMPTS} times. Check the connection; "
                        "the same command goes on where it stopped."
                    ) from error
                time.sleep(_PAUSE_S * 2**attempt)
            except requests.RequestException as error:  # a malformed URL, too many redirections, a damaged encoding
                raise DownloadError(f"cannot download {shown(url)}: {type(error).__name__}. Check the URL.") from error
    if sha256 is not None and not (found := sha256_file(part)).startswith(sha256.lower()):
        _discard(part)
        raise DownloadError(
            f"{shown(url)} has the SHA-256 {found}, expected {sha256.lower()}. "
            "The file is not the one that was meant: check the URL and the hash."
        )
    publish(part, target)
    _discard(part)


def _attempt(session: requests.Session, url: str, part: Path, progress: Progress | None) -> None:
    """Ask for what the part lacks, and append it; or start over where the server has another version by now."""
    tag_file = _beside(part, ".tag")
    tag = tag_file.read_text() if tag_file.exists() else ""
    start = part.stat().st_size if part.exists() and tag else 0
    headers = {"Range": f"bytes={start}-", "If-Range": tag} if start else {}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        _check_answer(response, url)
        content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if response.status_code == 200:
            start, total = 0, _length(response)
        elif content_range and int(content_range[1]) == start and _tag(response) in ("", tag):
            total = int(content_range[2])
        else:
            _discard(part)
            raise _BrokenError("the server's answer does not go with the part that is here")
        _check_size(url, part, total or 0)
        with open(part, "ab" if start else "wb") as file:
            if not start:  # only now is the old part gone: its bytes must never meet the new tag
                tag_file.write_text(_tag(response))
            done = start
            for piece in response.iter_content(_PIECE_BYTES):
                done += len(piece)
                _check_size(url, part, done)
                file.write(piece)
                if progress:
                    progress(done, total)
    if total is not None and done != total:
        raise _BrokenError(f"{done:,} of {total:,} bytes came")


def _check_answer(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status == 429 or status >= 500:
        raise _BrokenError(f"the server answers {status} {response.reason}")
    if status not in (200, 206, 416):
        private = " It may be private: download it in a browser and pass the path." if status in (401, 403) else ""
        raise DownloadError(f"cannot download {shown(url)}: {status} {response.reason}. Check the URL.{private}")
    if status != 416 and response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise DownloadError(
            f"{shown(url)} is a web page, not a file; hosts such as Google Drive show one before the download. "
            "Use the direct URL, or download it in a browser and pass the path."
        )


def _check_size(url: str, part: Path, size: int) -> None:
    if size > MAX_BYTES:
        _discard(part)
        raise DownloadError(
            f"{shown(url)} has more than {MAX_BYTES / 2**30:.3g} GiB, too much for a checkpoint. "
            "If it is one, download it yourself and pass the path."
        )


def _is_encoded(response: requests.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity").lower() != "identity"


def _length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and not _is_encoded(response) else None


def _tag(response: requests.Response) -> str:
    """What names this version of the file on its server, or nothing where it cannot be resumed."""
    etag = response.headers.get("ETag", "")
    if _is_encoded(response):
        return ""
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")  # If-Range takes no weak ETag


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part, ".tag").unlink(missing_ok=True)


def _why(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "no secure connection to be had"
    return str(error) if isinstance(error, _BrokenError) else "no connection, or it broke"
