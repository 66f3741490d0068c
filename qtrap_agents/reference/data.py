"""Endless training hops of the five families, drawn as token ids on the training device.

A batch is a matrix of columns with holes (-1) where a number is short; `_compact` closes the holes. The text of every
row is exactly what `qtrap_agents.suites` shows a model in the `chain` workflow (a test holds the two together).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qtrap_agents.reference.tokenizer import ASSISTANT, BOS, EOS, PAD, USER, vocabulary
from qtrap_agents.world import LOOKUP_NAMES, OBJECTS, RELATIONS, entities, relation_table

HOLE = -1
FAMILIES = ("arith", "relate", "lookup", "track", "program")


@dataclass(frozen=True)
class Batch:
    """Token ids (rows, length) padded on the right, and a mask of the same shape that is 1 on answer tokens."""

    tokens: Tensor
    answer: Tensor


class HopSampler:
    """Draws hops of any family. One generator, seeded, on one device."""

    def __init__(self, seed: int, device: str, modulus: int = 1000, program_modulus: int = 100, rows: int = 10, places: int = 6):
        self.device, self.modulus, self.program_modulus, self.rows, self.places = device, modulus, program_modulus, rows, places
        self.generator = torch.Generator(device).manual_seed(seed)
        ids = vocabulary()
        self.ids = ids
        self.digits = self._tensor([ids[str(digit)] for digit in range(10)])
        self.continued = self._tensor([ids[f"##{digit}"] for digit in range(10)])
        self.entity = self._tensor([ids[name] for name in entities()])
        self.relation = self._tensor([ids[name] for name in RELATIONS])
        self.objects = self._tensor([ids[name] for name in OBJECTS])
        place = {name: index for index, name in enumerate(entities())}
        self.facts = self._tensor([[place[relation_table()[r][e]] for e in entities()] for r in RELATIONS])
        self.moves, self.move_tokens = self._all_moves()

    def batch(self, family: str, rows: int) -> Batch:
        """`rows` hops of one family, or of `recall` (training only, see `_recall`)."""
        if family == "recall":
            return self._recall(rows)
        prompt, answer = getattr(self, f"_{family}")(rows)
        begin = [self._column(token, rows) for token in (BOS, USER)]
        middle, end = self._column(ASSISTANT, rows), self._column(EOS, rows)
        tokens = torch.cat([*begin, *prompt, middle, *answer, end], dim=1)
        width = sum(part.shape[1] for part in answer) + 1
        mask = torch.zeros_like(tokens)
        mask[:, -width:] = 1
        return self._compact(tokens, mask)

    def _compact(self, tokens: Tensor, mask: Tensor) -> Batch:
        holes = tokens == HOLE
        order = holes.long().argsort(dim=1, stable=True)
        tokens, mask, holes = tokens.gather(1, order), mask.gather(1, order), holes.gather(1, order)
        return Batch(tokens.masked_fill(holes, self.ids[PAD]), mask.masked_fill(holes, 0))

    def _arith(self, rows: int) -> tuple[list[Tensor], list[Tensor]]:
        kind = self._integers(3, rows)
        left, right = self._operand(rows), self._operand(rows)
        near = (left + self._integers(20, rows) - 10).remainder(self.modulus)
        right = torch.where(self._integers(8, rows) == 0, near, right)
        right = torch.where(kind == 2, 2 + self._integers(8, rows), right)
        result = torch.where(kind == 0, left + right, torch.where(kind == 1, left - right, left * right))
        operator = self._words(["+", "-", "*"])[kind][:, None]
        head = [self._column(token, rows) for token in ("arith", ":")]
        prompt = [*head, self._number(left), operator, self._number(right), self._column("=", rows)]
        return prompt, [self._number(result.remainder(self.modulus))]

    def _operand(self, rows: int) -> Tensor:
        """Half uniform, half of one, two or three digits: uniform numbers alone are nearly never short."""
        digits = 10 ** (1 + self._integers(3, rows))
        high = torch.where(self._integers(2, rows) == 0, self.modulus, digits.clamp(max=self.modulus))
        return (torch.rand(rows, generator=self.generator, device=self.device) * high).long()

    def _program(self, rows: int) -> tuple[list[Tensor], list[Tensor]]:
        kind = self._integers(5, rows)
        left, right = self._integers(self.program_modulus, rows), self._integers(self.program_modulus, rows)
        results = torch.stack([left + right, left - right, left * right, torch.maximum(left, right), torch.minimum(left, right)])
        result = results.gather(0, kind[None])[0].remainder(self.program_modulus)
        operator = self._words(["plus", "minus", "times", "max", "min"])[kind][:, None]
        head = [self._column(token, rows) for token in ("program", ":")]
        return [*head, self._number(left), operator, self._number(right), self._column("=", rows)], [self._number(result)]

    def _relate(self, rows: int) -> tuple[list[Tensor], list[Tensor]]:
        relation, entity = self._integers(len(RELATIONS), rows), self._integers(len(self.entity), rows)
        head = [self._column(token, rows) for token in ("relate", ":")]
        prompt = [*head, self.entity[entity][:, None], self.relation[relation][:, None], self._column("=", rows)]
        return prompt, [self.entity[self.facts[relation, entity]][:, None]]

    def _lookup(self, rows: int) -> tuple[list[Tensor], list[Tensor]]:
        names = self._choose(LOOKUP_NAMES, self.rows, rows)
        keys, targets = names.gather(1, self._order(self.rows, rows)), names.gather(1, self._order(self.rows, rows))
        size = self._lookup_sizes(rows)
        place = (torch.rand(rows, generator=self.generator, device=self.device) * size).long()[:, None]
        columns = [self._column(token, rows) for token in ("lookup", ":")]
        for row in range(self.rows):
            mark = torch.where(size == row + 1, self.ids[";"], self.ids[","])
            cells = torch.stack([self.entity[keys[:, row]], self.entity[targets[:, row]], mark], dim=1)
            columns.append(cells.masked_fill((size <= row)[:, None], HOLE))
        columns += [self.entity[keys.gather(1, place)], self._column("=", rows)]
        return columns, [self.entity[targets.gather(1, place)]]

    def _recall(self, rows: int, size: int = 8, queries: int = 5) -> Batch:
        """A table and several questions to it, all answers in the loss. Never shown in a suite.

        One question a table is so thin a signal that the lookup circuit forms very late. Half the rows ask in the
        words of a hop (`key = <|assistant|> value`), half repeat the pairs as they stand in the table (`key value ,`).
        """
        names = self._choose(LOOKUP_NAMES, size, rows)
        keys, targets = (self.entity[names.gather(1, self._order(size, rows))] for _ in range(2))
        shown = 2 + self._integers(size - 1, rows)
        tokens = [self._column(token, rows) for token in (BOS, USER, "lookup", ":")]
        for row in range(size):
            mark = torch.where(shown == row + 1, self.ids[";"], self.ids[","])
            cells = torch.stack([keys[:, row], targets[:, row], mark], dim=1)
            tokens.append(cells.masked_fill((shown <= row)[:, None], HOLE))
        table = sum(part.shape[1] for part in tokens)
        plain = self._integers(2, rows)[:, None] == 0
        for _ in range(queries):
            place = (torch.rand(rows, generator=self.generator, device=self.device) * shown).long()[:, None]
            key, target = keys.gather(1, place), targets.gather(1, place)
            tokens += [
                key,
                torch.where(plain, HOLE, self._column("=", rows)),
                torch.where(plain, HOLE, self._column(ASSISTANT, rows)),
            ]
            tokens += [target, torch.where(plain, self._column(",", rows), HOLE)]
        joined = torch.cat(tokens, dim=1)
        mask = torch.zeros_like(joined)
        mask[:, table + 3 :: 5] = 1
        return self._compact(joined, mask)

    def _lookup_sizes(self, rows: int) -> Tensor:
        """Half the tables are full, the other half shorter, so that easy ones come first."""
        short = 1 + self._integers(self.rows, rows)
        return torch.where(self._integers(2, rows) == 0, self.rows, short)

    def _track(self, rows: int) -> tuple[list[Tensor], list[Tensor]]:
        row = self.objects[self._choose(len(self.objects), self.places, rows)]
        kind = self._integers(3, rows)
        first, last = self._kind_range(kind)
        move = first + (torch.rand(rows, generator=self.generator, device=self.device) * (last - first)).long()
        head = [self._column(token, rows) for token in ("track", ":")]
        prompt = [*head, row, self._column(";", rows), self.move_tokens[move], self._column("=", rows)]
        return prompt, [row.gather(1, self.moves[move])]

    def _kind_range(self, kind: Tensor) -> tuple[Tensor, Tensor]:
        swaps, rotations = self.places * (self.places - 1), self.places - 1
        bounds = self._tensor([0, swaps, swaps + rotations, swaps + rotations + 1])
        return bounds[kind], bounds[kind + 1]

    def _all_moves(self) -> tuple[Tensor, Tensor]:
        """Every move as a permutation of places and as three tokens with holes: swaps, rotations, the flip."""
        places, ids = list(range(self.places)), self.ids
        permutations: list[list[int]] = []
        tokens: list[list[int]] = []
        for first in places:
            for second in (place for place in places if place != first):
                order = places.copy()
                order[first], order[second] = second, first
                permutations.append(order)
                tokens.append([ids["swap"], ids[str(first + 1)], ids[str(second + 1)]])
        for turn in places[1:]:
            permutations.append(places[turn:] + places[:turn])
            tokens.append([ids["rotate"], ids[str(turn)], HOLE])
        permutations.append(places[::-1])
        tokens.append([ids["flip"], HOLE, HOLE])
        return self._tensor(permutations), self._tensor(tokens)

    def _number(self, value: Tensor) -> Tensor:
        """Three columns of digit tokens, holes where the number has fewer digits."""
        hundreds, tens, ones = value // 100, value // 10 % 10, value % 10
        one_digit, two_digits = value < 10, value < 100
        first = torch.where(two_digits, HOLE, self.digits[hundreds])
        second = torch.where(one_digit, HOLE, torch.where(two_digits, self.digits[tens], self.continued[tens]))
        third = torch.where(one_digit, self.digits[ones], self.continued[ones])
        return torch.stack([first, second, third], dim=1)

    def _choose(self, population: int, count: int, rows: int) -> Tensor:
        """`count` distinct indices a row."""
        return torch.rand(rows, population, generator=self.generator, device=self.device).topk(count, dim=1).indices

    def _order(self, size: int, rows: int) -> Tensor:
        return torch.rand(rows, size, generator=self.generator, device=self.device).argsort(dim=1)

    def _integers(self, high: int, rows: int) -> Tensor:
        return torch.randint(high, (rows,), generator=self.generator, device=self.device)

    def _column(self, token: str, rows: int) -> Tensor:
        return torch.full((rows, 1), self.ids[token], device=self.device)

    def _words(self, tokens: Sequence[str]) -> Tensor:
        return self._tensor([self.ids[token] for token in tokens])

    def _tensor(self, values: object) -> Tensor:
        return torch.tensor(values, device=self.device)
