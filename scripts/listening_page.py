"""A page of a folder's sounds to look at and listen to: spectrograms, captions and players.

    python scripts/listening_page.py SOUNDS [--out PAGE_FOLDER] [--title TITLE]

Captions come from the sounds' own recipes, a text file beside them, or metadata.csv; sounds of one caption (several
seeds) stand side by side. The page holds no script and refers to the sounds by relative paths.
"""

import argparse
import os
from pathlib import Path

from audiogen.evaluate.clips import find_clips, read
from audiogen.plot import Sound, write_page, write_spectrogram


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sounds", type=Path)
    parser.add_argument("--out", type=Path, help="where index.html and pictures/ go (default: beside the sounds)")
    parser.add_argument("--title", default="Sounds")
    args = parser.parse_args()
    out = args.out or args.sounds
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Sound]] = {}
    for i, clip in enumerate(find_clips(args.sounds)):
        picture = out / "pictures" / f"{i:04d}.png"
        write_spectrogram(picture, *read(clip.path), title=clip.caption or clip.name)
        sound = Sound(clip.name, os.path.relpath(clip.path, out), picture.relative_to(out).as_posix())
        rows.setdefault(clip.caption or clip.name, []).append(sound)
    write_page(out / "index.html", args.title, list(rows.items()))
    print(out / "index.html")


if __name__ == "__main__":
    main()
