#!/bin/sh
# Takes names of images (tools, cpu, serve, train), each after the one it is built on; builds them and prints their sizes.
# --push also pushes them, with provenance and a bill of materials, and pins each base by the digest it has now.
#
# DOCKER        the docker command                       REGISTRY     prefix of the names, without a slash at its end
# BASE_TOOLS    base of tools, by tag or digest          BASE_SERVE   base of serve; their Dockerfiles have the defaults
# PIP_CONF      a pip.conf for the build only            CA_BUNDLE    certificates for it: cert = /run/secrets/ca
# BUILD_ARGS    more options for docker build            SOURCE       the repository's address, for the label
set -eu
cd "$(dirname "$0")/.."

docker=${DOCKER:-docker}
prefix=${REGISTRY:+$REGISTRY/}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' polaris/__init__.py)
revision=$(git describe --always --exclude='*' --abbrev=40 --dirty 2>/dev/null || true)

push=
if [ "${1:-}" = --push ]; then
    push=yes
    shift
fi
if [ $# = 0 ]; then
    echo "usage: images.sh [--push] NAME..." >&2
    exit 2
fi

base_of() {
    case $1 in
    tools) chosen=${BASE_TOOLS:-} ;;
    serve) chosen=${BASE_SERVE:-} ;;
    cpu) chosen=${prefix}polaris-tools:$version ;;
    train) chosen=${prefix}polaris-serve:$version ;;
    *)
        echo "images: there is no image named $1; there are tools, cpu, serve and train" >&2
        exit 2
        ;;
    esac
    echo "${chosen:-$(sed -n 's/^ARG BASE=//p' "images/$1/Dockerfile")}"
}

build() {
    name=$1
    image=${prefix}polaris-$name:$version
    base=$(base_of "$name")
    if [ -n "$push" ] && [ "${base#*@}" = "$base" ]; then
        base=$base@$($docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$base")
    fi
    case $base in
    *@*) digest=${base#*@} ;;
    *) digest= ;;
    esac
    set -- --file "images/$name/Dockerfile" --tag "$image" --build-arg "BASE=$base" \
        --build-arg "BASE_DIGEST=$digest" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
        --build-arg "SOURCE=${SOURCE:-}"
    if [ "$name" = cpu ]; then
        set -- "$@" --build-arg "TORCH_INDEX=${POLARIS_TORCH_INDEX:-}"
    fi
    if [ -n "${PIP_CONF:-}" ]; then
        set -- "$@" --secret "id=pip_conf,src=$PIP_CONF"
    fi
    if [ -n "${CA_BUNDLE:-}" ]; then
        set -- "$@" --secret "id=ca,src=$CA_BUNDLE"
    fi
    echo "images: building $image on $base"
    # docker and BUILD_ARGS may be several words.
    # shellcheck disable=SC2086
    if [ -n "$push" ]; then
        $docker buildx build --push --provenance=mode=max --sbom=true ${BUILD_ARGS:-} "$@" .
    else
        DOCKER_BUILDKIT=1 $docker build ${BUILD_ARGS:-} "$@" .
        bytes=$($docker image inspect --format '{{.Size}}' "$image")
        echo "images: $image has $((bytes / 1000000)) MB"
    fi
}

for wanted in "$@"; do
    build "$wanted"
done
