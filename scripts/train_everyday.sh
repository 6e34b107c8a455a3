#!/bin/sh
# The default model, from a folder of sounds to packed weights: scripts/train_everyday.sh CORPUS RUN PACKED [--set KEY=VALUE ...]
# It goes on where it was stopped, if it is run again with the same words. The preset is for a GPU. The sentence encoder is the
# one that ships with the model, and is taught at last.
set -eu
corpus=$1
run=$2
packed=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)

audiogen train --check "$corpus"
resume=""
if [ -e "$run/train.toml" ]; then resume=--resume; fi
# shellcheck disable=SC2086
audiogen train "$corpus" --out "$run" --preset everyday --set text="${here%/*}/checkpoints/everyday/text" \
    --set data.words="$here/everyday_labels.txt" "$@" $resume
python "$here/pack_model.py" "$run" "$packed"
