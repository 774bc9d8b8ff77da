"""The metrics of a run: JSON lines, and TensorBoard events beside them."""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import time
from typing import IO, Any


class Metrics:
    """Appends dicts to `path`, one JSON object a line, and their numbers to TensorBoard events in
    the folder `tensorboard` beside it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        if os.path.isdir(self.path):
            raise ValueError(f"metrics={self.path!r} is a folder: the name of a file is wanted")
        folder = os.path.dirname(self.path) or "."
        os.makedirs(folder, exist_ok=True)
        self._lines: IO[str] | None = None
        self._events = EventFile(os.path.join(folder, "tensorboard"))

    def begin(self, step: int) -> str | None:
        """A run goes on after `step`: lines of later steps, which it had written before it was
        killed or set back, are forgotten. A run that begins puts a file that is there aside, and
        gets its new name."""
        self.close()
        if not os.path.exists(self.path) or os.path.getsize(self.path) == 0:
            return None
        if step == 0:
            number = 1
            while os.path.exists(f"{self.path}.{number}"):
                number += 1
            os.rename(self.path, f"{self.path}.{number}")
            return f"{self.path}.{number}"
        kept = []
        with open(self.path, encoding="utf-8") as lines:
            for line in lines:
                try:
                    if json.loads(line).get("step", 0) <= step:
                        kept.append(line)
                except ValueError:
                    pass  # half a line, of the instant when it was killed
        with open(self.path + ".tmp", "w", encoding="utf-8") as out:
            out.writelines(kept)
        os.replace(self.path + ".tmp", self.path)
        return None

    def write(self, values: dict[str, Any]) -> None:
        if self._lines is None:
            self._lines = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (kept open)
        self._lines.write(json.dumps(_finite(values), allow_nan=False) + "\n")
        self._lines.flush()
        step, kind = values.get("step", 0), values.get("kind", "train")
        for name, value in values.items():
            if name not in ("step", "time") and type(value) in (int, float):
                self._events.scalar(f"{kind}/{name.removeprefix(kind + '_')}", float(value), step)
        self._events.flush()

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        self._events.close()


def _finite(value: Any) -> Any:
    """JSON knows no NaN: null stands for what is not finite, as in a skipped step."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class EventFile:
    """A TensorBoard event file of scalars: TFRecords (length, masked CRC-32C, data, CRC) that hold
    the protocol buffer Event {1: wall_time, 2: step, 3: file_version, 5: Summary}."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    def scalar(self, tag: str, value: float, step: int) -> None:
        name = tag.encode()
        summary_value = b"\x0a" + _varint(len(name)) + name + b"\x15" + struct.pack("<f", value)
        summary = b"\x0a" + _varint(len(summary_value)) + summary_value
        self._record(b"\x10" + _varint(step) + b"\x2a" + _varint(len(summary)) + summary)

    def _record(self, event: bytes) -> None:
        if self._file is None:
            os.makedirs(self._folder, exist_ok=True)
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._file = open(os.path.join(self._folder, name), "wb")  # noqa: SIM115 (kept open)
            version = b"brain.Event:2"
            self._record(b"\x1a" + _varint(len(version)) + version)
        data = b"\x09" + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(data))
        self._file.write(length + _masked_crc(length) + data + _masked_crc(data))

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # Castagnoli, reflected
        table.append(byte)
    return table


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
