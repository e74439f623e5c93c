"""How a demo speaks: sections, what was said, and claims, each checked before it is printed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_PIPE_WIDTH = 140


class Show:
    """Prints for a reader and remembers what did not hold."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = _PIPE_WIDTH
        self.claims = 0
        self.failed: list[str] = []

    def section(self, title: str, what: str = "") -> None:
        self.console.print()
        self.console.rule(f"[bold]{escape(title)}", align="left")
        if what:
            self.console.print(f"[dim]{escape(what)}[/dim]\n")

    def say(self, text: str) -> None:
        self.console.print(escape(text))

    def piece(self, text: str) -> None:
        """Print a part of a line, as it comes."""
        self.console.print(escape(text), end="", style="cyan", soft_wrap=True)

    def claim(self, what: str, holds: bool) -> bool:
        """Print a claim and whether it holds."""
        self.claims += 1
        if not holds:
            self.failed.append(what)
        mark = "[green]✓[/green]" if holds else "[bold red]✗[/bold red]"
        self.console.print(f"{mark} {escape(what)}")
        return holds

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(*columns, box=None, header_style="bold", padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*map(escape, row))
        self.console.print(table)

    def end(self) -> int:
        """Print the sum; returns the exit status."""
        self.section("Result")
        for what in self.failed:
            self.console.print(f"[bold red]✗[/bold red] {escape(what)}")
        self.console.print(f"{self.claims - len(self.failed)} of {self.claims} claims hold")
        return 1 if self.failed else 0
