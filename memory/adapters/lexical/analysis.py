"""Which terms does a text have? The same for documents and queries, and the same in every lexical index."""

import re
import threading
import unicodedata
from itertools import pairwise

import tantivy

# Changing what comes out below needs a new name. It names tantivy's field too, so that an index of an older analysis
# has another schema, counts as damaged and is rebuilt.
ANALYSIS = "terms_2"

# The words of function of English. tantivy's own list has 33; with these LoCoMo's recall@10 is .855, with those .835.
_STOP_WORDS = """i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers
herself it its itself they them their theirs themselves what which who whom this that these those am is are was were be
been being have has had having do does did doing a an the and but if or because as until while of at by for with about
against between into through during before after above below to from up down in out on off over under again further then
once here there when where why how all any both each few more most other some such no nor not only own same so than too
very can will just don should now""".split()

# In bytes of UTF-8: 40 Cyrillic letters, or a SHA-256 in hexadecimal. Longer is encoded data, not a word.
_LONGEST = 80

# "Caroline's", "they'll", "can't": the tail would be a term of its own and stand in every second sentence.
_CONTRACTION = re.compile(r"(?<=\w)['’](?:s|t|d|m|ll|re|ve)\b", re.IGNORECASE)

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_HANGUL = "\u1100-\u11ff\uac00-\ud7a3"
_SOUTH_EAST = "\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0ecd\u1000-\u1049\u1050-\u109f\u1780-\u17d3"
_UNSPACED = re.compile(f"([{_HAN}{_KANA}{_HANGUL}{_SOUTH_EAST}]+)")
_IDEOGRAPH = re.compile(f"[{_HAN}]")


class Analyzer:
    """Lower case without accents, English stop words and endings removed; scripts without spaces in pairs.

    >>> Analyzer().terms("Caroline's cats run to 東京")
    ['carolin', 'cat', 'run', '東', '東京', '京']
    """

    def __init__(self) -> None:
        words = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        for step in (
            tantivy.Filter.remove_long(_LONGEST + 1),
            tantivy.Filter.ascii_fold(),  # before lower case: a dotted capital I would keep a combining dot
            tantivy.Filter.lowercase(),
            tantivy.Filter.custom_stopword(_STOP_WORDS),
            tantivy.Filter.stemmer("english"),
        ):
            words = words.filter(step)
        self._words = words.build()
        # tantivy's analyzer refuses a second caller ("Already borrowed"): seen once in several thousand test runs
        self._one_at_a_time = threading.Lock()

    def terms(self, text: str) -> list[str]:
        plain = _CONTRACTION.sub(" ", text)
        if plain.isascii():
            return self._words_of(plain)
        found: list[str] = []
        # composed first: "é" as two characters would be cut into two words
        for part, piece in enumerate(_UNSPACED.split(unicodedata.normalize("NFKC", plain))):
            found += _pairs(piece) if part % 2 else self._words_of(piece)
        return found

    def _words_of(self, text: str) -> list[str]:
        with self._one_at_a_time:
            return self._words.analyze(text)


def _pairs(run: str) -> list[str]:
    """Overlapping pairs of a run without spaces; ideographs also alone, because one can be a word."""
    found: list[str] = []
    for first, second in pairwise(run):
        found += [first, first + second] if _IDEOGRAPH.match(first) else [first + second]
    if len(run) == 1 or _IDEOGRAPH.match(run[-1]):
        found.append(run[-1])
    return found
