#!/bin/sh
# generate_messages.sh PYTHON DIRECTORY: compile protos/ into DIRECTORY/extauthz/{v1,wire}.
set -eu
python=$1
directory=$2
find protos -name '*.proto' | LC_ALL=C sort | xargs "$python" -m grpc_tools.protoc -Iprotos --python_out="$directory" --pyi_out="$directory"
