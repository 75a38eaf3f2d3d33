"""Text in other encodings: read where the encoding is said or marked, else refused with the one that reads it."""

import codecs
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fold_search.objectives.data.dataset import read_chunks, read_dataset, read_table
from fold_search.objectives.data.spec import DataSpec
from fold_search.objectives.errors import DataError, Misread

TEXTS = {
    "ko": "이 제품은 정말 좋습니다\n배송이 늦어서 실망했어요\n환불을 요청합니다, 연락 주세요\n품질이 별로예요",
    "ja": "この商品はとても良かったです\n配送が遅くて残念でした\n返品をお願いします\n名前はまだ無い",
    "zh": "今天天气很好、我们去公园散步吧\n这个产品质量很差、我要求退款\n物流很快、非常满意\n他说他明天不来",
    "tw": "今天天氣很好、我們去公園散步吧\n這個產品品質很差、我要求退款\n物流很快、非常滿意\n他說他明天不來",
    "de": "Das Gerät ist schön\nDie Lieferung war pünktlich\nIch möchte mein Geld zurück\nGröße passt nicht",
    "fr": "Le café était très bon\nLivraison reçue en retard\nOù est passé le colis ?\nDéjà trois semaines",
    "en": "We don\u2019t recommend it \u2013 too expensive\nplain words\nGreat caf\u00e9\n\u201clovely\u201d staff",
    "ru": "Товар очень плохого качества\nДоставка была быстрой\nНе рекомендую этот магазин\nВерните деньги",  # noqa: RUF001
}
# What it is written in, and what reads it: the same or a superset.
ENCODINGS = [
    *(("ko", name, "cp949") for name in ("cp949", "euc-kr")),
    *(("ja", name, "cp932") for name in ("shift_jis", "cp932")),
    *(("zh", name, "gb18030") for name in ("gb2312", "gbk", "gb18030")),
    ("tw", "big5", "big5"),
    *((language, name, "cp1252") for language in ("de", "fr") for name in ("latin-1", "cp1252", "iso8859-15")),
    ("en", "cp1252", "cp1252"),
    ("ru", "cp1251", "cp1251"),
    *((language, name, name) for language in ("ko", "zh", "en") for name in ("utf-16-le", "utf-16-be")),
]
FORMATS = ["csv", "tsv", "jsonl"]


def content_of(texts: list[str], file_format: str) -> str:
    labelled = [(text, "ab"[row % 2]) for row, text in enumerate(texts)]
    if file_format == "jsonl":
        return "\n".join(f'{{"text": "{text}", "label": "{label}"}}' for text, label in labelled)
    delimiter = {"csv": ",", "tsv": "\t"}[file_format]
    return "\n".join(
        delimiter.join(row) for row in [("text", "label"), *((f'"{text}"', label) for text, label in labelled)]
    )


def spec_of(path: Path, **settings) -> DataSpec:
    return DataSpec(path=path, label="label", text=("text",), **settings)


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("language", "encoding", "expected"), ENCODINGS)
def test_the_encoding_that_reads_a_file_is_proposed(tmp_path, language, encoding, expected, file_format, zipped):
    """It reads the texts as they were, at once and in parts, and so does what the file was written in."""
    texts = TEXTS[language].split("\n")
    content = content_of(texts, file_format).encode(encoding)
    path = tmp_path / f"rows.{file_format}{zipped}"
    path.write_bytes(gzip.compress(content) if zipped else content)
    for read in (read_dataset, lambda spec: list(read_chunks(spec, rows=2))):
        with pytest.raises(Misread, match=f"not UTF-8.*; data.encoding {expected} reads '") as refused:
            read(spec_of(path))
        assert (refused.value.setting, refused.value.value) == ("encoding", expected)
        assert "\n" not in str(refused.value)
    for name in (expected, encoding):
        assert read_dataset(spec_of(path, encoding=name)).texts == texts
        chunks = read_chunks(spec_of(path, encoding=name), rows=2)
        assert [text for chunk in chunks for text in chunk.table["text"]] == texts


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("said", [None, "utf-8", "cp949", "utf-16-be"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_byte_order_mark_decides(tmp_path, encoding, said, file_format):
    """Whatever the study file says: of two files, one may have it."""
    texts = TEXTS["ko"].split("\n")
    path = tmp_path / f"rows.{file_format}"
    path.write_bytes(content_of(texts, file_format).encode(encoding))
    assert read_dataset(spec_of(path, encoding=said)).texts == texts
    path.write_bytes(codecs.BOM_UTF16_BE + content_of(texts, file_format).encode("utf-16-be"))
    assert read_dataset(spec_of(path, encoding=said)).texts == texts


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("text,label\nsch\u00f6n,a\n".encode() * 9 + b"\xe9,b\n", {}, "line 19; most of the file is, expected a file"),
        (codecs.BOM_UTF8 + b"text,label\n\xe9,b\n", {}, "damaged: not all of it is UTF-8, as its first bytes say"),
        (codecs.BOM_UTF16_LE + b"text,", {}, "damaged: not all of it is UTF-16, as its first bytes say"),
        (b"text,label\n\x98\xff,\xff\x98\n", {}, "line 2; expected the file's encoding as data.encoding"),
        (
            "text,label\n한국어,a\n".encode(),
            {"encoding": "cp949"},
            "not cp949: .*; data.encoding utf-8 reads '한국어,a'",
        ),
        (
            "text,label\né,a\n".encode("utf-16-le"),
            {"encoding": "utf-16"},
            "; data.encoding utf-16-le reads 'text,label",
        ),
        (b"text,label\nabc,a\n", {"encoding": "utf-16"}, "not UTF-16: .*; data.encoding utf-8 reads"),
        (b"text,label\nabc,a\n", {"encoding": "idna"}, None),
    ],
)
def test_what_no_encoding_reads_is_named(tmp_path, content, settings, message):
    """A UTF-8 file that is damaged in one place is not taken for another encoding's."""
    (tmp_path / "rows.csv").write_bytes(content)
    spec = spec_of(tmp_path / "rows.csv", **settings)
    if message is None:
        assert read_table(spec)["text"].tolist() == ["abc"]
        return
    with pytest.raises(DataError, match=message) as refused:
        read_table(spec)
    assert len(str(refused.value).splitlines()) == 1


def test_extra_rows_are_of_the_same_encoding(tmp_path):
    """What reads the one and not the other is proposed for neither."""
    main, extra = tmp_path / "rows.csv", tmp_path / "extra.csv"
    main.write_text("text,label\n하나,a\n둘,b\n", encoding="utf-8")
    extra.write_text("text,label\n셋이다,a\n", encoding="cp949")
    with pytest.raises(
        DataError, match=r"extra\.csv: not UTF-8: .*; expected data.path and data.extra in one"
    ) as refused:
        read_dataset(spec_of(main, extra=extra))
    assert not isinstance(refused.value, Misread)
    main.write_text(main.read_text(encoding="utf-8"), encoding="cp949")
    assert read_dataset(spec_of(main, extra=extra, encoding="cp949")).texts == ["하나", "둘", "셋이다"]


@pytest.mark.parametrize("name", ["rot13", "zlib", "undefined", "cp94", "", "a\0b", "../x", "x" * 1000])
def test_what_is_no_encoding_is_refused(name):
    """Nor is a codec that does not make text of bytes."""
    with pytest.raises(ValueError, match="expected the name of an encoding"):
        spec_of(Path("rows.csv"), encoding=name)


@given(text=st.text(st.characters(codec="utf-8", exclude_characters='\r\n",'), min_size=1, max_size=20))
def test_any_text_in_any_unicode_encoding(tmp_path_factory, text):
    """Comes back, or is refused in one line."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    for encoding in ("utf-16", "utf-16-le", "utf-8", "utf-32-le", "utf-7"):
        path.write_bytes(f"text,label\n{text},a\n".encode(encoding))
        if text.strip() and text != "NaN":
            assert read_table(spec_of(path, encoding=encoding))["text"].tolist() == [text]
