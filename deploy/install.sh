#!/bin/sh
# install.sh PYTHON REQUIREMENT: an editable pip install that shows one line per package and its whole log when it fails.
# pip compiles what it copies to bytecode; our own sources stay where they are and are compiled here, so that no start has to.
set -eu
python=$1
requirement=$2
log=$(mktemp)
status=$(mktemp)
trap 'rm -f "$log" "$status"' EXIT
{
    "$python" -m pip install --disable-pip-version-check --progress-bar off -e "$requirement" 2>&1 && echo installed >"$status"
} | tee "$log" | awk '
    /^ *(Collecting|Downloading|Installing collected)/ {
        name = $2; sub(/^.*\//, "", name); sub(/[<>=!~;\[(].*$/, "", name); sub(/-[0-9].*$/, "", name)
        name = tolower(name); gsub(/_/, "-", name)
        if ($1 == "Installing") { print "  installing the packages ..."; fflush(); next }
        if (name != "" && !(name in seen)) { seen[name] = 1; printf "  %3d  %s\n", ++count, name; fflush() }
    }'
if [ ! -s "$status" ]; then
    cat "$log" >&2
    echo "The installation failed; pip's own words stand above. Without a network, set PIP_INDEX_URL or PIP_FIND_LINKS to your mirror." >&2
    exit 1
fi
sources=$(dirname "$0")/..
"$python" -m compileall -q "$sources/controlplane" "$sources/extauthz" "$sources/aggregator" >/dev/null 2>&1 || true # only a start is slower without
