#!/bin/bash
# Trains on a Cloud TPU, one VM or a slice of many, asked for as a queued resource. The same again goes on, also after a spot
# TPU was taken away (then delete the queued resource first).
#
#   ZONE=us-west4-a IMAGE=REGISTRY/ssd_jax:tpu \
#       launch/cluster/tpu.sh NAME v5litepod-16 --config openmoji64 --workdir gs://BUCKET/x
#
# With DISK=FILESTORE:/share, an NFS share is mounted at /runs in every VM.
set -euo pipefail
: "${ZONE:?the zone of the TPU}" "${IMAGE:?an image of launch/cluster/Dockerfile with EXTRA=tpu}"
name=$1 kind=$2
shift 2
tpus=(gcloud compute tpus)
here=(--zone "$ZONE")

state() { "${tpus[@]}" queued-resources describe "$name" "${here[@]}" --format 'value(state.state)'; }
state >/dev/null 2>&1 || "${tpus[@]}" queued-resources create "$name" "${here[@]}" --node-id "$name" --spot \
    --accelerator-type "$kind" --runtime-version "${RUNTIME:-v2-alpha-tpuv5-lite}"
while found=$(state) && [[ $found != ACTIVE ]]; do
    if [[ $found =~ FAILED|SUSPEND ]]; then
        echo "error: the queued resource $name is $found; delete it, and run the same again" >&2
        exit 1
    fi
    sleep "${POLL:-30}"
done
[[ $found == ACTIVE ]] # gcloud has said why it is not

"${tpus[@]}" tpu-vm ssh "$name" "${here[@]}" --worker all --command "set -e
    sudo mkdir -p /runs
    ${DISK:+sudo apt-get install -qq nfs-common; mountpoint -q /runs || sudo mount $DISK /runs}
    sudo docker run --rm --privileged --network host --volume /runs:/runs --env XDG_CACHE_HOME=/runs/cache $IMAGE train $(printf '%q ' "$@")"
