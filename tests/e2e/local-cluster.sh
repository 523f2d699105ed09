#!/usr/bin/env bash
# Runs the end-to-end tests on a one-node cluster that a set of scripts brings up on this
# machine (build-tools.sh, images.sh, up.sh, dns-up.sh, argo-up.sh, load-image, enter, down.sh).
# Needs root. For any other cluster set KUBECONFIG and use `make e2e` with options of its own.
#
#   tests/e2e/local-cluster.sh                         all of what follows
#   tests/e2e/local-cluster.sh up                      a new cluster with the images, built from here
#   tests/e2e/local-cluster.sh test [PYTEST-OPTION…]   on the cluster that is up
#   tests/e2e/local-cluster.sh down                    end it; its images stay, for the next one
#   tests/e2e/local-cluster.sh purge                   end it and remove all that it has stored
# CLUSTER_SCRIPTS=… PYTHON=… choose others; WORKERS=… is how many tests run side by side.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
scripts=$(realpath "${CLUSTER_SCRIPTS:-$root/../shared/cluster}")
python=${PYTHON:-$root/.venv/bin/python}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dynamicverse-cluster
state=${CLUSTER_STATE:-$cache/state}
work=$state-e2e # what the tests share with the cluster
vllm=localhost/dynamicverse/vllm-cpu:e2e
export CLUSTER_STATE=$state PATH="$(dirname "$python"):$PATH" CONTAINERS_CONF=$work/containers.conf

export GOGC=${GOGC:-400} # of all parts of the cluster: here is more memory than there are cores

down() { # [--purge]
    "$scripts/down.sh" "$@" >/dev/null || echo "the cluster did not end cleanly: $scripts/down.sh" >&2
    rm -rf "$work"
}

start_cluster() {
    FAKE_GPUS=4 "$scripts/up.sh"
    "$scripts/dns-up.sh"
    "$work/start-controller"
}

up() {
    down # what an interrupted run has left
    mkdir -p "$work/node"
    chmod 755 "$work" # the pods' user passes through
    # containers where the kernel refuses rlimits or cgroup v2
    cat >"$CONTAINERS_CONF" <<'CONF'
[containers]
default_ulimits=["nofile=1024:1024","nproc=1024:1024"]
[engine]
runtime="runc"
cgroup_manager="cgroupfs"
CONF
    cat >"$work/start-controller" <<SH
#!/usr/bin/env bash
# the controller, told to run nothing but installed templates
set -euo pipefail
"$scripts/argo-up.sh"
map=workflow-controller-configmap
"$scripts/kubectl" -n argo get configmap \$map -o jsonpath='{.data.config}' >"$work/config"
echo 'workflowRestrictions: {templateReferencing: Strict}' >>"$work/config"
"$scripts/kubectl" -n argo create configmap \$map --from-file=config="$work/config" \
    --dry-run=client -o yaml | "$scripts/kubectl" apply -f - >/dev/null
SH
    cat >"$work/restart-controller" <<SH
#!/usr/bin/env bash
set -euo pipefail
(. "$scripts/lib.sh"; stop argo-controller 200)
"$work/start-controller"
SH
    chmod +x "$work"/*-controller

    "$scripts/build-tools.sh"
    "$scripts/images.sh"
    podman image exists localhost/base:bookworm ||
        podman load -q -i "${CLUSTER_TOOLS:-$cache/tools}/images/base.tar"
    start_cluster >"$work/cluster.log" 2>&1 & # while the images are built
    cluster=$!
    local start=$SECONDS names
    trap 'wait "$cluster" || true' EXIT # it must not go on starting while `down` ends it

    # this machine's certificates and pip settings reach the build, and stay out of the images
    local mounts=(-v /etc/ssl/certs:/etc/ssl/certs:ro)
    [ ! -f /etc/pip.conf ] || mounts+=(-v /etc/pip.conf:/etc/pip.conf:ro)
    "$python" "$root/images/build_images.py" --tag e2e --base-image localhost/base:bookworm \
        --torch cpu-test -- --network=host "${mounts[@]}"
    # stands on the torch image
    podman build --quiet --build-arg TORCH_IMAGE=localhost/dynamicverse/torch:e2e --tag "$vllm" \
        --network=host "${mounts[@]}" --file "$root/images/vllm-cpu/Dockerfile" "$root" >/dev/null
    [ -x "$root/build/tools/prometheus" ] || "$python" "$root/tests/get_tools.py" >/dev/null
    echo "images: $((SECONDS - start)) s"

    start=$SECONDS
    wait "$cluster" || { cat "$work/cluster.log" >&2; exit 1; }
    trap - EXIT
    names=$(cd "$root/images" && "$python" -c 'import build_images; print(*build_images.names("e2e"))')
    # shellcheck disable=SC2086
    "$python" "$here/missing_layers.py" \
        "$state"/ctd/*/io.containerd.content.v1.content/blobs/sha256 $names "$vllm" |
        "$scripts/load-image" /dev/stdin >/dev/null
    echo "images in the cluster: $((SECONDS - start)) s"
}

run_tests() {
    "$scripts/enter" "$python" -m pytest "$root/tests/e2e" -p no:cacheprovider --no-skips \
        --node-folder "$work/node" --vllm-image "$vllm" \
        --restart-controller-command "$work/restart-controller" \
        --stop-kubelet-command "kill -STOP $(cat "$state/pid/kubelet")" \
        --start-kubelet-command "kill -CONT $(cat "$state/pid/kubelet")" "$@"
}

case ${1:-all} in
up) up ;;
test) run_tests "${@:2}" ;;
down) down ;;
purge) down --purge ;;
all)
    trap down EXIT # quiet: pytest's summary stays the last line
    "$0" up
    # side by side: they mostly wait. In the order of conftest.py
    run_tests -n "${WORKERS:-6}" --dist loadfile --no-loadscope-reorder
    ;;
*) sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit 64 ;;
esac
