"""The era bridge: every client of both protocol eras can use every member of any. `bridge` is the way in; docs/eras.md says what happens.

bridge ──▶ one passage per combination ──▶ modern_member | legacy_session ──▶ channel ──▶ Envoy's egress listener ──▶ the member
"""
