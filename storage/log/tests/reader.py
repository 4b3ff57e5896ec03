#!/usr/bin/env python3
"""Reads Sidetone's log files, journal or segment, from docs/formats.md alone; needs nothing but Python's standard library.

reader.py FILE               the header, every fact, and the runs with their Merkle roots, one JSON object a line
reader.py FILE RECORDING     the Opus packets of that recording: track, grid step and packet in hexadecimal, one a line
"""
import hashlib, json, struct, sys, uuid

BLOCK, ALIGN, RECORD_MAX = 4096, 16, 1 << 20
SYNC, CHUNK, FACT, RUN_INDEX, SEGMENT_INDEX, FOOTER = 2, 16, 17, 18, 19, 20
KNOWN = {1: 1, SYNC: 1, CHUNK: 1, FACT: 2, RUN_INDEX: 1, SEGMENT_INDEX: 1, FOOTER: 1}

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def merkle(leaves):
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + merkle(leaves[:left]) + merkle(leaves[left:])).digest()


def read_header(data):
    head = data[:BLOCK]
    if head[:8] not in (b"SIDETJNL", b"SIDETSEG"):
        sys.exit("not a log file")
    if struct.unpack_from("<I", head, 4092)[0] != crc32c(head[:4092]):
        sys.exit("the header is damaged")
    version, number = struct.unpack_from("<II", head, 8)
    if version > 1:
        sys.exit(f"format version {version}: a newer reader is needed")
    month, year, node, cls = struct.unpack_from("<BHHH", head, 105)
    expires = f"{year:04}-{month:02}" if month else None
    text = head[112 : 112 + node + cls]
    return dict(kind="segment" if head[:8] == b"SIDETSEG" else "journal", number=number, volume=head[104],
                store_id=str(uuid.UUID(bytes=head[16:32])), file_id=head[64:80], node=text[:node].decode(),
                retention_class=text[node:].decode(), expires=expires)


def record_at(data, offset):
    """(type, body, whole record, where the next one begins), or None when no whole record is there."""
    if offset + 12 > len(data):
        return None
    length, kind, flags, version, crc = struct.unpack_from("<IHBBI", data, offset)
    record = data[offset : offset + length]
    if not 12 <= length <= RECORD_MAX or len(record) < length or crc32c(record[:8] + record[12:]) != crc:
        return None
    if KNOWN.get(kind) != version:
        if flags & 1:
            sys.exit(f"record of type {kind} version {version} is critical and unknown: a newer reader is needed")
        kind = 1
    return kind, record[12:], record, offset + (length + ALIGN - 1) // ALIGN * ALIGN


def scan(data, header):
    """All records in order, over damage, up to the end of what was ever acknowledged."""
    offset, last = BLOCK, 0

    def valid(at):
        found = record_at(data, at)
        if found and found[0] == SYNC:
            file_id, sequence = found[1][:16], int.from_bytes(found[1][16:24], "little")
            return found if at % BLOCK == 0 and file_id == header["file_id"] and sequence > last else None
        return found

    while True:
        found = valid(offset)
        if not found:
            later = range(offset // BLOCK * BLOCK + BLOCK, len(data), BLOCK)
            later = next((at for at in later if (valid(at) or [0])[0] == SYNC), None)
            if later is None:
                return
            claimed = offset + (int.from_bytes(data[offset : offset + 4], "little") + ALIGN - 1) // ALIGN * ALIGN
            after = claimed if offset < claimed < later and valid(claimed) else later
            print(f"damaged from byte {offset} to {after}", file=sys.stderr)
            offset = after
            continue
        if found[0] == SYNC:
            last = int.from_bytes(found[1][16:24], "little")
        yield offset, *found
        offset = found[3]


def read_run(data, index_at, body):
    """Recording, run and chunk records, their checksums and root proven."""
    recording, (start, first, index, first_tick) = uuid.UUID(bytes=body[16:32]), struct.unpack_from("<4Q", body, 32)
    count, through = struct.unpack_from("<IH", body, 96)
    if start + index != index_at or body[:16] != data[64:80]:
        return None
    chunks, at = [], start + first
    for row in range(count):
        delta, track, ticks, packets, length = struct.unpack_from("<IBBHI", body, 104 + 13 * through + 12 * row)
        kind, chunk, record, following = record_at(data, at) or sys.exit(f"the chunk at byte {at} is damaged")
        said = (recording.bytes, first_tick + delta, ticks, packets, track)
        if kind != CHUNK or len(record) != length or struct.unpack_from("<16sQHHB", chunk) != said:
            sys.exit(f"byte {at} holds another chunk than the run index says")
        chunks.append(record)
        at = following
    if merkle(chunks) != body[64:96]:
        sys.exit(f"the Merkle root of the run at byte {start} is wrong")
    return dict(recording=str(recording), offset=start, chunks=count, root=body[64:96].hex())


def closed_offsets(data, header):
    """Where a closed segment's index says that records are; None when it is not closed."""
    footer = record_at(data, len(data) - BLOCK) if len(data) % BLOCK == 0 else None
    if header["kind"] != "segment" or not footer or footer[0] != FOOTER or footer[1][:16] != header["file_id"]:
        return None
    at, records = struct.unpack_from("<Q", footer[1], 16)[0], struct.unpack_from("<I", footer[1], 40)[0]
    ranges = []
    for _ in range(records):
        _, body, _, at = record_at(data, at) or sys.exit("the segment index is damaged")
        place = 4
        for _ in range(struct.unpack_from("<I", body)[0]):
            if body[place] == 1:
                ranges.append(struct.unpack_from("<QQ", body, place + 17))
                place += 103 + 13 * struct.unpack_from("<H", body, place + 101)[0]
            else:
                ranges.append(struct.unpack_from("<QQ", body, place + 1))
                place += 21
    return ranges


def records(data, header):
    ranges = closed_offsets(data, header)
    if ranges is None:
        yield from scan(data, header)
    for start, length in ranges or []:
        at = start
        while at < start + length:
            found = record_at(data, at) or sys.exit(f"the record at byte {at} is damaged")
            yield at, *found
            at = found[3]


def main(path, recording=None):
    data = open(path, "rb").read()
    header = read_header(data)
    if recording is None:
        print(json.dumps(dict(header, file_id=header["file_id"].hex(), closed=closed_offsets(data, header) is not None)))
    of_run = []
    for offset, kind, body, record, _ in records(data, header):
        if kind == SYNC:
            of_run = []  # without a run index the run was given up
        elif kind == RUN_INDEX:
            print(*of_run, sep="", end="")
            of_run = []
        if recording is None and kind == FACT:
            about = None if body[8:24] == bytes(16) else str(uuid.UUID(bytes=body[8:24]))
            print(json.dumps(dict(sequence=struct.unpack_from("<Q", body)[0], about=about, fact=json.loads(body[24:]))))
        elif recording is None and kind == RUN_INDEX:
            run = read_run(data, offset, body)
            print(json.dumps(dict(run=run))) if run else None
        elif kind == CHUNK and str(uuid.UUID(bytes=body[:16])) == recording:
            if any(body[32:48]):
                sys.exit("this recording is encrypted")
            tick, place, lines = struct.unpack_from("<Q", body, 16)[0], 76, ""
            while place < len(body):
                length = struct.unpack_from("<H", body, place)[0]
                if length:
                    lines += f"{body[28]} {tick} {body[place + 2 : place + 2 + length].hex()}\n"
                tick, place = tick + 1, place + 2 + length
            of_run.append(lines) if header["kind"] == "segment" else print(lines, end="")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:])) if 2 <= len(sys.argv) <= 3 else sys.exit(__doc__)
