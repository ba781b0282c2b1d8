"""Sample MCP server `demo/engineering-db`: a read-only SQL tool and a destructive one over a small in-memory database.

Run: `python -m controlplane.demo.engineering_db --port 9102`. Started by the supervisor with `legation up --demo`.
"""

from __future__ import annotations

import sqlite3
import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

DEFAULT_PORT = 9102
_MAX_ROWS = 200
_MAX_STEPS = 200_000  # SQLite virtual machine instructions per query, so that no query runs for ever
_SCHEMA = """
CREATE TABLE services (name TEXT PRIMARY KEY, team TEXT, tier INTEGER);
CREATE TABLE deployments (id INTEGER PRIMARY KEY, service TEXT, commit_hash TEXT, deployed_at TEXT, outcome TEXT);
CREATE TABLE incidents (id INTEGER PRIMARY KEY, service TEXT, severity INTEGER, opened_at TEXT, summary TEXT);
INSERT INTO services VALUES ('checkout', 'payments', 1), ('catalogue', 'storefront', 2), ('mailer', 'growth', 3);
INSERT INTO deployments VALUES
  (1, 'checkout', '9f2c1ab', '2026-11-02T09:14:00Z', 'ok'), (2, 'catalogue', '77d0e3c', '2026-11-03T13:40:00Z', 'ok'),
  (3, 'checkout', 'b41e90d', '2026-11-09T16:02:00Z', 'rolled back'), (4, 'mailer', '0c5a7ee', '2026-11-12T08:21:00Z', 'ok');
INSERT INTO incidents VALUES
  (1, 'checkout', 1, '2026-11-09T16:05:00Z', 'Card payments time out'), (2, 'mailer', 3, '2026-11-13T11:30:00Z', 'Duplicate newsletters');
"""
_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})


class Database:
    """An SQLite database in memory that reads under an authorizer of SQLite's own and writes through `drop_table` only."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.executescript(_SCHEMA)
        self._steps = 0

    def query(self, sql: str) -> list[dict[str, str | int | float | None]]:
        """Rows of one SELECT; anything but reading is refused by SQLite itself."""
        self._steps = 0
        self._connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY)
        self._connection.set_progress_handler(self._stop_when_long, 1000)
        try:
            cursor = self._connection.execute(sql)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchmany(_MAX_ROWS)]
        except sqlite3.Error as error:
            raise ToolError(f"the query failed: {error}") from error
        finally:
            self._connection.set_authorizer(None)
            self._connection.set_progress_handler(None, 0)

    def tables(self) -> list[str]:
        """Names of the tables that exist."""
        return [row[0] for row in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]

    def drop(self, table: str) -> None:
        """Remove a table and its rows for good."""
        if table not in self.tables():
            raise ToolError(f"there is no table {table}")
        self._connection.execute(f'DROP TABLE "{table}"')  # the name was found among the existing ones

    def _stop_when_long(self) -> int:
        self._steps += 1000
        return int(self._steps > _MAX_STEPS)


def build_engineering_db() -> MCPServer[object]:
    """A fresh server with its own copy of the data."""
    database = Database()
    mcp_server: MCPServer[object] = MCPServer(
        "engineering-db",
        title="Engineering database",
        version="1.0.0",
        instructions="Services, deployments and incidents of the engineering department.",
        log_level="WARNING",
    )

    @mcp_server.tool(title="Query", annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    async def query(sql: str) -> list[dict[str, str | int | float | None]]:
        """Run one SELECT on the tables services, deployments and incidents (at most 200 rows)."""
        return database.query(sql)

    @mcp_server.tool(title="Drop a table", annotations=ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False))
    async def drop_table(table: str) -> str:
        """Remove a table and everything in it."""
        database.drop(table)
        return f"table {table} is gone"

    @mcp_server.resource("engineering://tables", title="Tables", mime_type="text/plain")
    def tables() -> str:
        """The tables of the database."""
        return "\n".join(database.tables())

    return mcp_server


def main() -> int:
    """Serve until SIGTERM."""
    from controlplane.demo.serving import serve  # noqa: PLC0415 - only a process that serves needs uvicorn

    return serve(build_engineering_db, default_port=DEFAULT_PORT)


if __name__ == "__main__":
    sys.exit(main())
