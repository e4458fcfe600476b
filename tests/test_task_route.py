"""Planning: stars, webs, their shortcuts and their plans."""

import itertools
import math

import numpy as np
import pytest

from lmbench.config import make
from lmbench.tasks.draws import Draws, mixed
from lmbench.tasks.examples import examples, parse
from lmbench.tasks.graphs import Star, Web, count_webs, shortest_plan, webs
from lmbench.tasks.route import Route, moves_of
from lmbench.tasks.symbols import PAD, SYMBOLS, encode, spell

FAR = 4.5  # standard errors
LEVELS = range(len(Route.LEVELS))
STARS = [level for level in LEVELS if isinstance(Route.LEVELS[level], Star)]
WEBS = [level for level in LEVELS if isinstance(Route.LEVELS[level], Web)]


class Tiny(Route):
    """Small enough to count."""

    LEVELS = (Star(2, 1), Star(2, 2), Star(3, 1), Web(4, 2, 2), Web(5, 1, 3), Web(4, 1, 1))


def read(task, *, n=300, split="test", seed=0):
    """(body, question, answer) of examples, by reading."""
    made = examples(task, seed=seed, split=split, index_N=np.arange(n))
    rows = [[SYMBOLS[token] for token in row if token != PAD] for row in made.tokens_NT]
    return [parse(row, surface=task.surface) for row in rows]


def symbols(text):
    return text.split()


def keys_of(n):
    return (Draws(mixed(np.arange(start, start + n, dtype=np.uint64))) for start in (0, n))


def test_a_star_looks_as_stated():
    body, query, answer = read(make("task", "route", level=1))[0]
    moves = moves_of(body)
    assert len(body) == 4 * 4 - 1 and body[1::4] == [">"] * 4 and body[3::4] == [";"] * 3
    start, goal = query
    assert len(moves[start]) == 2 and answer[0] in moves[start] and moves[answer[0]] == [goal]


@pytest.mark.parametrize("level", LEVELS)
def test_the_plan_is_the_only_shortest_one(level):
    """All walks of its length from the start are tried: one ends at the goal, and no shorter one does."""
    task = make("task", "route", level=level)
    for body, (start, goal), answer in read(task, n=30):
        moves, walks = moves_of(body), [(start,)]
        for step in range(1, task.settings.moves + 1):
            walks = [(*walk, move) for walk in walks for move in moves.get(walk[-1], [])]
            found = [walk for walk in walks if walk[-1] == goal]
            assert len(found) == (step == task.settings.moves)
        assert list(found[0][1:])[: len(answer)] == answer
        assert len(answer) == (task.settings.moves if level in WEBS else 1)


@pytest.mark.parametrize("level", WEBS)
def test_every_node_of_a_web_has_as_many_moves(level):
    web = Route.LEVELS[level]
    head_NVD, plan_NM = webs(next(keys_of(200)), web)
    assert plan_NM.shape == (200, web.moves) and (plan_NM > 0).all()
    for heads in head_NVD:
        assert all(len({at, *row}) == web.degree + 1 for at, row in enumerate(heads.tolist()))


@pytest.mark.parametrize("surface", ["statement", "question"])
@pytest.mark.parametrize("level", [0, 3, 9, 10, 12])
def test_a_uniform_legal_policy_scores_chance(level, surface):
    task, rng = make("task", "route", level=level, surface=surface), np.random.default_rng(0)
    right = np.array(
        [task.judge(body, query, task.guess(body, query, rng=rng)) for body, query, _ in read(task, n=600)]
    )
    chance = task.ladder().score["chance"]
    settings = task.settings
    assert chance == (1 / settings.arms if level in STARS else settings.degree**-settings.moves)
    assert task.ladder().answer_nll["chance"] == pytest.approx(-math.log(chance))
    assert abs(right.mean() - chance) < FAR * math.sqrt(chance * (1 - chance) / len(right))


@pytest.mark.parametrize("level", STARS)
def test_shortcuts_in_stars_score_their_rungs(level):
    task, rng = make("task", "route", level=level), np.random.default_rng(0)
    ladder, rows = task.ladder().score, read(task, n=600)
    assert np.mean([answer == query[1:] for _, query, answer in rows]) == ladder["goal"]
    nodes = (sorted({symbol for symbol in body if symbol.isalpha()}) for body, _, _ in rows)
    right = np.mean(
        [rng.choice(names) == answer[0] for names, (_, _, answer) in zip(nodes, rows, strict=True)]
    )
    rung = ladder["some_node"]
    assert abs(right - rung) < FAR * math.sqrt(rung * (1 - rung) / len(rows))


def looking_ahead(task, body, query, *, ahead, rng):
    """Random legal moves until the goal is `ahead` moves away, then straight to it."""
    moves, said = moves_of(body), [query[0]]
    while len(said) <= task.settings.moves:
        try:
            rest = shortest_plan(moves, said[-1], query[1])
        except ValueError:
            rest = [""] * 99
        said.append(rest[0] if len(rest) in range(1, ahead + 1) else str(rng.choice(moves[said[-1]])))
    return said[1:]


@pytest.mark.parametrize("level", WEBS)
def test_looking_some_moves_ahead_in_webs_scores_its_rungs(level):
    task, rng = make("task", "route", level=level), np.random.default_rng(0)
    rows = read(task, n=300)
    for ahead in range(1, task.settings.moves):
        rung = task.ladder().score[f"look_ahead_{ahead}"]
        said = (looking_ahead(task, body, query, ahead=ahead, rng=rng) for body, query, _ in rows)
        right = np.mean([task.judge(*row[:2], plan) for row, plan in zip(rows, said, strict=True)])
        assert abs(right - rung) < FAR * math.sqrt(rung * (1 - rung) / len(rows))


def test_any_shortest_plan_is_accepted_and_nothing_else():
    web, star = make("task", "route", level=10), make("task", "route", level=1)
    body = symbols("a > b ; a > c ; b > d ; c > d ; d > a ; d > b")
    assert web.judge(body, ["a", "d"], ["b", "d"]) and web.judge(body, ["a", "d"], ["c", "d"])
    for said in (["d"], ["b", "c"], ["c", "b"], ["b", "d", "d"], [], ["b"]):
        assert not web.judge(body, ["a", "d"], said)
    body = symbols("a > b ; b > d ; a > c ; c > e")
    assert star.judge(body, ["a", "e"], ["c"]) and not star.judge(body, ["a", "e"], ["b"])
    with pytest.raises(ValueError, match="no way leads from 'b' to 'e'"):
        shortest_plan(moves_of(body), "b", "e")


# ------------------------------------------------------------------ how many there are


def counted_webs(n_nodes, degree, moves):
    """By trying all of them."""
    sets = [
        list(itertools.combinations([v for v in range(n_nodes) if v != node], degree))
        for node in range(n_nodes)
    ]
    found = 0
    for heads in itertools.product(*sets):
        for start in range(n_nodes):
            paths, seen = {start: 1}, {start}
            for _ in range(moves):
                after = {}
                for node, ways in paths.items():
                    for head in set(heads[node]) - seen:
                        after[head] = after.get(head, 0) + ways
                paths, seen = after, seen | set(after)
            found += sum(ways == 1 for ways in paths.values())
    return found


@pytest.mark.parametrize(
    "web", [(3, 1, 2), (3, 2, 1), (4, 1, 3), (4, 2, 1), (4, 2, 2), (4, 2, 3), (5, 2, 2), (5, 2, 3), (5, 3, 2)]
)
def test_webs_are_counted_exactly(web):
    assert count_webs(*web) == counted_webs(*web)


@pytest.mark.parametrize("level", range(len(Tiny.LEVELS)))
def test_forms_are_as_many_as_stated_and_all_are_drawn(level, monkeypatch):
    """On an alphabet of 5 names, so that all can be met."""
    for module in ("synthetic", "route"):
        monkeypatch.setitem(
            getattr(__import__(f"lmbench.tasks.{module}").tasks, module).ALPHABETS, "first", range(5)
        )
    task = Tiny(level=level, names="first")
    space = round(2 ** task.log2_space())
    forms = task.generate(*keys_of(40 * space + 2000), train=False).form_NC
    assert len(np.unique(forms, axis=0)) == space


def test_the_form_is_the_set_of_edges_with_start_and_goal():
    task = make("task", "route", level=7)
    made = examples(task, seed=0, split="test", index_N=np.arange(50))
    again = examples(task, seed=0, split="test", index_N=np.arange(50), rewrite=1)
    assert (made.hash_N == again.hash_N).all() and (made.tokens_NT != again.tokens_NT).any()
    for one, other in zip(made.tokens_NT, again.tokens_NT, strict=True):
        edges = [
            sorted(spell(row).removeprefix("<bos> ").split(" ? ")[0].split(" ; ")) for row in (one, other)
        ]
        assert edges[0] == edges[1]


# ------------------------------------------------------------------ the control


def test_the_whole_path_is_taught_but_only_the_first_move_is_scored():
    task, plain = (make("task", "route", level=2, whole=whole) for whole in (True, False))
    rows = read(task, n=40, split="train")
    for (body, query, path), (_, _, first) in zip(rows, read(plain, n=40, split="train"), strict=True):
        assert path == shortest_plan(moves_of(body), *query) and path[:1] == first
    assert [row[2] for row in read(task, n=40)] == [row[2] for row in read(plain, n=40)]
    held = examples(task, seed=0, split="test", index_N=np.arange(40))
    assert (held.is_answer_NT.sum(axis=1) == 1).all()
    assert task.level_name == "2, whole=True" and plain.level_name == "2"


def test_the_whole_path_is_of_stars_only():
    with pytest.raises(ValueError, match="whole = true is not accepted at level 10: its plans are whole"):
        make("task", "route", level=10, whole=True)


def test_half_an_alphabet_suffices_up_to_thirteen_nodes():
    for level in LEVELS:
        task = make("task", "route", level=level, names="second")
        if task.settings.n_nodes <= 13:
            body, query, answer = read(task, n=1)[0]
            letters = [symbol for symbol in (*body, *query, *answer) if symbol.isalpha()]
            assert min(letters) >= "n" and encode(letters[0]) in task.choices()[0]
        else:
            with pytest.raises(
                ValueError, match=f"route level {level} needs 26 names; names = 'second' has 13"
            ):
                read(task, n=1)
