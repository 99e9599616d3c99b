"""Files that are either whole or not there: write beside the target, sync, rename."""

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from lia_adapter.errors import LIAError, argument

__all__ = ["atomic_write", "check_writable", "make_folder", "publish", "sha256_file"]


@contextlib.contextmanager
def atomic_write(path: str | Path, needs: int = 0) -> Iterator[Path]:
    """Yield a temporary path beside the target; when the block ends well, the file there becomes the target.

    The target is the old file or the new one at every moment, even if the process is killed or the power fails. If the
    block raises, the temporary file goes and the target stays as it was. What killed processes left is cleared first.

    Example:
        with atomic_write("out.safetensors") as temporary:
            temporary.write_bytes(content)

    Args:
        path: The target. Of a symbolic link, the file that it points to is replaced and the link stays.
        needs: About how many bytes will be written, if known.

    Raises:
        LIAError: The target cannot be written: see `check_writable`.
    """
    check_writable(path, needs)
    target = _real(path)
    _clear_stale(target)
    temporary = _temporary(target)
    try:
        yield temporary
        publish(temporary, target)
    except OSError as error:
        # The block may also read files; an error that names one of those is not about the target.
        if error.filename is not None and str(error.filename) != str(temporary):
            raise
        raise _cannot_write(path, error, needs) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(path: str | Path, needs: int = 0) -> None:
    """Find out before hours of work whether its result can be written; leaves nothing behind.

    Args:
        path: The file to be written.
        needs: About how many bytes will be written, if known.

    Raises:
        LIAError: The folder is missing, is not a folder or cannot be written, the target is a folder, a device or
            read-only, or the space is too small.
    """
    target = _real(path)
    if os.path.exists(target):  # unlike Path.exists, this raises nothing
        if not target.is_file():  # to rename over a device such as /dev/null would destroy it
            kind = "it is a folder" if target.is_dir() else "it is not an ordinary file"
            raise LIAError(f"cannot write {path}: {kind}. Name a file with {argument('out')}.")
        if not os.access(target, os.W_OK):
            raise LIAError(f"cannot write {path}: the file is read-only. Choose another place with {argument('out')}.")
    probe = _temporary(target)
    try:
        probe.touch(exist_ok=False)  # a real file: permission bits do not tell of read-only mounts or quotas
        probe.unlink()
        if shutil.disk_usage(target.parent).free < needs:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise _cannot_write(path, error, needs) from error


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, unless they are there.

    Raises:
        LIAError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LIAError(
            f"cannot make the folder {path}: {_reason(error)}. Choose another place with {argument('out')}."
        ) from error


def publish(temporary: Path, target: Path) -> None:
    """Make a finished file durable and give it its name, replacing what had it. Both are in the same folder.

    Raises:
        OSError: The file cannot be synced or renamed.
    """
    _sync(temporary)
    os.replace(temporary, target)
    with contextlib.suppress(OSError):  # the file is whole by now, and some network file systems sync no folders
        _sync(target.parent)


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 lower-case hexadecimal digits.

    Raises:
        LIAError: The file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LIAError(f"cannot read {path}: {_reason(error)}. Check the path.") from error


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _temporary(target: Path) -> Path:
    # The host's name, because a process number means nothing to another machine on the same network folder.
    return target.with_name(f".{target.name}.{platform.node()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _clear_stale(target: Path) -> None:
    pattern = re.compile(re.escape(f".{target.name}.{platform.node()}.") + r"(\d+)\.[0-9a-f]{8}\.tmp")
    with contextlib.suppress(OSError):  # tidying up must not stop the work
        for file in target.parent.iterdir():
            match = pattern.fullmatch(file.name)
            if match and not _is_alive(int(match[1])):
                file.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 asks whether the process exists and does nothing to it
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it exists and is another user's
        pass
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: str | Path, error: OSError, needs: int) -> LIAError:
    folder = _real(path).parent
    choose = f"choose another place with {argument('out')}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            sizes = f"needs about {_megabytes(needs)}, " if needs else ""
            free = f" ({sizes}{_megabytes(shutil.disk_usage(folder).free)} free)"
            return LIAError(f"cannot write {path}: {_reason(error)}{free}. Free some space or {choose}.")
    if not os.path.exists(folder):
        return LIAError(f"cannot write {path}: the folder {folder} does not exist. Create it or {choose}.")
    if not os.path.isdir(folder):
        return LIAError(f"cannot write {path}: {folder} is not a folder. Please {choose}.")
    return LIAError(f"cannot write {path}: {_reason(error)}. Check the folder {folder} or {choose}.")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _megabytes(size: int) -> str:
    return f"{max(size, 0) / 1e6:,.0f} MB"
