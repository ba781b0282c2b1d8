"""Tools of a made-up fleet, and tasks with the tools that are right for them: what `find_tool` is measured with. See README.md."""
