"""Registered clients of the authorization server: who they are, where answers may go, and how they prove themselves.

    client_id ─▶ directory ─┬─ static (the entry names them)
                            ├─ metadata_document (the client_id is an https URL)
                            └─ store (dynamic registration, RFC 7591)
    token request ─▶ authentication ─▶ RegisteredClient

Nothing here knows grants, codes or consent: those are the rest of the authorization server.
"""
