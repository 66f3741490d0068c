"""Same words, same statement? Chains that have gone another way are not asked."""

from qtrap_agents.analysis.agreement import hop_agreement
from qtrap_agents.types import Completion, GoldPremise, Hop, Message, Premise, Trace

from .conftest import make_task, make_trace

TASK = make_task([GoldPremise(id="s1", text="", value=1)])


def hop(name: str, asked: str, stated: int | None) -> Hop:
    return Hop(
        id=name,
        node=name,
        messages=(Message(role="user", content=asked),),
        completion=Completion(text=str(stated)),
        premises=(Premise(id=name, text=str(stated), value=stated),),
    )


def chain(*hops: Hop) -> Trace:
    return make_trace(TASK, {}).model_copy(update={"hops": hops})


def test_hops_in_the_same_words_are_compared_by_value() -> None:
    first = chain(hop("a", "1+1", 2), hop("b", "2+2", 4), hop("c", "3+3", 6))
    second = chain(hop("a", "1+1", 2), hop("b", "2+2", 5), hop("c", "3+5", 8))
    found = hop_agreement([(first, second)])
    assert (found.same_words, found.differing, found.rate) == (2, 1, 0.5)


def test_hops_that_only_one_chain_has_do_not_count() -> None:
    found = hop_agreement([(chain(hop("a", "1", 1)), chain()), (chain(), chain(hop("a", "1", 1)))])
    assert (found.same_words, found.rate, found.interval.low, found.interval.high) == (0, None, 0.0, 1.0)


def test_nothing_readable_is_a_statement_too() -> None:
    pairs = [(chain(hop("a", "1", None)), chain(hop("a", "1", None))), (chain(hop("a", "1", None)), chain(hop("a", "1", 1)))]
    assert hop_agreement(pairs).differing == 1
