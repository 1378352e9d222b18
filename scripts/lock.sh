#!/bin/sh
# Takes pyproject.toml and requirements/*.in; writes the lock files. UPGRADE=1 takes the newest releases, else pins stay
# where they still satisfy what is asked.
set -eu

cd "$(dirname "$0")/.."

compile() {
    .venv/bin/python -m piptools compile --quiet --no-header --strip-extras ${UPGRADE:+--upgrade} \
        --no-emit-index-url --no-emit-find-links --no-emit-trusted-host "$@"
}

# vLLM asks for these four and serves text without them; torchvision of another build even breaks its start.
stack() {
    compile --unsafe-package torchvision --unsafe-package torchaudio --unsafe-package torchcodec \
        --unsafe-package triton --extra report --extra train "$@" \
        --output-file requirements/cpu.txt pyproject.toml requirements/cpu.in
}

echo "lock: resolving requirements/cpu.txt"
stack 2>/dev/null || stack --extra-index-url "$POLARIS_TORCH_INDEX"
echo "lock: resolving requirements/test.txt"
compile --allow-unsafe --output-file requirements/test.txt requirements/test.in
