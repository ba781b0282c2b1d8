"""Sample MCP server `demo/crm`: a small customer database with one tool of each effect, a prompt and a resource.

Run: `python -m controlplane.demo.crm --port 9101`. Started by the supervisor with `legation up --demo`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

DEFAULT_PORT = 9101


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """One person a company sells to."""

    id: str
    name: str
    company: str
    email: str
    stage: str


_CONTACTS = (
    Contact(id="c-1001", name="Amara Nwosu", company="Harbour Freight Lines", email="amara@harbourfreight.example", stage="customer"),
    Contact(id="c-1002", name="Jonas Lindqvist", company="Nordvik Robotics", email="jonas@nordvik.example", stage="trial"),
    Contact(id="c-1003", name="Mei Tanaka", company="Aoi Ceramics", email="mei@aoi.example", stage="lead"),
    Contact(id="c-1004", name="Rafael Ortega", company="Sol y Sal Foods", email="rafael@solysal.example", stage="customer"),
    Contact(id="c-1005", name="Priya Raman", company="Nordvik Robotics", email="priya@nordvik.example", stage="lead"),
)
_STAGES = ("lead", "trial", "customer", "former")


class Contacts:
    """The contacts of one server process, in memory."""

    def __init__(self) -> None:
        self._by_id = {contact.id: contact for contact in _CONTACTS}

    def search(self, text: str) -> list[dict[str, str]]:
        """Contacts whose name, company or e-mail holds `text`, whatever its case."""
        wanted = text.casefold()
        return [asdict(c) for c in self._by_id.values() if wanted in f"{c.name} {c.company} {c.email}".casefold()]

    def update(self, contact_id: str, *, email: str | None, stage: str | None) -> dict[str, str]:
        """Change what is given, keep the rest."""
        contact = self._existing(contact_id)
        if stage is not None and stage not in _STAGES:
            raise ToolError(f"stage must be one of {', '.join(_STAGES)}")
        changed = replace(contact, email=email or contact.email, stage=stage or contact.stage)
        self._by_id[contact_id] = changed
        return asdict(changed)

    def delete(self, contact_id: str) -> dict[str, str]:
        """Forget a contact for good and say who it was."""
        contact = self._existing(contact_id)
        del self._by_id[contact_id]
        return asdict(contact)

    def _existing(self, contact_id: str) -> Contact:
        contact = self._by_id.get(contact_id)
        if contact is None:
            raise ToolError(f"there is no contact {contact_id}")
        return contact


def build_crm() -> MCPServer[object]:
    """A fresh server with its own copy of the data."""
    contacts = Contacts()
    mcp_server: MCPServer[object] = MCPServer(
        "crm", title="Customer relations", version="1.0.0", instructions="Contacts of the sales team.", log_level="WARNING"
    )

    @mcp_server.tool(title="Search contacts", annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    async def search_contacts(text: str = "") -> list[dict[str, str]]:
        """Find contacts by a part of their name, company or e-mail; an empty text lists all."""
        return contacts.search(text)

    @mcp_server.tool(
        title="Update a contact",
        annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False),
    )
    async def update_contact(contact_id: str, email: str | None = None, stage: str | None = None) -> dict[str, str]:
        """Change a contact's e-mail or sales stage (lead, trial, customer, former)."""
        return contacts.update(contact_id, email=email, stage=stage)

    @mcp_server.tool(
        title="Delete a contact", annotations=ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
    )
    async def delete_contact(contact_id: str) -> dict[str, str]:
        """Delete a contact for good."""
        return contacts.delete(contact_id)

    @mcp_server.prompt(title="Follow-up e-mail")
    def follow_up(contact_name: str) -> str:
        """Ask for a short follow-up e-mail to a contact."""
        return f"Write a friendly follow-up e-mail of at most 80 words to {contact_name}."

    @mcp_server.resource("crm://stages", title="Sales stages", mime_type="text/plain")
    def stages() -> str:
        """The stages a contact can be in, in order."""
        return "\n".join(_STAGES)

    @mcp_server.resource("crm://contacts/{contact_id}", title="One contact", mime_type="application/json")
    def contact(contact_id: str) -> list[dict[str, str]]:
        """One contact by its id."""
        return [found for found in contacts.search("") if found["id"] == contact_id]

    return mcp_server


def main() -> int:
    """Serve until SIGTERM."""
    from controlplane.demo.serving import serve  # noqa: PLC0415 - only a process that serves needs uvicorn

    return serve(build_crm, default_port=DEFAULT_PORT)


if __name__ == "__main__":
    sys.exit(main())
