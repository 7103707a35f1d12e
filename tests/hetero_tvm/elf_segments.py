"""How an ELF file of 64 bits is loaded."""

import struct

PAGE_16K = 16384
_LOAD = 1  # elf.h: PT_LOAD


def alignments(path):
    """Of the segments that the file is loaded in, in bytes."""
    data = path.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, table + i * size) for i in range(count)]
    return [header[7] for header in headers if header[0] == _LOAD]
