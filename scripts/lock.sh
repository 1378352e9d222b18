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
        --unsafe-package triton --extra report --extra train --extra cluster "$@" \
        --output-file requirements/cpu.txt pyproject.toml requirements/cpu.in
}

echo "lock: resolving requirements/cpu.txt"
stack 2>/dev/null || stack --extra-index-url "$POLARIS_TORCH_INDEX"
lock() {
    name=$1
    shift
    echo "lock: resolving requirements/$name.txt"
    compile --output-file "requirements/$name.txt" "$@" "requirements/$name.in"
}

lock test --allow-unsafe
echo "lock: resolving requirements/vision.txt"
vision() {
    compile --unsafe-package torch "$@" --output-file requirements/vision.txt requirements/vision.in
}
vision 2>/dev/null || vision --extra-index-url "$POLARIS_TORCH_INDEX"
lock cluster
# The images' locks. Those of serve and train are for CUDA, whose packages need no CUDA to be resolved.
lock build --allow-unsafe
lock tools --extra report --extra cluster --extra hub pyproject.toml
lock serve --allow-unsafe --extra serve pyproject.toml
lock train --allow-unsafe --extra serve --extra train pyproject.toml
