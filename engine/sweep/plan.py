"""A plan is data: commands that may be run by anything, each idempotent, and their dependencies."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """One process.

    Attributes:
        name: unique in its plan, such as `rgbd-seed42/fold0`.
        argv: the words behind `python -m engine`.
        run: the run or blend that it works on; None where it works on several.
        after: names of the commands that have to be done before.
        fold: the fold that it trains; None where it does something else.
        leaves: the file that it writes, where that is not in `run`.
    """

    name: str
    argv: tuple[str, ...]
    run: Path | None = None
    after: tuple[str, ...] = ()
    fold: int | None = None
    leaves: Path | None = None


class Plan:
    """Commands in an order in which each stands behind those that it depends on.

    Raises ValueError where a name is there twice, or a command depends on one behind it.
    """

    def __init__(self, commands: Iterable[Command]) -> None:
        self.commands = tuple(commands)
        self._by_name: dict[str, Command] = {}
        for command in self.commands:
            if command.name in self._by_name:
                raise ValueError(f"two commands are called {command.name}")
            for name in command.after:
                if name not in self._by_name:
                    raise ValueError(f"{command.name} depends on {name}, which is not before it")
            self._by_name[command.name] = command

    def __len__(self) -> int:
        return len(self.commands)

    def __iter__(self) -> Iterator[Command]:
        return iter(self.commands)

    def __getitem__(self, name: str) -> Command:
        return self._by_name[name]

    def stages(self) -> list[list[Command]]:
        """The commands by the length of the longest chain before them.

        Those of a stage depend on none of it, so it may run all at once.
        """
        depth: dict[str, int] = {}
        stages: list[list[Command]] = []
        for command in self.commands:
            at = depth[command.name] = max((depth[name] + 1 for name in command.after), default=0)
            stages += [[]] * (at == len(stages))
            stages[at] = [*stages[at], command]
        return stages

    def dependents(self, name: str) -> list[str]:
        """Names of all commands that cannot run unless one is done, in the plan's order."""
        lost = {name}
        for command in self.commands:
            if lost.intersection(command.after):
                lost.add(command.name)
        return [command.name for command in self.commands if command.name in lost - {name}]
