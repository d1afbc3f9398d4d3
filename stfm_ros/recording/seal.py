"""An mcap file that was cut off becomes a whole one, in place: after the last whole chunk it gets its indexes again.

Only what cannot be read is cut; it takes hardly any room, so it works on a full disk too, and may itself be
interrupted and done again. Layout: https://mcap.dev/spec.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO

from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    McapRecord,
    Message,
    MessageIndex,
    Schema,
    Statistics,
    SummaryOffset,
)
from mcap.stream_reader import get_chunk_data_stream

from stfm_ros.errors import BagError

MAGIC = b"\x89MCAP0\r\n"
#: opcode and length of a record
_HEAD = struct.Struct("<BQ")
#: opcode, length and content of the footer, and the magic
_FOOTER_BYTES = 9 + 20 + len(MAGIC)


def is_whole(path: Path) -> bool:
    """Whether a file ends as mcap files do."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() < len(MAGIC) + _FOOTER_BYTES:
            return False
        file.seek(-_FOOTER_BYTES, os.SEEK_END)
        end = file.read()
    return end.startswith(_HEAD.pack(Opcode.FOOTER, 20)) and end.endswith(MAGIC)


def seal(path: Path) -> int:
    """Give a file that was cut off its end.

    Returns:
        The bytes that were cut since they are no whole chunk; 0 where the file was whole.

    Raises:
        BagError: it is no mcap file, or one without chunks.
        OSError: it cannot be written.
    """
    if is_whole(path):
        return 0
    with path.open("r+b") as file:
        found = _scan(file, path)
        file.seek(found.end)
        file.truncate()
        file.write(found.last_indexes())
        file.write(found.summary(file.tell()))
        file.flush()
        os.fsync(file.fileno())
    return found.cut


@dataclass
class _Found:
    """What the whole part of a file holds."""

    end: int  #: where the last whole chunk ends
    cut: int = 0
    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: list[ChunkIndex] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    #: of the last chunk, by channel: time, and offset in the chunk
    last: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, chunk: Chunk, start: int, end: int) -> None:
        """Raises where the chunk is damaged, whatever its parser raises; nothing is added then."""
        stream, size = get_chunk_data_stream(chunk, validate_crc=True)
        if size != chunk.uncompressed_size:
            raise ValueError("not as long as it says")
        schemas: dict[int, Schema] = {}
        channels: dict[int, Channel] = {}
        entries: dict[int, list[tuple[int, int]]] = {}
        while stream.count < size:
            offset, opcode, length = stream.count, stream.read1(), stream.read8()
            if opcode == Opcode.SCHEMA:
                schema = Schema.read(stream)
                schemas[schema.id] = schema
            elif opcode == Opcode.CHANNEL:
                channel = Channel.read(stream)
                channels[channel.id] = channel
            elif opcode == Opcode.MESSAGE:
                message = Message.read(stream, length)
                entries.setdefault(message.channel_id, []).append((message.log_time, offset))
            else:
                stream.read(length)
        self.schemas.update(schemas)
        self.channels.update(channels)
        for channel_id, messages in entries.items():
            self.counts[channel_id] = self.counts.get(channel_id, 0) + len(messages)
        self.last = entries
        self.end = end
        self.chunks.append(
            ChunkIndex(
                chunk_length=end - start,
                chunk_start_offset=start,
                compression=chunk.compression,
                compressed_size=len(chunk.data),
                message_end_time=chunk.message_end_time,
                message_index_length=0,
                message_index_offsets={},
                message_start_time=chunk.message_start_time,
                uncompressed_size=chunk.uncompressed_size,
            )
        )

    def last_indexes(self) -> bytes:
        """The message indexes of the last chunk: they follow it, and may have been cut off."""
        built = RecordBuilder()
        if self.chunks:
            self.chunks[-1].message_index_offsets = {}
            for channel_id, entries in self.last.items():
                self.chunks[-1].message_index_offsets[channel_id] = self.end + built.count
                MessageIndex(channel_id, entries).write(built)
            self.chunks[-1].message_index_length = built.count
        return bytes(built.end())

    def summary(self, start: int) -> bytes:
        """Everything from the end of the data on; ``start`` is where that is."""
        data_end = RecordBuilder()
        DataEnd(0).write(data_end)
        before = data_end.end()
        start += len(before)
        built = RecordBuilder()
        offsets: list[SummaryOffset] = []
        groups: tuple[tuple[Opcode, list[McapRecord]], ...] = (
            (Opcode.SCHEMA, list(self.schemas.values())),
            (Opcode.CHANNEL, list(self.channels.values())),
            (Opcode.STATISTICS, [self._statistics()]),
            (Opcode.CHUNK_INDEX, list(self.chunks)),
        )
        for opcode, records in groups:
            begin = built.count
            for record in records:
                record.write(built)
            if records:
                offsets.append(SummaryOffset(opcode, start + begin, built.count - begin))
        offset_start = start + built.count
        for offset in offsets:
            offset.write(built)
        body = built.end()
        # the checksum covers the footer up to itself
        crc = zlib.crc32(_HEAD.pack(Opcode.FOOTER, 20) + struct.pack("<QQ", start, offset_start), zlib.crc32(body))
        footer = RecordBuilder()
        Footer(start, offset_start, crc).write(footer)
        return bytes(before + body + footer.end() + MAGIC)

    def _statistics(self) -> Statistics:
        return Statistics(
            attachment_count=0,
            channel_count=len(self.channels),
            channel_message_counts=self.counts,
            chunk_count=len(self.chunks),
            message_count=sum(self.counts.values()),
            message_end_time=max((chunk.message_end_time for chunk in self.chunks), default=0),
            message_start_time=min((chunk.message_start_time for chunk in self.chunks), default=0),
            metadata_count=0,
            schema_count=len(self.schemas),
        )


def _scan(file: IO[bytes], path: Path) -> _Found:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise BagError(f"{path} is no mcap file by its first bytes: name a file that was recorded as mcap")
    found = _Found(end=len(MAGIC))
    for opcode, start, end in _records(file, size):
        if opcode == Opcode.MESSAGE:
            raise BagError(f"{path} has messages outside of chunks, which are not recovered here: try `mcap recover`")
        if opcode == Opcode.HEADER:
            found.end = end
        elif opcode == Opcode.CHUNK:
            try:
                found.add(Chunk.read(ReadDataStream(BytesIO(file.read(end - start - 9)))), start, end)
            except Exception:  # bytes that never reached the disk surface as any error of the parsers
                break
        elif opcode == Opcode.MESSAGE_INDEX and found.chunks:
            channel_id = int.from_bytes(file.read(2), "little")
            found.chunks[-1].message_index_offsets[channel_id] = start
            found.chunks[-1].message_index_length = end - found.end
        elif opcode == Opcode.DATA_END:
            break
    # the indexes of the last chunk are written anew: they are not lost with what is cut
    last = found.chunks[-1].message_index_length if found.chunks else 0
    found.cut = max(0, size - found.end - last)
    return found


def _records(file: IO[bytes], size: int) -> Iterator[tuple[int, int, int]]:
    """Opcode, start and end of each record that is all there; the file stands behind its length meanwhile."""
    at = file.tell()
    while at + _HEAD.size <= size:
        file.seek(at)
        opcode, length = _HEAD.unpack(file.read(_HEAD.size))
        end = at + _HEAD.size + length
        if opcode == 0 or end > size:
            return
        yield opcode, at, end
        at = end
