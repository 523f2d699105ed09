"""The configuration: defaults, presets, overrides, and errors that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamicverse import config
from dynamicverse.errors import ConfigError


def test_the_documented_parameters_have_the_original_defaults() -> None:
    loaded = config.load()
    assert loaded.keyframes.flow_model == "dis"
    assert loaded.tracks.grid_size == 50
    assert loaded.tracks.interval == 10
    assert loaded.reconstruction.opt_intrinsics is True


def test_the_gpu_preset_chooses_the_models_of_the_paper() -> None:
    loaded = config.load("gpu")
    assert loaded.preset == "gpu"
    assert loaded.keyframes.flow_model == "unimatch"
    assert loaded.tracks.backend == "cotracker3"


def test_file_and_overrides_win_in_that_order(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("tracks: {grid_size: 20, interval: 5}\n")
    loaded = config.load(file=file, overrides=["tracks.interval=7"])
    assert (loaded.tracks.grid_size, loaded.tracks.interval) == (20, 7)
    assert loaded.tracks.backend == "klt"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tracks.gridsize=3", "did you mean 'tracks.grid_size'?"),
        ("trakcs.grid_size=3", "did you mean 'tracks'?"),
        ("tracks.grid_size=many", "tracks.grid_size = 'many'"),
        ("tracks.grid_size=1", "greater than or equal to 2"),
        ("tracks.grid_size.x=1", "tracks.grid_size"),
        ("tracks.grid_size", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("tracks.grid_size=[", "not valid YAML"),
        ("tracks=3", "tracks"),
    ],
)
def test_a_bad_override_is_one_line_that_helps(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(overrides=[override])
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["- a list", "just text", "a: [", "tracks: {grid_size: .nan}"])
def test_a_bad_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        config.load(file=file)


def test_files_that_cannot_be_read_and_unknown_presets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(file=tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="no preset 'fast'"):
        config.load("fast")


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text("tracks: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.load(file=file)


def test_a_configuration_survives_a_round_trip() -> None:
    loaded = config.load(overrides=["tracks.grid_size=33"])
    assert config.validate(loaded.model_dump(mode="json")) == loaded
