"""Does this CPU multiply bytes? The instructions behind fast int8 kernels."""

from __future__ import annotations

from hasten.core.target import cpu_flags

_X86 = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
_ARM = frozenset({"asimddp", "i8mm"})


def integer_instructions() -> frozenset[str]:
    """Instruction sets of this CPU with dot products of bytes; empty: int8 is emulated in 16 bits."""
    return cpu_flags() & (_X86 | _ARM)
