"""A scene that kills its process is known to the next one; a process that is told to end is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamicverse.runner.starts import MAX_CRASHES, Starts
from dynamicverse.runner.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def starts(store: Store) -> Starts:
    return Starts(store, ".runs/r", "tracks", 0, written=True)


def dies(store: Store, *names: str) -> None:
    """A process that begins scenes and is gone."""
    process = starts(store).__enter__()
    for name in names:
        process.begin(name, "key")


def test_a_death_counts_for_the_scene_under_way(store: Store) -> None:
    for count in range(1, MAX_CRASHES + 1):
        dies(store, "poison")
        assert starts(store).crashes("poison", "key") == count
    assert starts(store).crashes("poison", "other key") == 0
    assert starts(store).crashes("good", "key") == 0


def test_a_scene_that_ended_is_not_blamed(store: Store) -> None:
    process = starts(store).__enter__()
    process.begin("good", "key")
    process.end("good", "key")
    process.begin("poison", "key")
    assert starts(store).crashes("good", "key") == 0
    assert starts(store).crashes("poison", "key") == 1


def test_a_process_that_is_told_to_end_blames_none(store: Store) -> None:
    dies(store, "poison")

    def told_to_end() -> None:
        with starts(store) as process:
            process.begin("poison", "key")
            process.begin("good", "key")
            raise SystemExit(75)

    with pytest.raises(SystemExit):
        told_to_end()
    assert starts(store).crashes("poison", "key") == 1
    assert starts(store).crashes("good", "key") == 0


def test_nothing_is_left_when_all_is_done(store: Store) -> None:
    dies(store, "a")
    with starts(store) as process:
        process.begin("a", "key")
        process.end("a", "key")
    assert store.sizes(".runs") == {}


def test_a_torn_file_counts_anew(store: Store) -> None:
    dies(store, "a")
    store.write(".runs/r/started/tracks/00000.json", b'{"started": [["a"')
    assert starts(store).crashes("a", "key") == 0
