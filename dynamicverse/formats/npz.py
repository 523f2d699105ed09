"""NumPy archives: deterministic, streamed, and read without trust.

The files are ordinary `.npz` (zip of `.npy`), readable with `np.load(allow_pickle=False)`.
The reader parses the `.npy` headers itself and compares every declared size with the bytes
that can be there before it allocates anything.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dynamicverse.formats.atomic import atomic_path
from dynamicverse.formats.bounded import invalid, open_bounded
from dynamicverse.formats.parallel_deflate import ParallelDeflate, compressors

Array = NDArray[Any]

MAX_FILE_BYTES = 64 << 30
MAX_BYTES = 8 << 30  # of arrays in memory
MAX_MEMBERS = 64
MAX_DIRECTORY = 64 << 10
MAX_HEADER = 4096
MAX_RATIO = 1032  # deflate cannot do better
CHUNK_BYTES = 8 << 20
LEVEL = 1
ZIP64_FROM = 1 << 30  # bytes; deflate may add a little, and the old headers end at 2 GiB
FIXED_DATE = (1980, 1, 1, 0, 0, 0)

_HEADER = re.compile(
    rb"\{'descr': '([<|])([biufU])(\d{1,4})', 'fortran_order': False, "
    rb"'shape': \(((?:\d{1,19}, )*(?:\d{1,19},?)?)\), \} *\n"
)
# what zipfile, zlib and NumPy raise on malformed data
_MALFORMED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    OSError,
)


@dataclass(frozen=True)
class ArrayStream:
    """An array too large for memory: blocks along axis 0 that add up to `shape`."""

    dtype: DTypeLike
    shape: tuple[int, ...]
    chunks: Iterable[Array]


@dataclass(frozen=True)
class ArraySpec:
    """What a member must be.

    dtype: `np.dtype(...).str` without byte order ("f4", "i8", "b1", "u1"); "U" is any text.
    shape: a number is exact, a name is equal wherever it appears, `"F+1"` is one more than
    `"F"`.
    """

    dtype: str
    shape: tuple[int | str, ...]


class Header(NamedTuple):
    """What a member is; `offset`: bytes before its data."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def data_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_npz(path: Path, arrays: Mapping[str, Array | ArrayStream]) -> None:
    """Write arrays in the given order; the same values give the same bytes.

    Streams are consumed block by block, so that memory stays flat.
    Raises ArtifactError for object arrays and for streams that do not add up to their shape.
    """
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        compressors() as pool,
    ):
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", FIXED_DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            member.external_attr = 0o644 << 16
            # zip64 headers differ between versions of Python: only where they are needed
            nbytes = math.prod(array.shape) * np.dtype(array.dtype).itemsize
            with archive.open(member, "w", force_zip64=nbytes > ZIP64_FROM) as stream:
                stream._compressor = ParallelDeflate(pool, LEVEL)  # type: ignore[attr-defined]
                _write_array(path, name, stream, array)


def read_npz(
    path: Path, spec: Mapping[str, ArraySpec], max_bytes: int = MAX_BYTES
) -> dict[str, Array]:
    """Read all members of `spec`; raises ArtifactError if they are not exactly those."""
    with NpzReader(path, spec) as reader:
        total = sum(reader.header(name).data_bytes for name in spec)
        if total > max_bytes:
            raise invalid(path, f"{total} bytes of arrays, more than {max_bytes} allowed")
        return {name: reader.read(name) for name in spec}


def conform(
    path: Path, arrays: Mapping[str, Any], spec: Mapping[str, ArraySpec]
) -> dict[str, Array]:
    """Arrays with the dtypes of `spec`, in its order; raises ArtifactError if they do not fit.

    Floats may be narrowed; integers must fit; nothing else is converted.
    """
    fitting = {
        name: _cast(path, name, np.asarray(arrays[name]), wanted.dtype)
        for name, wanted in spec.items()
    }
    match(path, {n: Header(a.dtype, a.shape) for n, a in fitting.items()}, spec)
    return fitting


def match(
    path: Path, headers: Mapping[str, Header], spec: Mapping[str, ArraySpec]
) -> dict[str, int]:
    """The sizes that the names in `spec` stand for.

    Raises ArtifactError unless the members are exactly those of `spec`.
    """
    if set(headers) != set(spec):
        absent, extra = sorted(set(spec) - set(headers)), sorted(set(headers) - set(spec))
        raise invalid(path, f"arrays missing: {absent}, unexpected: {extra}")
    sizes: dict[str, int] = {}
    for name, wanted in spec.items():
        dtype, shape = headers[name].dtype, headers[name].shape
        if dtype.str[1:] != wanted.dtype and not (wanted.dtype == "U" and dtype.kind == "U"):
            raise invalid(path, f"'{name}' is {dtype.str[1:]}, expected {wanted.dtype}")
        if len(shape) != len(wanted.shape):
            raise invalid(path, f"'{name}' is {shape}, expected {len(wanted.shape)} dimensions")
        for size, dimension in zip(shape, wanted.shape, strict=True):
            expected = _expected(dimension, size, sizes)
            if size != expected:
                raise invalid(path, f"'{name}' is {shape}, expected {dimension} = {expected}")
    return sizes


class NpzReader:
    """Members of an archive one at a time; opening it reads and checks the headers only.

    With a `spec` the members must be exactly those, with their dtypes and shapes;
    `dimensions` then says what its names stand for. Use it as a context manager.
    """

    def __init__(self, path: Path, spec: Mapping[str, ArraySpec] | None = None) -> None:
        self.path = path
        with ExitStack() as stack:
            stream, size = stack.enter_context(open_bounded(path, MAX_FILE_BYTES))
            with self._errors():
                _check_directory(stream, size)
                self._archive = stack.enter_context(zipfile.ZipFile(stream))
                self._members = self._checked_members(size)
                self._headers = {name: self._read_header(name) for name in self._members}
            self.dimensions = {} if spec is None else match(path, self._headers, spec)
            self._stack = stack.pop_all()

    def __enter__(self) -> NpzReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """The names of the arrays, in file order."""
        return list(self._headers)

    def header(self, name: str) -> Header:
        """dtype and shape of a member."""
        if name not in self._headers:
            raise invalid(self.path, f"no array '{name}'")
        return self._headers[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a member."""
        return self.header(name).shape

    def read(self, name: str, max_bytes: int = MAX_BYTES) -> Array:
        """One whole array."""
        header = self.header(name)
        if header.data_bytes > max_bytes:
            raise invalid(self.path, f"'{name}' has {header.data_bytes} bytes, max {max_bytes}")
        with self._errors(), self._archive.open(self._members[name]) as stream:
            array = np.empty(header.shape, header.dtype)
            target = array.reshape(-1).view(np.uint8)
            stream.read(header.offset)
            filled = 0
            while block := stream.read(CHUNK_BYTES):
                target[filled : filled + len(block)] = np.frombuffer(block, np.uint8)
                filled += len(block)
            if filled != len(target):
                raise EOFError("cut off")
        return _checked_values(self.path, name, array)

    def blocks(self, name: str, rows: int) -> Iterator[Array]:
        """An array in blocks of at most `rows` along axis 0, with flat memory."""
        header = self.header(name)
        row_bytes = math.prod(header.shape[1:]) * header.dtype.itemsize
        with self._errors(), self._archive.open(self._members[name]) as stream:
            stream.read(header.offset)
            for start in range(0, header.shape[0], rows):
                shape = (min(rows, header.shape[0] - start), *header.shape[1:])
                data = _read_exactly(stream, shape[0] * row_bytes)
                block = np.frombuffer(data, header.dtype).reshape(shape)
                yield _checked_values(self.path, name, block)
            stream.read(1)  # lets zipfile compare the checksum

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except _MALFORMED as error:
            raise invalid(self.path, f"not a valid npz ({error})") from error

    def _checked_members(self, size: int) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        infos = self._archive.infolist()
        for info in infos:
            name = info.filename.removesuffix(".npy")
            if not re.fullmatch(r"[A-Za-z_]\w{0,63}\.npy", info.filename, re.ASCII):
                raise ValueError(f"unexpected member {info.filename[:80]!r}")
            if name in members:
                raise ValueError(f"member '{name}' comes twice")
            if info.flag_bits & 0x1 or info.compress_type not in (0, zipfile.ZIP_DEFLATED):
                raise ValueError(f"member '{name}' is encrypted or oddly compressed")
            if info.file_size > info.compress_size * MAX_RATIO + MAX_HEADER:
                raise ValueError(f"member '{name}' cannot expand to its declared size")
            members[name] = info
        if sum(info.compress_size for info in infos) > size:
            raise ValueError("members overlap")
        return members

    def _read_header(self, name: str) -> Header:
        info = self._members[name]
        with self._archive.open(info) as stream:
            prefix = _read_exactly(stream, 10)
            length = int.from_bytes(prefix[8:10], "little")
            if prefix[:8] != b"\x93NUMPY\x01\x00" or length > MAX_HEADER:
                raise ValueError(f"'{name}' is not an npy array")
            text = _read_exactly(stream, length)
        found = _HEADER.fullmatch(text)
        if found is None:
            raise ValueError(f"'{name}' is not a plain array in C order: {text[:80]!r}")
        order, kind, width, dimensions = (group.decode() for group in found.groups())
        try:
            dtype = np.dtype(f"{order}{kind}{width}")
        except TypeError as error:
            raise ValueError(f"'{name}' has an unknown dtype") from error
        shape = tuple(int(d) for d in dimensions.replace(",", " ").split())
        header = Header(dtype, shape, 10 + length)
        if header.offset + header.data_bytes != info.file_size:
            raise ValueError(f"'{name}' declares {dtype} {shape} in {info.file_size} bytes")
        return header


def _check_directory(stream: BinaryIO, size: int) -> None:
    """Bound the central directory, which zipfile would read whole (APPNOTE 4.3.14-16)."""
    stream.seek(max(0, size - 98))
    tail = stream.read()
    end = tail[-22:]
    if len(end) < 22 or end[:4] != b"PK\5\6" or end[20:] != b"\0\0":
        raise ValueError("no zip directory at the end: cut off?")
    entries, directory = struct.unpack_from("<HI", end, 10)
    if tail[-42:-38] == b"PK\6\7":
        if tail[:4] != b"PK\6\6":
            raise ValueError("a malformed zip64 directory")
        entries, directory = struct.unpack_from("<QQ", tail, 32)
    if entries > MAX_MEMBERS or directory > MAX_DIRECTORY:
        raise ValueError(f"{entries} members in a directory of {directory} bytes")


def _write_array(path: Path, name: str, stream: Any, array: Array | ArrayStream) -> None:
    dtype = np.dtype(array.dtype).newbyteorder("<")
    if dtype.kind not in "biufU":
        raise invalid(path, f"'{name}' has dtype {dtype}, which cannot be stored")
    shape = tuple(int(d) for d in array.shape)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": dtype.str, "fortran_order": False, "shape": shape}
    )
    stream.write(header.getvalue())
    written = 0
    for block in _blocks(array):
        if block.shape[1:] != shape[1:] or block.ndim != len(shape):
            raise invalid(path, f"a block of '{name}' is {block.shape}, the whole is {shape}")
        data = np.ascontiguousarray(_cast(path, name, block, dtype.str[1:]), dtype)
        stream.write(data.reshape(-1).view(np.uint8).data)
        written += data.nbytes
    if written != math.prod(shape) * dtype.itemsize:
        raise invalid(path, f"the blocks of '{name}' do not add up to {shape}")


def _blocks(array: Array | ArrayStream) -> Iterator[Array]:
    if isinstance(array, ArrayStream):
        yield from array.chunks
    elif array.ndim == 0 or array.nbytes <= CHUNK_BYTES:
        yield array
    else:
        rows = max(1, CHUNK_BYTES * array.shape[0] // array.nbytes)
        for start in range(0, array.shape[0], rows):
            yield array[start : start + rows]


def _cast(path: Path, name: str, array: Array, dtype: str) -> Array:
    if dtype == "U" or array.dtype.str[1:] == dtype:
        return array
    target, given = np.dtype(dtype), array.dtype
    if target.kind == "f" and given.kind in "fiu":
        return array.astype(target)
    if target.kind in "iu" and given.kind in "iu":
        bounds = np.iinfo(target)
        if array.size == 0 or (array.min() >= bounds.min and array.max() <= bounds.max):
            return array.astype(target)
        raise invalid(path, f"'{name}' holds {array.min()}..{array.max()}, beyond {target}")
    raise invalid(path, f"'{name}' is {given}, expected {target}")


def _expected(dimension: int | str, size: int, sizes: dict[str, int]) -> int:
    """The size a dimension must have; a name seen for the first time takes the given one."""
    if isinstance(dimension, int):
        return dimension
    name, _, more = dimension.partition("+")
    extra = int(more or 0)
    return sizes.setdefault(name, size - extra) + extra


def _read_exactly(stream: Any, count: int) -> bytes:
    parts: list[bytes] = []
    while count and (block := stream.read(count)):
        parts.append(block)
        count -= len(block)
    if count:
        raise EOFError("cut off")
    return b"".join(parts)


def _checked_values(path: Path, name: str, array: Array) -> Array:
    """Refuse bit patterns that NumPy would take, but that are no values of the type."""
    raw = array.reshape(-1)
    if array.dtype.kind == "b" and array.size and raw.view(np.uint8).max() > 1:
        raise invalid(path, f"'{name}' holds bytes that are no booleans")
    if array.dtype.kind == "U" and array.size and raw.view(np.uint32).max() > 0x10FFFF:
        raise invalid(path, f"'{name}' holds numbers that are no characters")
    return array
