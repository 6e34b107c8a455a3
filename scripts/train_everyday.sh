#!/bin/sh
# The default model, from a folder of sounds to packed weights: scripts/train_everyday.sh CORPUS RUN PACKED [--set KEY=VALUE ...]
# It goes on where it was stopped, if it is run again with the same words. The preset is for a GPU. The sentence encoder is the
# one that ships with the model, and is taught at last; then the U-Net learns from it as it is now, and from the clips that are
# typical of their label more than from others, and the encoder from that U-Net.
set -eu
corpus=$1
run=$2
packed=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
text=${here%/*}/checkpoints/everyday/text

learn() {                                                        # FOLDER [OPTION ...]
    out=$1
    shift
    if [ -e "$out/train.toml" ]; then set -- "$@" --resume; fi
    audiogen train "$corpus" --out "$out" --preset everyday --set text="$text" --set data.words="$here/everyday_labels.txt" "$@"
}

audiogen train --check "$corpus"
learn "$run" "$@"
if [ ! -e "$run/weights.csv" ]; then
    python "$here/typical.py" "$corpus" "$run/weights.part" --model "$run"
    mv "$run/weights.part" "$run/weights.csv"
fi
learn "$run/again" --init "$run" --stage diffusion --stage wording --set data.weights="$run/weights.csv" "$@"
python "$here/pack_model.py" "$run/again" "$packed"
