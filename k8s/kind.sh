#!/bin/sh
# Takes the images of `make images-cpu`; gives a kind cluster named polaris in which the try-out run is under way.
# May be run again: what is there already is brought up to date. KIND names another kind than the one on PATH.
set -eu
cd "$(dirname "$0")/.."

kind=${KIND:-kind}
tools=$POLARIS_CACHE/cluster-tools/bin
context="kind-polaris"
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' polaris/__init__.py)

for needed in docker "$kind"; do
    if ! command -v "$needed" >/dev/null 2>&1; then
        echo "kind: $needed is not installed, and this needs it" >&2
        exit 2
    fi
done

if ! "$kind" get clusters 2>/dev/null | grep -qx polaris; then
    "$kind" create cluster --config k8s/kind.yaml --wait 180s
fi
"$kind" load docker-image --name polaris "polaris-tools:$version" "polaris-cpu:$version"

"$tools/kubectl" --context "$context" apply -f k8s/namespace.yaml
"$tools/helm4" upgrade --install polaris charts/polaris --kube-context "$context" --namespace polaris

cat <<TEXT

The run has started. To watch it, and to fetch its report at the end:
  export KUBECONFIG=\$(mktemp) && $kind get kubeconfig --name polaris >"\$KUBECONFIG"
  .venv/bin/polaris status --release polaris -n polaris --watch
  .venv/bin/polaris report --release polaris -n polaris
To remove everything: $kind delete cluster --name polaris
TEXT
