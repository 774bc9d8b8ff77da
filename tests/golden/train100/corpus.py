"""Pseudo-text with the statistics of writing: invented words, drawn by a Markov chain.

Letters follow a rule inside a word, words follow words, sentences end: a small model learns the
letters within 100 steps, and no text is anybody's.
"""

import numpy as np

ONSETS = ("b", "d", "f", "gr", "k", "l", "m", "n", "pl", "r", "s", "st", "t", "v")
VOWELS = ("a", "e", "i", "o", "u", "ai", "ou")
CODAS = ("", "", "l", "n", "r", "s", "nd")
NUM_WORDS = 120
FOLLOWERS = 6
END_OF_SENTENCE = 0.12


def invent_word(rng: np.random.RandomState) -> str:
    syllables = rng.randint(1, 4)
    return "".join(
        ONSETS[rng.randint(len(ONSETS))]
        + VOWELS[rng.randint(len(VOWELS))]
        + CODAS[rng.randint(len(CODAS))]
        for _ in range(syllables)
    )


def pseudo_text(rng: np.random.RandomState, length: int) -> bytes:
    """`length` bytes of ASCII; each word has FOLLOWERS possible successors."""
    words = [invent_word(rng) for _ in range(NUM_WORDS)]
    successors = rng.randint(NUM_WORDS, size=(NUM_WORDS, FOLLOWERS))
    text = bytearray()
    word, starts = 0, True
    while len(text) < length:
        text += (words[word].capitalize() if starts else words[word]).encode()
        starts = rng.random_sample() < END_OF_SENTENCE
        text += b".\n" if starts else b" "
        word = successors[word, rng.randint(FOLLOWERS)]
    return bytes(text[:length])
