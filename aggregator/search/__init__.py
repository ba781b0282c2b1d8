"""Search among the tools of a virtual server, for `mode: search`: `tools` are the two tools, `index` the ranking (docs/search.md).

    word ──▶ concept ──▶ index ──▶ definition, tools

An index belongs to the definitions of one virtual server at one revision and is the same for everybody; whoever asks it says which
tools the caller may see (`extauthz.effective_view`), and only those are found.
"""
