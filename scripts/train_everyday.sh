#!/bin/sh
# The default model, from a folder of sounds to a finished checkpoint: scripts/train_everyday.sh CORPUS RUN
# Each line goes on where it was stopped, if it is run again. On two CPU cores it takes some hours, on a GPU minutes.
set -eu
corpus=$1
run=$2
words=$(dirname "$0")/everyday_labels.txt

audiogen train --check "$corpus"
resume=""
if [ -e "$run/train.toml" ]; then resume=--resume; fi
# shellcheck disable=SC2086
audiogen train "$corpus" --out "$run" --preset everyday --set data.words="$words" $resume
