"""Keep the replies of chat endpoints in an SQLite file."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from selfexplain.errors import SelfExplainError


@dataclass(frozen=True)
class ReplyCache:
    """A file that maps keys to replies.

    Attributes:
        path: SQLite file; it is created when it is first used.
    """

    path: Path

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for reading and writing.

        Raises:
            SelfExplainError: the file exists and is not a cache of replies.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = sqlite3.connect(self.path)
            connection.execute("PRAGMA journal_mode=WAL")  # so that writing a reply does not wait for the disk
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT)")
        except sqlite3.Error as error:
            raise SelfExplainError(f"{self.path} is not a cache of replies ({error}). Delete the file.") from error
        with closing(connection):
            yield connection

    def read(self, keys: Iterable[str]) -> dict[str, str]:
        """The replies of those keys that the file contains."""
        with self.open() as connection:
            rows = (
                connection.execute("SELECT key, reply FROM replies WHERE key = ?", (key,)).fetchone() for key in keys
            )
            return dict(row for row in rows if row)


def write_reply(connection: sqlite3.Connection, key: str, reply: str) -> None:
    """Write one reply, replacing an earlier one of the same key."""
    with connection:
        connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, reply))
