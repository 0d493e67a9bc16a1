"""A ceiling on the memory of a child process that opens an untrusted model."""

from __future__ import annotations

_SMALLEST_LIMIT_BYTES = 4 << 30


def limit_memory() -> None:
    """Let this process take no more memory than is free, so that a hostile model fails here and alone."""
    try:
        import resource
    except ImportError:  # not on this operating system; the parent still sees a process that was ended
        return
    import psutil

    allowed = max(_SMALLEST_LIMIT_BYTES, int(psutil.virtual_memory().available * 0.9))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY or allowed < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
