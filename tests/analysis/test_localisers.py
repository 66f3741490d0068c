import pytest
from hypothesis import given
from hypothesis import strategies as st
from replayed import FAMILIES, answers, chain, changed, draw, injected, other, replay, swaps

from qtrap_agents.analysis.localisers import Faulty, Localiser, Search, Tally, benchmark, search
from qtrap_agents.evidence import Change, Replay
from qtrap_agents.types import Task


def evidence(task: Task, made: Replay, wrong: tuple[str, ...] = ()) -> Faulty:
    """What the finder stores of a chain: all hops asked again of a baseline that is right but at `wrong`, and the swaps."""
    replies = answers(task, made.trace, "fp16", "faulty", wrong)
    return Faulty(task, made, replies, swaps(task, made.trace, replies, "faulty"))


def found(faulty: Faulty) -> Search:
    seen = search(faulty)
    assert seen is not None
    return seen


def line(hop: int, hops: int, number: int = 0, **named: int | None) -> Search:
    """A search by hand; underscores stand for blanks and hyphens."""
    names: dict[str, Localiser] = {"reference_free": "reference-free", "first_error": "first error", "replay": "replay"}
    return Search(
        task_id=f"t{number}",
        suite="toy",
        depth=hops,
        fault="digit",
        hops=hops,
        hop=hop,
        name=f"inject@h{hop}",
        named={"random": 1, "first": 1, "middle": (hops + 1) // 2, "last": hops}
        | {names[name]: place for name, place in named.items()},
        searched="replay" in named,
        checked=1,
        premises=hops,
    )


@given(family=st.sampled_from(FAMILIES), depth=st.integers(2, 12), index=st.integers(0, 3), data=st.data())
def test_one_fault_and_a_perfect_baseline_are_always_localised(family: str, depth: int, index: int, data: st.DataObject) -> None:
    task = draw(family, depth, index)
    position = data.draw(st.integers(1, depth))
    seen = found(evidence(task, injected(task, position, other(task, task.premises[position - 1].value))))
    assert seen.hop == position
    assert seen.searched
    assert seen.named["first error"] == position
    if seen.distance("reference-free") is not None:
        assert seen.named["reference-free"] == position
    if not injected(task, position, other(task, task.premises[position - 1].value)).trace.correct:
        assert seen.named["replay"] == position


@given(depth=st.integers(3, 12), data=st.data())
def test_a_slip_of_the_finder_after_the_fault_leads_nowhere_else(depth: int, data: st.DataObject) -> None:
    """A hop that the baseline answers wrongly now is tried too, but its swap does not restore the answer."""
    task = draw("arith", depth)
    position = data.draw(st.integers(1, depth - 1))
    slip = data.draw(st.integers(position + 1, depth))
    made = injected(task, position, other(task, task.premises[position - 1].value))
    assert found(evidence(task, made, (f"s{slip}",))).named["replay"] in (position, None if made.trace.correct else position)


def test_a_chain_that_is_not_searched_to_the_end_has_no_replay() -> None:
    task = draw("arith", 4)
    whole = evidence(task, injected(task, 2, 1))
    for part in (whole._replace(replies=whole.replies[:-1]), whole._replace(swaps=()), whole._replace(replies=(), swaps=())):
        seen = found(part)
        assert not seen.searched
        assert "replay" not in seen.named
    lost = whole.replies[0].model_copy(update={"completion": None, "error": "timeout"})
    assert not found(whole._replace(replies=(*whole.replies, lost)[1:])).searched


def test_a_swap_that_restores_nothing_is_an_abstention() -> None:
    task = draw("arith", 4)
    made = injected(task, 2, 1)
    values = changed(task, made.trace, {"s2": 2})
    tried = replay(chain(task, values), "faulty", Change(kind="swap", hop_id="hop_002", arm="fp16"))
    seen = found(evidence(task, made)._replace(swaps=(tried,)))
    assert seen.searched
    assert seen.named["replay"] is None


def test_the_earliest_of_several_saving_hops_counts() -> None:
    task = draw("arith", 4)
    made = injected(task, 2, 1)
    right = chain(task, {premise.id: premise.value for premise in task.premises})
    late = replay(right, "faulty", Change(kind="swap", hop_id="hop_003", arm="fp16"))
    whole = evidence(task, made)
    assert found(whole._replace(swaps=(late, *whole.swaps))).named["replay"] == 2


def test_a_fault_at_a_hop_that_is_not_there() -> None:
    task = draw("arith", 4)
    made = injected(task, 2, 1)
    assert search(evidence(task, made)._replace(made=replay(made.trace, "fp16", Change(kind="inject", hop_id="x")))) is None


def test_accuracies_are_counted_by_hand() -> None:
    chains = [
        line(1, 4, 1, replay=1, reference_free=1, first_error=1),
        line(2, 4, 2, replay=2, reference_free=None, first_error=2),
        line(2, 8, 3, replay=3, reference_free=4, first_error=2),
        line(8, 8, 4, replay=None, reference_free=None, first_error=8),
        line(2, 2, 5, reference_free=2, first_error=2),
    ]
    total = benchmark(chains).total
    assert total.of("replay").tally == Tally(n=4, named=3, exact=2, near=3)
    assert total.of("replay").abstained == 1
    assert total.of("reference-free").tally == Tally(n=5, named=3, exact=2, near=2)
    assert (total.of("reference-free").precision.count, total.of("reference-free").precision.n) == (2, 3)
    assert total.of("first error").exact.share == 1.0
    assert total.of("first").tally == Tally(n=5, named=5, exact=1, near=4)
    assert total.of("last").tally == Tally(n=5, named=5, exact=2, near=2)
    assert total.of("middle").tally == Tally(n=5, named=5, exact=1, near=3)
    best = total.of("best constant")
    assert (best.constant, best.tally) == (2, Tally(n=5, named=5, exact=3, near=4))
    guess = total.of("random")
    assert guess.expected == pytest.approx((1 / 4 + 1 / 4 + 1 / 8 + 1 / 8 + 1 / 2) / 5)
    assert guess.expected_near == pytest.approx((2 / 4 + 3 / 4 + 3 / 8 + 2 / 8 + 2 / 2) / 5)
    assert (total.checkable.count, total.checkable.n) == (5, 26)
    with pytest.raises(KeyError):
        total.of("oracle")  # type: ignore[arg-type]


def test_the_best_constant_may_lie_beyond_short_chains() -> None:
    """Hop 4 is the last of every chain here, whatever its length."""
    best = benchmark([line(2, 2, 1), line(3, 3, 2), line(4, 4, 3), line(1, 4, 4)]).total.of("best constant")
    assert (best.constant, best.tally.exact) == (4, 3)


@given(places=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20))
def test_no_constant_is_better_in_hindsight(places: list[tuple[int, int]]) -> None:
    spots = [(min(pair), max(pair)) for pair in places]
    best = benchmark([line(hop, hops, number) for number, (hop, hops) in enumerate(spots)]).total.of("best constant")
    assert best.tally.exact == max(sum(min(guess, hops) == hop for hop, hops in spots) for guess in range(1, 10))


def test_random_guessing_comes_out_as_expected() -> None:
    tasks = [draw("arith", 8).model_copy(update={"id": f"t{index}"}) for index in range(160)]
    chains = [found(Faulty(task, injected(task, index % 8 + 1, 1), (), ())) for index, task in enumerate(tasks)]
    guess = benchmark(chains).total.of("random")
    assert guess.expected == pytest.approx(1 / 8)
    assert guess.exact.interval is not None
    assert (guess.exact.interval.low or 0) - 0.03 < 1 / 8 < (guess.exact.interval.high or 1) + 0.03


def test_nothing_to_score() -> None:
    empty = benchmark([])
    assert (empty.total.chains, empty.suites, empty.total.of("best constant").constant) == (0, (), None)
    assert empty.total.of("random").expected is None
    assert empty.total.of("replay").exact.share is None
