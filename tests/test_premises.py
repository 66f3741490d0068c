"""What a completion states, from terse models, talkative ones, and broken ones."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qtrap_agents.premises import final_answer, parse_steps, parse_value, phrase, value_span
from qtrap_agents.types import Value

PARSERS = ("int", "number", "word", "words", "words:3", "text", "any", "phrase", "boolean")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("355", 355),
        (" 041 \n", 41),
        ("-5", -5),
        ("−5", -5),
        ("= 41", 41),
        ("41.", 41),
        ("**41**", 41),
        ("$1,234.50", 1234.5),
        ("1,234", 1234),
        (".5", 0.5),
        ("...41", 41),
        ("1/2", 0.5),
        ("2e3", 2000),
        ("50%", 50),
        ("-$7", -7),
        ("41 41", 41),
        ("41 + 73 = 114", 114),
        ("417 + 938 ≡ 355 (mod 1000)", 355),
        ("(417 + 938) mod 1000 = 355", 355),
        ("355 (modulo 1000)", 355),
        ("The answer is 18 dollars for 3 days.", 18),
        ("She has 16 - 3 - 4 = 9 eggs left.", 9),
        ("We get 9.\n\\boxed{1{,}0} no: \\boxed{18} in 2 steps = 7", 18),
        ("9 + 9 = 18 of 20\n#### 18", 18),
        ("18\n\nExplanation: 16 - 3 - 4 = 9, and 9 * 2 is not 19", 18),
        ("First 5, then 7, so 12 in all", 12),
        ("s3 = 41", 41),
        ("x = -3 degrees", -3),
    ],
)
def test_numbers(text: str, value: Value) -> None:
    assert parse_value(text, "number") == value


@pytest.mark.parametrize(
    "text", ["", " \n", "no idea", "s3", "14 15", "5 - 3", "355 1355\nrest 5", "1" * 41, "9e999", "=", "-", "$", "1/0"]
)
def test_texts_without_a_number(text: str) -> None:
    assert parse_value(text, "number") is None


def test_a_fraction_is_no_whole_number() -> None:
    assert parse_value("3.5", "int") is None
    assert parse_value("41.0", "int") == 41
    assert parse_value("8/2", "int") == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("riku", "riku"),
        ("Riku.", "riku"),
        ("**riku**", "riku"),
        ("zumi = bako", "bako"),
        ("zumi = bako, because of row 2", "bako"),
        ("The answer is riku. It is in row 3.", "riku"),
        ("The mentor of bako is riku.", "riku"),
        ("The mentor is **riku**. Hope that helps!", "riku"),
        ('It says "riku" in the table', "riku"),
        ("\\boxed{riku}", "riku"),
        ("riku\nbecause bako was the key", "riku"),
    ],
)
def test_words(text: str, value: str) -> None:
    assert parse_value(text, "word") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("key map pen", "key map pen"),
        ("Key, map and pen", "key map and pen"),
        ("The row is: key, map, pen.", "key map pen"),
        ("The row is now key map pen.", "now key map pen"),
        ("swap 1 2 = [key, map, pen]", "key map pen"),
        ("We swap.\nNew row: key map pen", "key map pen"),
        ("key map", "key map"),
        ("key key map pen", "key key map pen"),
    ],
)
def test_rows_of_three(text: str, value: str) -> None:
    assert parse_value(text, "words:3") == value


def test_rows_of_any_length_and_text() -> None:
    assert parse_value("key Map", "words") == "key map"
    assert parse_value('"Key  map;\nten!"', "text") == "key map; ten"
    assert parse_value("  ", "text") is None


def test_unknown_parser_is_named() -> None:
    with pytest.raises(ValueError, match="unknown value parser 'floot'"):
        parse_value("1", "floot")


@pytest.mark.parametrize("parser", PARSERS)
@given(text=st.text())
def test_no_text_raises(parser: str, text: str) -> None:
    value = parse_value(text, parser)
    assert value is None or value == value
    assert isinstance(parse_steps(text, parser), list)


@given(st.integers(-(10**15), 10**15))
def test_whole_numbers_come_back(value: int) -> None:
    for text in (f"{value}", f"= {value}", f"{value:,}", f"So the answer is {value}.", f"12 + 30 = {value}", f"{value}.00"):
        assert parse_value(text, "int") == value


def test_steps_in_many_spellings() -> None:
    text = (
        "Let me think.\n- s1 = 9\n* **s2 = 18**; s3: 4\n4. S_4 = s1 + 31 = 40\nStep 5: x = 41\n`s6 = 1,000`\n"
        "> s7 -> 7\ns8 = ???\n\ntotal = 12\nstep 9. Add 5 and 6 to get 11.\n$s_{10} = 3$, s11 = 5"
    )
    found = {premise.id: premise.value for premise in parse_steps(text, "number")}
    assert found == {
        "s1": 9, "s2": 18, "s3": 4, "s4": 40, "s5": 41, "s6": 1000, "s7": 7, "s8": None, "total": 12,
        "s9": 11, "s10": 3, "s11": 5,
    }  # fmt: skip


def test_steps_with_words() -> None:
    assert [premise.value for premise in parse_steps("s1 = riku\ns2 = bako", "word")] == ["riku", "bako"]
    assert [premise.value for premise in parse_steps("s1 = key cup pen; s2 = pen cup key", "words:3")] == [
        "key cup pen",
        "pen cup key",
    ]


def test_a_step_names_what_it_was_derived_from() -> None:
    premises = parse_steps("s1 = 4; s2 = 5; s3 = s2 + s_1 + s9 = 9", "int")
    assert premises[2].depends_on == ("s2", "s1")
    assert premises[0].depends_on == ()


def test_the_last_value_of_a_step_counts_and_is_not_lost() -> None:
    premises = parse_steps("s1 = 4\ns2 = 6\ns1 = 5\ns1 = unclear", "int")
    assert [(premise.id, premise.value) for premise in premises] == [("s1", 5), ("s2", 6)]


@pytest.mark.parametrize("text", ["", "\n\n", "The answer is 41.", "= 4", ";;;"])
def test_no_steps(text: str) -> None:
    assert parse_steps(text, "int") == []


@given(st.lists(st.integers(-999, 999), min_size=1, max_size=20))
def test_steps_come_back(values: list[int]) -> None:
    for separator in ("\n", "; ", ";\n- "):
        text = separator.join(f"s{index} = {value}" for index, value in enumerate(values, 1))
        assert [premise.value for premise in parse_steps(text, "int")] == values


GARBAGE = {
    "digits": "7",
    "commas": "1,111",
    "groups": ",111",
    "spaces": " ",
    "tabs": "\t ",
    "stars": "*",
    "quotes": '"',
    "equals": "=",
    "letters": "a",
    "dashes": "-",
    "hyphens": "a-",
    "slashes": "1/",
    "exponents": "1e",
    "points": "1.",
    "boxes": "\\boxed{",
    "modulus": "mod 1",
    "mod": "(mod  ",
    "answers": "answer is ",
    "steps": "s1 = 4; ",
    "step": "step ",
    "ids": "s_",
    "bullets": "1. - * ",
    "lines": "s1\n",
    "hashes": "####",
    "comma steps": ", s1",
    "open quote": "“x",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_takes_linear_time(name: str) -> None:
    text = (GARBAGE[name] * 50_000)[:50_000]
    start = time.process_time()
    for garbage in (text, f"s1 = {text}", f"answer is {text}"):
        for parser in PARSERS:
            parse_value(garbage, parser)
        parse_steps(garbage, "number")
    assert time.process_time() - start < 5


def test_a_megabyte_of_everything() -> None:
    text = "".join((garbage * 40_000)[:40_000] for garbage in GARBAGE.values())
    assert len(text) > 1_000_000
    start = time.process_time()
    for parser in PARSERS:
        parse_value(text, parser)
    assert parse_steps(text, "number")
    assert time.process_time() - start < 30


@pytest.mark.parametrize(
    ("text", "parser", "shown"),
    [
        (" 168", "int", "168"),
        ("\n 041. \n", "int", "041"),
        ("-$7", "number", "-$7"),
        ("41 41", "int", "41"),
        ("417 + 938 = 355 (mod 1000)", "int", "355"),
        ("(417 + 355) mod 1000 = 355", "int", "355"),
        ("18, no: 9 + 9 = 18 of 20\n#### 18 eggs, not 18", "number", "18"),
        ("The mentor of riku is **Riku**.", "word", "Riku"),
        ("__Riku__", "word", "Riku"),
        ("New row: Key, map,  pen.", "words:3", "Key, map,  pen"),
        ('"Key  map;\nten!"', "text", "Key  map;\nten"),
        ("s3 = 41", "int", "41"),
        ("step 3: x = 3", "int", "3"),
        ("s3: 3", "int", "3"),
    ],
)
def test_where_a_value_stands(text: str, parser: str, shown: str) -> None:
    value = parse_steps(text, parser)[0].value if text.startswith("s") else parse_value(text, parser)
    assert value is not None
    span = value_span(text, value, parser)
    assert span is not None
    assert text[slice(*span)] == shown


def test_the_place_that_counts_is_the_one_that_was_read() -> None:
    assert value_span("18, no: 9 + 9 = 18 of 20\n#### 18 eggs, not 18", 18, "number") == (30, 32)
    assert value_span("18\n\nfor 9 + 9 = 18", 18, "number") == (0, 2)
    assert value_span("s3: 3", 3, "int") == (4, 5)


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("table(Pen, Price)", "table(pen, price)", "table(Pen, Price)"),
        ("The call:\n`calculator((12 + 7) % 20)`", "calculator((12+7)%20)", "`calculator((12 + 7) % 20)`"),
        ('{"tool": "store", "argument": "K 17"}', "store(k 17)", '{"tool": "store", "argument": "K 17"}'),
        ("table(pen, price) = 12", 12, "12"),
        ("The result is -3.5.", -3.5, "-3.5"),
        ("12 pens", 12, "12"),
        ("Pen.", "pen", "Pen"),
        ("It is the **red** one, the item is **pen**.", "pen", "pen"),
        ("x2", "x2", "x2"),
        ("", None, None),
        ("?", None, None),
    ],
)
def test_any_is_a_call_or_a_number_or_a_word(text: str, value: Value | None, shown: str | None) -> None:
    assert parse_value(text, "any") == value
    if value is not None:
        span = value_span(text, value, "any")
        assert span is not None
        assert text[slice(*span)] == shown


def test_calls_are_steps() -> None:
    steps = parse_steps("s1 = table(pen, price)\ns2 = 3\nstep 3: calculator((3 + 4) % 20)\ns4: pen", "any")
    assert [step.value for step in steps] == ["table(pen, price)", 3, "calculator((3+4)%20)", "pen"]


@pytest.mark.parametrize("text", ["_41_", "__41__", "the answer is _41_", "s_3 = _41_", "_41", "*41*"])
def test_a_number_in_italics_is_a_number(text: str) -> None:
    assert parse_value(text, "int") == parse_value(text, "any") == 41


def test_numbers_that_contradict_each_other_are_no_word_either() -> None:
    assert parse_value("17, 18", "any") is None
    assert parse_value("_a-_", "word") == "a"


def test_a_value_that_is_not_stated_stands_nowhere() -> None:
    assert value_span("41", 42, "int") is None
    assert value_span("no idea", 41, "int") is None
    assert value_span("", "riku", "word") is None


@given(text=st.text(alphabet='17-.,= \n*"ab:_(#{}\\ß', max_size=40), parser=st.sampled_from(PARSERS))
@example(text="_1", parser="any")
def test_every_value_stands_somewhere(text: str, parser: str) -> None:
    value = parse_value(text, parser)
    if value is not None:
        span = value_span(text, value, parser)
        assert span is not None
        stands = text[slice(*span)]
        if parser.startswith("words"):
            assert all(word in stands.casefold() for word in str(value).split())
        else:
            assert parse_value(stands, parser) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The Beatles!", "beatles"),
        ("the U.S. Army", "us army"),
        ("Answer: **A Tale of Two Cities**.", "tale of two cities"),
        ("He was born there.\n#### New  York\n", "new york"),
        ("\\boxed{the Louvre}", "louvre"),
        ("Nolan\n(the director)", "nolan"),
        ("the", "the"),
        ("", None),
        ("...", None),
    ],
)
def test_phrases(text: str, value: Value | None) -> None:
    assert parse_value(text, "phrase") == value
    if value is not None:
        span = value_span(text, value, "phrase")
        assert span is not None
        assert phrase(text[slice(*span)]) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "true"),
        ("True.", "true"),
        ("**No**, it is not.", "false"),
        ("FALSE", "false"),
        ("The answer is: no", "false"),
        ("There are no dogs, so it is true.", "true"),
        ("true\nbecause no, it is not otherwise", "true"),
        ("Yes or no? The answer is no.", "false"),
        ("It may be yes or\nno", "false"),
        ("There are no dogs here", None),
        ("", None),
        ("truely", None),
    ],
)
def test_truth_values(text: str, value: Value | None) -> None:
    assert parse_value(text, "boolean") == value


def test_only_marked_values_are_final_answers() -> None:
    assert final_answer("9 * 2 = 18", "number") is None
    found = final_answer("9 * 2 = 18. The answer is $18.\nIt was 9 before.", "number")
    assert found is not None
    assert (found.value, found.start, found.end) == (18, 26, 29)
