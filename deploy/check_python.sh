#!/bin/sh
# Says in one sentence what a fresh machine lacks before anything is installed.
set -eu
python=${1:-}
if [ -z "$python" ] || ! command -v "$python" >/dev/null 2>&1; then
    echo "Legation needs Python 3.11 or newer and found none. Debian and Ubuntu: sudo apt install python3 python3-venv" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Legation needs Python 3.11 or newer; $python is $("$python" -c 'import platform; print(platform.python_version())'). Name another with: make PYTHON=python3.12 ..." >&2
    exit 1
fi
if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$python has no 'venv' module. Debian and Ubuntu: sudo apt install python$version-venv (or python3-venv); Fedora: sudo dnf install python3" >&2
    exit 1
fi
