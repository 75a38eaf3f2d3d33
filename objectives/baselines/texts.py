"""TF-IDF and a linear model: the baseline of texts and of relations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer

from fold_search.objectives.baselines.linear import Labels, Linear, fit_linear
from fold_search.objectives.data.dataset import Content
from fold_search.objectives.data.relations import Form, mark, read_relations
from fold_search.objectives.errors import DataError
from fold_search.objectives.jobs import Rows

Analyzer = Literal["word", "char_wb"]

MAX_FEATURES = 100_000
MAX_CHARACTERS = 5_000  # of a text; about 1,000 tokens of an encoder
MIN_TEXTS = 2
ROWS_AT_ONCE = 8_192
ROWS_LOOKED_AT = 1_000
SETTINGS: dict[Analyzer, dict[str, Any]] = {
    "word": {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
    "char_wb": {"ngram_range": (2, 3)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModel:
    """A fitted model: which terms it counts, how rare each is, and the weights of each."""

    analyzer: Analyzer
    terms: tuple[str, ...]  # sorted, (features,)
    idf: NDArray[np.float64]  # (features,)
    linear: Linear

    def predict(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return probabilities, (rows, classes), or numbers, (rows, 1)."""
        settings = {"analyzer": self.analyzer, "sublinear_tf": True, "vocabulary": self.terms}
        vectorizer = TfidfVectorizer(**settings, **SETTINGS[self.analyzer])
        vectorizer.idf_ = self.idf
        if not len(texts):
            return np.empty((0, len(self.linear.intercepts)), np.float32)
        parts = [texts[start : start + ROWS_AT_ONCE] for start in range(0, len(texts), ROWS_AT_ONCE)]
        return np.concatenate([self.linear.predict(vectorizer.transform(part)) for part in parts])


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCounts:
    """How often each term is in each text: counted once for all folds. `terms` are sorted."""

    analyzer: Analyzer
    counts: Any  # (rows, terms), sparse
    terms: NDArray[np.str_]

    def fit(self, rows: Rows, labels: Labels, *, num_outputs: int, seed: int) -> TextModel:
        """Fit a model to some rows and their labels, (rows,); it sees nothing of the others.

        What `TfidfVectorizer(min_df=2, max_features=MAX_FEATURES)` keeps is kept: the commonest terms, and none that a
        single text has, unless there are no others.
        """
        own = self.counts[rows]
        num_texts = np.bincount(own.indices, minlength=len(self.terms))
        kept = np.flatnonzero(num_texts >= min(MIN_TEXTS, num_texts.max()))
        totals = np.asarray(own.sum(axis=0)).ravel()[kept]
        kept = np.sort(kept[np.argsort(-totals, kind="stable")[:MAX_FEATURES]])
        weighing = TfidfTransformer(sublinear_tf=True)
        features = weighing.fit_transform(own[:, kept])
        return TextModel(
            analyzer=self.analyzer,
            terms=tuple(self.terms[kept].tolist()),
            idf=weighing.idf_,
            linear=fit_linear(features, labels, num_outputs=num_outputs, seed=seed),
        )


def count_terms(texts: Sequence[str]) -> TextCounts:
    """Count the terms of all texts; raises DataError if there is none."""
    analyzer = choose_analyzer(texts)
    counting = CountVectorizer(analyzer=analyzer, dtype=np.int32, **SETTINGS[analyzer])
    try:
        counts = counting.fit_transform(texts)
    except ValueError:
        raise DataError("no text has a word in it") from None
    return TextCounts(analyzer=analyzer, counts=counts, terms=counting.get_feature_names_out().astype(str))


def baseline_texts(content: Content, *, form: Form) -> list[str]:
    """Return the beginning of each row's text, of a relation the sentence marked as `form` says; DataError."""
    texts = content.texts
    if content.spec.relation is not None:
        relations = read_relations(content, form=form)
        texts = [mark(relation, form=form, separator=";").text for relation in relations]
    return [text[:MAX_CHARACTERS] for text in texts]


def choose_analyzer(texts: Sequence[str]) -> Analyzer:
    """Return words, or parts of words where most letters have no capitals.

    These are the scripts of languages that do not part words by spaces, or whose words have many endings: Chinese,
    Japanese, Korean, Thai, Hindi, Arabic.
    """
    looked_at = "".join(texts[:: max(1, len(texts) // ROWS_LOOKED_AT)])
    letters = [letter for letter in looked_at if letter.isalpha()]
    without = sum(letter.lower() == letter.upper() for letter in letters)
    return "char_wb" if 2 * without > len(letters) else "word"
