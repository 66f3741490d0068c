import pytest
from hypothesis import given
from hypothesis import strategies as st
from replayed import FAMILIES, chain, draw, follow, injected

from qtrap_agents.analysis.localise import review, suspect
from qtrap_agents.types import Completion, Hop, Message, Premise, Trace, Value

from .conftest import make_dag, make_trace

MODULO = "All numbers are modulo 1000."


def stated(
    prompt: str,
    value: Value | None,
    text: str = "",
    told: str = "",
    before: dict[str, Value] | None = None,
) -> Trace:
    """A trace whose last hop was asked `prompt` after hops that stated `before`."""
    hops = [
        Hop(id=f"h{name}", node="n", completion=Completion(text=""), premises=(Premise(id=name, text="", value=known),))
        for name, known in (before or {}).items()
    ]
    messages = [Message(role="system", content=told)] if told else []
    messages.append(Message(role="user", content=prompt))
    last = Premise(id="x", text=text or str(value), value=value, depends_on=tuple(before or ()))
    hop = Hop(id="last", node="n", messages=tuple(messages), completion=Completion(text=""), premises=(last,))
    base = make_trace(make_dag([[]]), {})
    return base.model_copy(update={"hops": (*hops, hop)})


def reason(trace: Trace) -> str | None:
    """Why the last hop is suspected; empty where it was checked and nothing is wrong, None where nothing could be checked."""
    found = review(trace)
    if found.suspicion is not None:
        assert found.suspicion.hop == found.hops
        return found.suspicion.reason
    return "" if found.checked else None


@pytest.mark.parametrize(
    ("prompt", "told", "right", "wrong"),
    [
        ("arith: 417 + 938 =", MODULO, 355, 356),
        ("arith: 24 - 307 =", MODULO, 717, -283),
        ("arith: 417 + 938 =", "", 1355, 355),
        ("arith: 417 * 3 modulo 100 =", "", 51, 1251),
        ("program: 96 times 17 =", "plus, minus and times are modulo 100", 32, 1632),
        ("program: 47 max 132 =", "plus, minus and times are modulo 100", 132, 47),
        ("program: 47 min 32 =", "", 32, 47),
        ("She eats 16 - 3 - 4 = ___ eggs.", "", 9, 8),
        ("Half of them: 2 / 4 = ?", "", 0.5, 2),
        ("A third: 10 / 3 = $___", "", 3.33, 3.4),
        ("Given s1 = 9: (9 + 1) * 2 =", "", 20, 11),
        ("first line: 1 + 1 = 3\nstep: 2 × 3 =", "", 6, 5),
    ],
)
def test_the_arithmetic_that_a_prompt_ends_in(prompt: str, told: str, right: Value, wrong: Value) -> None:
    assert reason(stated(prompt, right, told=told)) == ""
    assert f"not {wrong}" in (reason(stated(prompt, wrong, told=told)) or "")


@pytest.mark.parametrize(
    "prompt",
    [
        "relate: bako mentor =",
        "What is 3 + 4?",
        "9 eggs * 2 + 3 = ___",
        "50% * 80 = ___",
        "dozens: 4 2 + 3 =",
        "a = b + 3 =",
        "3 + =",
        "2 min 3 max 4 =",
        "1 / 0 =",
        "= ___",
        "",
    ],
)
def test_what_cannot_be_checked_is_left_alone(prompt: str) -> None:
    assert reason(stated(prompt, 12345)) is None


def test_two_moduli_are_one_too_many() -> None:
    assert reason(stated("3 + 4 =", 1, told="modulo 5 or modulo 6")) is None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("step 3: 12 * 3 = 36", None),
        ("step 3: 12 * 3 = 37", "it writes 12 * 3 = 37, which is 36"),
        ("2 * 3 = 6 + 4 = 10", None),
        ("x = 5", None),
        ("s1 + 2 = 43", None),
        ("s1 + 2 = 44", "it writes 41 + 2 = 44, which is 43"),
        ("s9 + 2 = 44", None),
        ("$3.50 * 2 = $7.00", None),
        ("10 / 3 = 3.33", None),
        ("20 * 2 = 80 %", None),
        ("1 + 1 = 2, so 2 + 2 = 5", "it writes 2 + 2 = 5, which is 4"),
    ],
)
def test_the_equations_that_a_hop_writes_itself(text: str, wrong: str | None) -> None:
    assert (reason(stated("What next?", 1, text, before={"s1": 41})) or None) == wrong


def test_an_equation_may_be_modular() -> None:
    assert reason(stated("go on", 355, "417 + 938 = 355", MODULO)) == ""
    assert reason(stated("go on", 355, "417 + 938 = 1355 = 355", MODULO)) == ""
    assert "which is" in (reason(stated("go on", 354, "417 + 938 = 354", MODULO)) or "")


@pytest.mark.parametrize(
    ("value", "wrong"),
    [("riku", ""), ("zumi", "the table gives riku for bako, not zumi"), ("nobody", "the table gives riku for bako, not nobody")],
)
def test_a_table(value: str, wrong: str) -> None:
    assert reason(stated("lookup: bako riku , zumi bako , riku zumi ; bako =", value)) == wrong


def test_a_key_that_is_not_in_the_table_still_needs_a_name_of_it() -> None:
    prompt = "lookup: bako riku , zumi bako ; unknown ="
    assert reason(stated(prompt, "riku")) == ""
    assert reason(stated(prompt, "mentor")) == "mentor does not stand in the table"


@pytest.mark.parametrize("prompt", ["lookup: bako riku ; bako =", "a b , a c ; a =", "a b c , d e ; a =", "a b , c d"])
def test_no_table(prompt: str) -> None:
    assert reason(stated(prompt, "zumi")) is None


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("pen cup map", ""),
        ("cup pen pen", "its row is not that of the prompt: pen too much; map missing"),
        ("cup pen map map", "its row is not that of the prompt: map too much"),
        ("cup pen", None),
        ("the answer is here", None),
    ],
)
def test_a_row(value: str, wrong: str | None) -> None:
    assert reason(stated("track: cup pen map ; swap 1 2 =", value)) == wrong


def test_what_a_hop_was_given() -> None:
    known: dict[str, Value] = {"s1": 41}
    assert reason(stated("Known: s1 = 41\nAnd then?", 1, before=known)) is None
    assert reason(stated("Known: s1 = 42\nAnd then?", 1, before=known)) == "it was given s1 = 42, but s1 states 41"
    assert reason(stated("arith: 42 + 3 =", 45, before=known)) == "it was asked 42 + 3, without s1 = 41"
    assert reason(stated("arith: 41 + 3 =", 44, before=known)) == ""
    assert reason(stated("She had 41 eggs. 2 * 3 = ___", 6, before=known)) == ""
    words: dict[str, Value] = {"s1": "cup pen"}
    assert reason(stated("Known: s1 = Cup  pen; s2 = x\nAnd then?", 1, before=words)) is None


def test_an_unreadable_premise() -> None:
    assert reason(stated("relate: bako mentor =", None)) == "it states nothing readable"


def test_the_first_of_several_is_named() -> None:
    task = draw("arith", 8)
    values = follow(task, {"s3": 1, "s6": 2})
    found = suspect(chain(task, values))
    assert found is not None
    assert (found.hop, found.hop_id, found.premise) == (3, "hop_003", "s3")


def test_several_premises_of_one_hop() -> None:
    premises = (Premise(id="s1", text="s1 = 2 + 2 = 4", value=4), Premise(id="s2", text="s2 = s1 * 3 = 13", value=13))
    hop = Hop(id="answer", node="answer", completion=Completion(text=""), premises=premises)
    found = review(make_trace(make_dag([[]]), {}).model_copy(update={"hops": (hop,)}))
    assert (found.premises, found.checked) == (2, 2)
    assert found.suspicion is not None
    assert (found.suspicion.premise, found.suspicion.reason) == ("s2", "it writes 4 * 3 = 13, which is 12")


def test_an_empty_trace() -> None:
    found = review(make_trace(make_dag([[]]), {}))
    assert (found.hops, found.premises, found.checked, found.suspicion) == (0, 0, 0, None)


@given(family=st.sampled_from(FAMILIES), depth=st.integers(1, 12), index=st.integers(0, 3))
def test_right_chains_are_never_suspected(family: str, depth: int, index: int) -> None:
    task = draw(family, depth, index)
    found = review(chain(task, follow(task, {})))
    assert found.suspicion is None
    assert found.checked == (0 if family == "relate" else depth)


@given(family=st.sampled_from(("arith", "program")), depth=st.integers(2, 12), index=st.integers(0, 3), data=st.data())
def test_a_wrong_number_is_found_at_its_hop(family: str, depth: int, index: int, data: st.DataObject) -> None:
    task = draw(family, depth, index)
    position = data.draw(st.integers(1, depth))
    value = data.draw(st.integers(0, 99).filter(lambda number: number != task.premises[position - 1].value))
    found = suspect(injected(task, position, value).trace)
    assert found is not None
    assert found.hop == position


def test_only_the_trace_is_read_not_what_the_experiment_noted() -> None:
    made = injected(draw("arith", 6), 2, 1).trace
    bare = made.model_copy(
        update={
            "hops": tuple(
                hop.model_copy(update={"completion": Completion(text=""), "replaced": (), "arm": None}) for hop in made.hops
            )
        }
    )
    assert review(bare) == review(made)


@given(prompt=st.text(max_size=60), text=st.text(max_size=60), value=st.one_of(st.none(), st.integers(), st.text(max_size=20)))
def test_any_text_is_taken(prompt: str, text: str, value: Value | None) -> None:
    review(stated(prompt, value, text, before={"s1": 41}))


@given(text=st.text(alphabet="0123456789+-*/=() .,$%?_xmodax;:", max_size=80), value=st.integers(-99, 99))
def test_anything_like_arithmetic_is_taken(text: str, value: int) -> None:
    review(stated(text, value, text, before={"x": 41}))
