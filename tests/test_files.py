import errno
import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lia_adapter.errors import LIAError
from lia_adapter.files import atomic_write, check_writable, sha256_file

as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


def test_the_target_changes_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with atomic_write(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".out.bin.")
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_target_alone(tmp_path: Path, kind: type[BaseException]) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with pytest.raises(kind), atomic_write(target) as temporary:
        temporary.write_bytes(b"half")
        raise kind
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_a_block_may_replace_the_temporary_file_itself(tmp_path: Path) -> None:
    # safetensors does: it renames a file of its own over the one that it is told to write.
    with atomic_write(tmp_path / "out.bin") as temporary:
        (tmp_path / "other").write_bytes(b"new")
        os.replace(tmp_path / "other", temporary)
    assert (tmp_path / "out.bin").read_bytes() == b"new"


def test_two_at_once_are_each_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    with atomic_write(target) as one, atomic_write(target) as two:
        one.write_bytes(b"1" * 100)
        two.write_bytes(b"2")
    assert target.read_bytes() == b"1" * 100
    assert os.listdir(tmp_path) == ["out.bin"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/real.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to("disk/real.bin")
    with atomic_write(tmp_path / "link.bin") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "disk/real.bin").read_bytes() == b"new"


def test_what_killed_processes_left_is_cleared(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    code = (
        "import os, sys; from lia_adapter.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as path: path.write_bytes(b'half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    (stale,) = tmp_path.iterdir()
    alive = tmp_path / f".out.bin.{platform.node()}.{os.getpid()}.00000000.tmp"
    others = [tmp_path / stale.name.replace("out.bin", "out.bin.bak"), tmp_path / ".out.bin.tmp", alive]
    for other in others:
        other.touch()
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"new")
    assert set(tmp_path.iterdir()) == {target, *others}


def test_no_space_says_how_much_is_free(tmp_path: Path) -> None:
    message = r"out.bin: no space left on device \(needs about 19 MB, [\d,]+ MB free\)\. Free some space or"
    with pytest.raises(LIAError, match=message), atomic_write(tmp_path / "out.bin", needs=19_000_000):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not os.listdir(tmp_path)
    with pytest.raises(LIAError, match="no space left on device"):
        check_writable(tmp_path / "out.bin", needs=2**60)


def test_an_error_about_another_file_stays_itself(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "out.bin"):
        open(tmp_path / "missing.bin")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "device")  # stands for /dev/null, which root would really lose if this went wrong
    cases = {
        tmp_path / "none/out.bin": "the folder .*none does not exist. Create it or",
        tmp_path / "file/out.bin": "file is not a folder",
        tmp_path: "it is a folder",
        tmp_path / "device": "it is not an ordinary file",
        tmp_path / ("a" * 300): "file name too long",
    }
    for path, message in cases.items():
        with pytest.raises(LIAError, match=message):
            check_writable(path)
        with pytest.raises(LIAError, match=message), atomic_write(path):
            pytest.fail("the block must not run")
    assert (tmp_path / "device").is_fifo()


@as_user
def test_places_that_a_user_may_not_write(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o500)
    (tmp_path / "file").touch(mode=0o400)
    with pytest.raises(LIAError, match="permission denied"):
        check_writable(tmp_path / "folder/out.bin")
    with pytest.raises(LIAError, match="read-only"):
        check_writable(tmp_path / "file")


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "out.bin")
    check_writable(str(tmp_path / "out.bin"), needs=10)
    assert not os.listdir(tmp_path)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(LIAError, match="cannot read .*none: no such file"):
        sha256_file(tmp_path / "none")
