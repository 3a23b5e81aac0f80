"""Pages that keep figures between two marks, and tables on them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline.report import versions


def frame(section: str, page: Path) -> tuple[str, str]:
    """What stands on a page before and after the figures of a section."""
    first, last = f"<!-- bench {section} -->", f"<!-- /bench {section} -->"
    text = page.read_text() if page.exists() else f"# Performance\n\n{first}\n{last}\n"
    if first not in text or last not in text:
        sys.exit(f"scripts/bench: {page} has no lines {first} and {last}, between which the figures belong")
    return text.split(first)[0] + first, last + text.split(last)[1]


def publish(section: str, text: str, page: Path | None) -> None:
    """Print what was measured, and put it in its section of a page."""
    print(text)
    if page is not None:
        before, after = frame(section, page)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"{before}\n\n{text}\n\n{after}")


def machine() -> str:
    """The processor, the versions and the day, in one line."""
    names = ("python", "torch", "numpy", "pyarrow")
    found = versions()
    software = ", ".join(f"{name} {found[name]}" for name in names)
    return f"{_processor()}, {found['cpus']} cores; {platform.platform()}; {software}; {datetime.now(UTC):%Y-%m-%d}"


def _processor() -> str:
    with Path("/proc/cpuinfo").open() as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Markdown; the first columns are words, the others figures."""
    rule = [*["---"] * words, *["---:"] * (len(header) - words)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])
