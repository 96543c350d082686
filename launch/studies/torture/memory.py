"""How much memory this process takes, by Linux."""

import re
from pathlib import Path

STATUS = Path("/proc/self/status")


def resident() -> int:
    """Bytes in memory now."""
    return _field("VmRSS")


def forget_peak() -> None:
    """Lets `peak` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes that were in memory since `forget_peak`."""
    return _field("VmHWM")


def _field(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"Linux tells no {name}"
    return int(found[1]) << 10
