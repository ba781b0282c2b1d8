#!/bin/sh
# check_messages.sh PYTHON: fail when the generated messages in the tree are not what protos/ generates.
set -eu
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
sh deploy/generate_messages.sh "$1" "$fresh"
stale=0
for file in $(cd "$fresh" && find . -name '*_pb2.py*' | LC_ALL=C sort); do
    diff -u "$file" "$fresh/$file" || stale=1
done
for file in $(find extauthz controlplane -name '*_pb2.py' | LC_ALL=C sort); do
    [ -f "$fresh/$file" ] || { echo "$file has no .proto any more; remove it and its .pyi" >&2; stale=1; }
done
[ "$stale" = 0 ] || { echo "Generated messages differ from protos/: run 'make protos' and commit the result." >&2; exit 1; }
