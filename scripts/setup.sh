#!/bin/sh
# Takes environment.py's options; finds (as root on Debian: installs) a system Python and runs environment.py with it.
# POSIX sh, because it must run where there is no Python yet.
set -eu

here=$(dirname "$0")

# As root the environment serves other users and containers too, and those cannot read below /root.
suitable() {
    command -v "$1" >/dev/null 2>&1 && "$1" -I -c '
import os, sys
home = os.path.realpath(sys.base_prefix) + "/"
sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 14) and (os.getuid() or not home.startswith("/root/"))))' 2>/dev/null
}

choose() {
    for candidate in /usr/bin/python3 python3.13 python3.12 python3.11 python3.14 python3; do
        if suitable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

python=$(choose)
if [ -z "$python" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "setup: installing python3 with apt-get"
    { apt-get update -qq && apt-get install -y -qq python3 python3-venv; } >/dev/null
    python=$(choose)
fi
if [ -z "$python" ]; then
    echo "setup: no Python 3.11 or newer was found; install one (on Debian or Ubuntu:" \
        "sudo apt-get install python3 python3-venv) and run the command again" >&2
    exit 2
fi
exec "$python" -sE "$here/environment.py" "$@"
