#!/bin/sh
# The worker's container: `nanochat up` with servers that run elsewhere, in the foreground; on SIGTERM runs save and end.
set -eu

: "${PREFECT_API_URL:?the address of the Prefect server, for example http://prefect:4200/api}"
: "${MLFLOW_TRACKING_URI:?the address of the MLflow server, for example http://mlflow:5000}"

log=
trap 'nanochat down; if [ "$log" ]; then kill "$log"; fi; exit 0' TERM INT
nanochat up
tail -F "${NANOCHAT_BASE_DIR:?}/node/worker.log" &
log=$!
wait "$log"
