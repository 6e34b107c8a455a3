"""Words of a prompt and the tokens that carry them: weights, as in "a (loud:1.6) bell", and pairs of prompts."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from audiogen.errors import SettingsError

WEIGHT = re.compile(r"\(([^():]+):\s*([-+]?\d*\.?\d+)\s*\)")
MAX_WEIGHT = 10.0
MARKS = ("##", "\u2581", "\u0120")                               # with which tokenizers begin or join pieces of words
WORD = re.compile(r"\w+(?:[-'\u2019.]\w+)*")                      # without the punctuation around it
Place = tuple[int, int]                                          # characters [begin, end) of a prompt


@dataclass(frozen=True)
class Weighted:
    """A prompt without its weights, and where they stood."""

    prompt: str
    places: tuple[tuple[int, int, float], ...]                   # characters [begin, end), weight


def read_weights(text: str) -> Weighted:
    """Take the weights out of a prompt: "a (loud:1.6) bell" is "a loud bell", its word "loud" 1.6 times as strong.

    Raises SettingsError for a weight that is out of range.
    """
    plain, places, done = "", [], 0
    for match in WEIGHT.finditer(text):
        words, weight = match[1].strip(), float(match[2])
        if not 0 <= weight <= MAX_WEIGHT:
            raise SettingsError(f"The weight in '{match[0]}' (character {match.start() + 1} of the prompt) is out of range; "
                                f"give 0 to {MAX_WEIGHT:g}.")
        plain += text[done : match.start()]
        places.append((len(plain), len(plain) + len(words), weight))
        plain, done = plain + words, match.end()
    return Weighted(plain + text[done:], tuple(places))


def locate(tokens: Sequence[str], prompt: str) -> list[Place | None]:
    """Where each token stands in the prompt; None for those that the tokenizer added."""
    text, at = _fold(prompt), 0
    found: list[Place | None] = []
    for token in tokens:
        piece = _fold(token.strip())
        for mark in MARKS:
            piece = piece.removeprefix(mark)
        begin = text.find(piece, at) if piece else -1
        if begin < 0 or len(text[at:begin].strip()) > 2:         # two characters may have no token of their own
            found.append(None)
            continue
        found.append((begin, begin + len(piece)))
        at = begin + len(piece)
    return found


def _fold(text: str) -> str:
    """Lower case without accents, as long as before."""
    return "".join((unicodedata.normalize("NFKD", c) or c)[0].lower()[0] for c in text)


def token_weights(weighted: Weighted, tokens: Sequence[str]) -> list[float]:
    """A weight for each token. Raises SettingsError where no token carries the words that have one."""
    places, weights = locate(tokens, weighted.prompt), [1.0] * len(tokens)
    for begin, end, weight in weighted.places:
        inside = [i for i, place in enumerate(places) if place is not None and place[0] < end and place[1] > begin]
        if not inside:
            raise SettingsError(f"The words '{weighted.prompt[begin:end]}' have a weight, but this model's text encoder does "
                                "not read that far; shorten the prompt.")
        for i in inside:
            weights[i] = weight
    return weights


def tokens_of_words(tokens: Sequence[str], prompt: str) -> list[tuple[str, list[int]]]:
    """Each word of a prompt, and which tokens carry it; those that no token carries are left out."""
    places = list(enumerate(locate(tokens, prompt)))
    words = [(match[0], [i for i, place in places if place is not None and match.start() <= place[0] < match.end()])
             for match in WORD.finditer(prompt)]
    return [(word, carriers) for word, carriers in words if carriers]


def align(source: str, target: str, source_tokens: Sequence[str], target_tokens: Sequence[str],
          lengths: tuple[int, int]) -> list[list[float]]:
    """Which tokens of one prompt stand where which of the other do: (L, L'), `lengths`, columns that add up to 1 or are 0.

    A word that is exchanged stands in the other's place. Positions beyond the tokens (padding) match in order. Raises
    SettingsError if the prompts have no word in common.
    """
    a, b = (re.findall(r"\S+", _fold(text)) for text in (source, target))
    blocks = difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes()
    if not any(kind == "equal" for kind, *_ in blocks):
        raise SettingsError(f"'{source}' and '{target}' have no word in common, so their words cannot be aligned; "
                            "keep the words around the one that is exchanged.")
    matrix = [[0.0] * lengths[1] for _ in range(lengths[0])]
    groups = _words(source_tokens, source), _words(target_tokens, target)
    for kind, i, i_end, j, j_end in blocks:
        if kind == "equal":
            pairs = list(zip(range(i, i_end), range(j, j_end), strict=True))
            for p, q in pairs:
                _join(matrix, groups[0].get(p, []), groups[1].get(q, []))
        elif kind == "replace":
            _join(matrix, [t for w in range(i, i_end) for t in groups[0].get(w, [])],
                  [t for w in range(j, j_end) for t in groups[1].get(w, [])])
    for p, q in _rest(groups, (len(source_tokens), len(target_tokens)), lengths):
        matrix[p][q] = 1.0
    return matrix


def _words(tokens: Sequence[str], prompt: str) -> dict[int, list[int]]:
    """The tokens of each word of the prompt, by the word's number."""
    words = [match.span() for match in re.finditer(r"\S+", prompt)]
    groups: dict[int, list[int]] = {}
    for t, place in enumerate(locate(tokens, prompt)):
        if place is not None:
            word = next(w for w, (begin, end) in enumerate(words) if begin <= place[0] < end)
            groups.setdefault(word, []).append(t)
    return groups


def _join(matrix: list[list[float]], rows: list[int], columns: list[int]) -> None:
    """Tokens of one word one to one if there are as many, else each of the mean of the others."""
    if len(rows) == len(columns):
        for p, q in zip(rows, columns, strict=True):
            matrix[p][q] = 1.0
        return
    for p in rows:
        for q in columns:
            matrix[p][q] = 1 / len(rows)


def _rest(groups: tuple[dict[int, list[int]], ...], counts: tuple[int, int], lengths: tuple[int, int]) -> list[Place]:
    """Positions that carry no word: those before the words pair in order, those after them (padding too) likewise."""
    carried = [sorted(t for tokens in g.values() for t in tokens) for g in groups]
    before = range(min(c[0] if c else n for c, n in zip(carried, counts, strict=True)))
    after = [range(c[-1] + 1 if c else n, length) for c, n, length in zip(carried, counts, lengths, strict=True)]
    return [*((i, i) for i in before), *zip(*after, strict=False)]
