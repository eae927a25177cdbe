"""The file: one safetensors container with a checksum over every byte, written at once or not at all."""

import hashlib
import json
import os
import re
import secrets
import stat

import safetensors
import safetensors.torch

FORMAT = "siflow_sk"
FORMAT_VERSION = 1
MAX_HEADER = 100_000_000  # bytes; the limit of safetensors itself
_BLANK = "0" * 64
_HEX = re.compile("[0-9a-f]{64}")

# First bytes of what people offer by mistake, or in bad faith.  The first four bytes of a file of ours may be
# anything, the other four are zero: a shorter pattern needs something there.
_FOREIGN = [
    (re.compile(rb"\x80[\x04\x05]\x95|\x80[\x00-\x05](?!.{2}\0{4})", re.DOTALL), "a pickle file"),
    (re.compile(rb"PK\x03\x04"), "a zip archive, as torch.save, skops and numpy.savez write"),
    (re.compile(rb"\x1f\x8b\x08|BZh|\xfd7zXZ|\x5d\x00\x00\x80"), "a compressed pickle"),
    (re.compile(rb"(\x78[\x01\x5e\x9c\xda]|ZF)(?!.{2}\0{4})", re.DOTALL), "a compressed pickle"),
    (re.compile(rb"\x93NUMPY"), "a NumPy array"),
    (re.compile(rb"\x89HDF"), "an HDF5 file"),
    (re.compile(rb"[\t\n\r -~]+\Z"), "text, perhaps a pickle file of the old protocol"),
]


def pack(kind, content, tensors):
    """The bytes of a file.

    The digest is that of the whole file with zeros in the place of the digest.

    Parameters
    ----------
    kind : str
        What the file is, ``"estimator"`` or ``"checkpoint"``.
    content : object
        Anything that JSON can hold.
    tensors : dict of str to tensor
        Contiguous, on the CPU.
    """
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "kind": kind,
        "content": json.dumps(content, allow_nan=False, separators=(",", ":")),
        "sha256": _BLANK,
    }
    data = safetensors.torch.save(tensors)
    start = 8 + int.from_bytes(data[:8], "little")
    # the header is written anew: safetensors puts metadata into an order that changes from call to call
    table = {"__metadata__": metadata, **json.loads(data[8:start])}
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER:
        raise ValueError(f"the text of this object has {len(header):,} bytes; {MAX_HEADER:,} is the limit.")
    head, payload = len(header).to_bytes(8, "little"), memoryview(data)[start:]
    digest = _digest(head, header, payload)
    return b"".join([head, header.replace(_slot(_BLANK), _slot(digest)), payload])


def _digest(*parts):
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _slot(digest):
    return f'"sha256":"{digest}"'.encode()


def write(path, data, beside=None):
    """Put ``data`` at ``path``: after a failure of any kind, whatever was there is still there.

    It is written ``beside``, by default under a name of its own, and renamed when it is on the disk.

    Raises
    ------
    OSError
        No such directory, no permission, no space, or the path is a directory.
    """
    path = os.path.realpath(os.fspath(path))
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path!r} is a directory; give the name of a file.")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no directory {folder!r}; make it first.")
    beside = beside or f"{path}.{os.getpid()}-{secrets.token_hex(4)}.part"
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    if os.name == "posix":  # the name itself must survive a power cut as well
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read(path, kind):
    """Content and tensors of a file, after every check that needs no trust in it.

    Sizes are compared with that of the file before anything is allocated.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        Not a file of ours, a newer format, another kind, truncated or damaged.
    """
    path = os.fspath(path)
    size = _size(path)
    with open(path, "rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > MAX_HEADER or 8 + length > size:
            told = f"its header should have {length:,} bytes, the file has {size:,}"
            raise ValueError(_foreign(path, head) or f"{path!r} is truncated or damaged: {told}.")
        header = file.read(length)
        if not header.startswith(b"{"):
            raise ValueError(_foreign(path, head) or _damaged(path, "header"))
        metadata, end = _header(path, header)
        if end != size - 8 - length:
            raise ValueError(
                f"{path!r} is truncated or damaged: {end:,} bytes of numbers wanted, "
                f"{size - 8 - length:,} found."
            )
        payload = file.read(size - 8 - length)
    _check_version(path, metadata)
    digest = metadata.get("sha256", "")
    if not _HEX.fullmatch(digest) or header.count(_slot(digest)) != 1:
        raise ValueError(_damaged(path, "checksum"))
    if _digest(head, header.replace(_slot(digest), _slot(_BLANK)), payload) != digest:
        raise ValueError(_damaged(path, "checksum"))
    if metadata.get("kind") != kind:
        raise ValueError(f"{path!r} holds {metadata.get('kind')!r}, not {kind!r}.")
    try:
        content = json.loads(metadata["content"], parse_constant=_no_constant)
        return content, safetensors.torch.load(head + header + payload)
    except (ValueError, KeyError, RecursionError, safetensors.SafetensorError) as error:
        raise ValueError(f"{_damaged(path, 'content')} {error}") from error


def _size(path):
    info = os.stat(path)
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(f"{path!r} is a directory; give the name of a file.")
    if not stat.S_ISREG(info.st_mode):  # a pipe would block, /dev/zero would never end
        raise ValueError(f"{path!r} is not a regular file.")
    return info.st_size


def _header(path, header):
    """The text metadata, and where the last tensor ends."""
    try:
        table = json.loads(header, object_pairs_hook=_unique, parse_constant=_no_constant)
        metadata = table.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that is not text")
        ends = [int(entry["data_offsets"][1]) for entry in table.values()]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(_damaged(path, "header")) from error
    return metadata, max(ends, default=0)


def _unique(pairs):
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return table


def _no_constant(name):
    raise ValueError(f"{name} is not JSON")


def _check_version(path, metadata):
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path!r} is a safetensors file, but none that siflow_sk wrote.")
    version = metadata.get("format_version", "")
    if not re.fullmatch("[0-9]{1,9}", version) or int(version) < 1:
        raise ValueError(_damaged(path, "format version"))
    if int(version) > FORMAT_VERSION:
        raise ValueError(
            f"{path!r} has format version {version}; this siflow_sk reads versions up to {FORMAT_VERSION}. "
            "Upgrade siflow_sk, or save again with the version at hand."
        )


def _damaged(path, where):
    return f"{path!r}: the file is damaged ({where})."


def _foreign(path, head):
    for pattern, what in _FOREIGN:
        if pattern.match(head):
            return f"{path!r} is {what}; siflow_sk.load never unpickles and reads only what save(path) wrote."
    return None
