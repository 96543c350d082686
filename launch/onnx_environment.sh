#!/usr/bin/env bash
# Makes an environment for launch.export_onnx: all that ssd_jax needs, jax2onnx, and onnxruntime, on CPUs.
#
#   bash launch/onnx_environment.sh FOLDER [PYTHON]
#
# One pip cannot: jax2onnx asks for orbax-checkpoint < 0.11.37, which it does not use, and ssd_jax for >= 0.12. So they are
# installed one after the other; pip warns of the disagreement, and ssd_jax's checkpoints get theirs.
set -euo pipefail
folder=${1:?a folder for the environment} python=${2:-python3} root=$(dirname "$0")/..
"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet 'jax2onnx==0.17.1' 'onnxruntime>=1.24'
"$folder/bin/pip" install --quiet -r "$root/requirements.txt"
PYTHONPATH=$root "$folder/bin/python" -c 'import jax2onnx, onnxruntime, ssd_jax'
