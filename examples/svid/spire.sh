#!/bin/sh
# A SPIRE server, an agent, and who is who: `sh spire.sh DIRECTORY`, in this folder, until it is stopped.
# DIRECTORY is short and yours alone: a Unix socket's path has 107 characters, and whoever can write there can be anybody.
# ENVOY and WORKLOAD are the paths of the two programs that get an identity. At the end of the start DIRECTORY/ready is there.
set -eu
export SPIRE_DIR="$1" SPIRE_PORT="${SPIRE_PORT:-8081}" BUNDLE_PORT="${BUNDLE_PORT:-8443}"
server='' agent=''
trap 'kill $server $agent 2>/dev/null; wait' EXIT
trap 'exit 0' INT TERM

until_healthy() { # PROGRAM SOCKET PID
    until "$1" healthcheck -socketPath "$2" >/dev/null 2>&1; do
        kill -0 "$3" || exit 1
        sleep 0.2
    done
}

spire-server run -config server.conf -expandEnv &
server=$!
until_healthy spire-server "$SPIRE_DIR/server.sock" $server
spire-server bundle show -socketPath "$SPIRE_DIR/server.sock" -format pem >"$SPIRE_DIR/bundle.pem"
spire-server bundle show -socketPath "$SPIRE_DIR/server.sock" -format spiffe >"$SPIRE_DIR/bundle.json"

# The agent joins with a token that is good once; every agent of this host is spiffe://prod.example/host.
JOIN_TOKEN=$(spire-server token generate -socketPath "$SPIRE_DIR/server.sock" -spiffeID spiffe://prod.example/host | sed 's/^Token: //')
export JOIN_TOKEN
spire-agent run -config agent.conf -expandEnv &
agent=$!
until_healthy spire-agent "$SPIRE_DIR/agent.sock" $agent

# Whoever runs Envoy's program is the gateway; whoever runs the workload's is the buyer.
spire-server entry create -socketPath "$SPIRE_DIR/server.sock" -parentID spiffe://prod.example/host \
    -spiffeID spiffe://prod.example/gateway -selector "unix:path:$ENVOY" -dns localhost
spire-server entry create -socketPath "$SPIRE_DIR/server.sock" -parentID spiffe://prod.example/host \
    -spiffeID spiffe://prod.example/agents/buyer -selector "unix:path:$WORKLOAD"

touch "$SPIRE_DIR/ready"
wait
