"""GPU-hours and money from ledger records."""

from __future__ import annotations

from dynamicverse.cluster.cost import PoolCost, costs


def test_hours_and_money_by_pool() -> None:
    records = [
        {"pool": "any", "seconds": 3000.0, "load_seconds": 600.0},
        {"pool": "any", "seconds": 3600.0},
        {"seconds": 1800.0},
        {"outcome": "cached"},
    ]
    assert costs(records, {"any": 2.5}) == [
        PoolCost("any", 2.0, 5.0),
        PoolCost("cpu", 0.5, None),
    ]


def test_nothing_computed_costs_nothing() -> None:
    assert costs([{"outcome": "cached", "pool": "any"}], {"any": 2.5}) == []
