"""Permutations of sources and of groups of sources."""

from __future__ import annotations

import itertools

import numpy as np

from simkit.correlation.exchange import Exchange

RNG = np.random.default_rng


def as_groups(exchange: Exchange, order: np.ndarray) -> bool:
    """Whether each group's places are filled by the members of one group."""
    group = np.array(exchange.group)
    return all(len(set(group[order[group == g]])) == 1 for g in set(exchange.group))


def test_sources_without_a_group_are_groups_of_their_own() -> None:
    exchange = Exchange.of(["a", "b", "c", "d"], {"a": "x", "c": "x", "unknown": "x"})
    assert exchange.group == (0, 1, 0, 2)
    assert exchange.grouped
    assert not Exchange.of(["a", "b"], {}).grouped
    assert not Exchange.of(["a", "b"], {"a": "x", "b": "x"}).grouped  # one group is no grouping
    assert Exchange.of(["a", "b"], {"a": "b"}).group == (0, 1)  # a group that is called like a source is not that source


def test_few_orders_of_groups_are_enumerated_each_once() -> None:
    exchange = Exchange((0, 0, 1, 1, 2, 3))
    orders, exact = exchange.orders(10, RNG(0))
    assert exact
    assert len(orders) == 2 * (2 * 2) * 2  # two pairs change places, each within, and two single sources
    assert tuple(orders[0]) == (0, 1, 2, 3, 4, 5)
    brute = {order for order in itertools.permutations(range(6)) if as_groups(exchange, np.array(order))}
    assert {tuple(order) for order in orders} == brute


def test_many_orders_of_groups_are_drawn_evenly() -> None:
    exchange = Exchange((0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8))
    orders, exact = exchange.orders(4000, RNG(0))
    assert not exact
    assert all(as_groups(exchange, order) for order in orders)
    assert (np.sort(orders, axis=1) == np.arange(14)).all()
    seen = np.bincount(orders[:, 0], minlength=14) / 4000
    np.testing.assert_allclose(seen[:10], 0.1, atol=0.02)
    assert (seen[10:] == 0).all()  # a pair never goes to the place of a single source


def test_single_sources_are_all_exchanged() -> None:
    assert Exchange(tuple(range(5))).orders(10, RNG(0))[1]
    orders, exact = Exchange(tuple(range(12))).orders(50, RNG(0))
    assert not exact
    assert orders.shape == (50, 12)


def test_restricted_orders_are_those_of_the_kept_sources() -> None:
    exchange, kept = Exchange(tuple(range(5))), np.array([True, False, True, True, False])
    orders, _ = exchange.orders(10, RNG(0))
    found = exchange.restricted(orders, kept)
    assert (found[:, ~kept] == np.flatnonzero(~kept)).all()
    counts = dict.fromkeys(itertools.permutations((0, 2, 3)), 0)
    for order in found[:, kept]:
        counts[tuple(order)] += 1
    assert set(counts.values()) == {120 // 6}


def test_groups_are_drawn_together() -> None:
    exchange = Exchange((0, 0, 1, 2, 2, 2))
    weights = exchange.weights(500, RNG(0))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()
    assert (Exchange(tuple(range(6))).weights(50, RNG(0)).sum(1) == 6).all()
