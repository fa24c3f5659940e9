"""The flow's configuration: all of it comes from the YAML, and what is not implemented is refused by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from services.common.checkpoint.flow_config import (
    ConformerConfig,
    ConvolutionConfig,
    DiTConfig,
    FlowConfig,
    SolverConfig,
    UNetConfig,
    read_flow,
)
from services.common.checkpoint.hyperyaml import read_hyper_yaml
from services.common.checkpoint.model_dir import ModelDirError, open_model_dir
from services.common.checkpoint.yaml_nodes import NodeError
from services.common.families import COSYVOICE2, COSYVOICE3

DATA = Path(__file__).parents[2] / "data"
RAW = {family: read_hyper_yaml(DATA / f"cosyvoice{family}-mini" / f"cosyvoice{family}.yaml") for family in (2, 3)}
KINDS = {2: COSYVOICE2.flow, 3: COSYVOICE3.flow}
ESTIMATOR, CFM = "flow.decoder.estimator", "flow.decoder.cfm_params.content"
REMOVED = object()


def edited(family: int, path: str, value: Any) -> dict[str, Any]:
    """The mini's YAML with another value at `path`."""
    raw = copy.deepcopy(RAW[family])
    *parents, name = path.split(".")
    node = raw
    for parent in parents:
        node = node[parent]
    if value is REMOVED:
        del node[name]
    else:
        node[name] = value
    return raw


def test_the_minis_are_read() -> None:
    solver = SolverConfig(steps=10, schedule="cosine", cfg_rate=0.7)
    assert read_flow(RAW[2], KINDS[2]) == FlowConfig(
        6561, 80, 192, 3, 2, 25, solver, ConformerConfig(48, 48, 4, 96, 2, 4), UNetConfig(32, 2, 32, 2, 2)
    )
    assert read_flow(RAW[3], KINDS[3]) == FlowConfig(
        6561, 80, 192, 3, 2, 25, solver, ConvolutionConfig(80, 48), DiTConfig(64, 3, 4, 16, 2)
    )


@pytest.mark.parametrize("family", [2, 3])
def test_steps_schedule_and_guidance_are_the_checkpoints(family: int) -> None:
    raw = edited(family, f"{CFM}.n_timesteps", 4)
    raw["flow"]["decoder"]["cfm_params"]["content"] |= {"inference_cfg_rate": 0, "t_scheduler": "linear"}
    solver = read_flow(raw, KINDS[family]).solver
    assert solver == SolverConfig(steps=4, schedule="linear", cfg_rate=0.0)
    assert (solver.rows, read_flow(RAW[family], KINDS[family]).solver.rows) == (1, 2)


@pytest.mark.parametrize(
    ("family", "path", "value"),
    [
        *((family, f"{CFM}.t_scheduler", "sigmoid") for family in (2, 3)),
        *((family, f"{CFM}.solver", "midpoint") for family in (2, 3)),
        *((family, f"{CFM}.sigma_min", "1e-04") for family in (2, 3)),
        *((family, f"{CFM}.temperature", 0.8) for family in (2, 3)),
        *((family, f"{ESTIMATOR}.static_chunk_size", 100) for family in (2, 3)),
        *((family, f"{ESTIMATOR}.out_channels", 100) for family in (2, 3)),
        *((family, f"{ESTIMATOR}.qk_norm", "rms_norm") for family in (2, 3)),
        *((family, "flow.output_type", "code") for family in (2, 3)),
        *((family, "flow.input_frame_rate", 50) for family in (2, 3)),
        *((family, "flow.decoder.spk_emb_dim", 192) for family in (2, 3)),
        (2, "flow.encoder.use_cnn_module", True),
        (2, "flow.encoder.macaron_style", True),
        (2, "flow.encoder.normalize_before", False),
        (2, "flow.encoder.input_layer", "conv2d"),
        (2, "flow.encoder.selfattention_layer_type", "selfattn"),
        (2, "flow.encoder.static_chunk_size", 50),
        (2, "flow.encoder.attention_heads", 5),
        (2, f"{ESTIMATOR}.act_fn", "snake"),
        (2, f"{ESTIMATOR}.channels", [32, 32]),
        (2, f"{ESTIMATOR}.in_channels", 240),
        (3, f"{ESTIMATOR}.long_skip_connection", True),
        (3, f"{ESTIMATOR}.mu_dim", 512),
        (3, f"{ESTIMATOR}.dim", 72),
        (3, f"{ESTIMATOR}.dim_head", 15),
        (3, "flow.input_size", 512),
        (3, "flow.pre_lookahead_layer.in_channels", 512),
        (3, "flow.pre_lookahead_layer.pre_lookahead_len", 4),
    ],
)
def test_a_value_that_is_not_implemented_is_refused_by_name(family: int, path: str, value: Any) -> None:
    with pytest.raises(NodeError, match=path.replace(".", r"\.")):
        read_flow(edited(family, path, value), KINDS[family])


@pytest.mark.parametrize(
    ("family", "path"),
    [
        *((family, "spk_embed_dim") for family in (2, 3)),
        *((family, "chunk_size") for family in (2, 3)),
        *((family, "token_mel_ratio") for family in (2, 3)),
        *((family, "flow.pre_lookahead_len") for family in (2, 3)),
        *((family, "flow.output_size") for family in (2, 3)),
        *((family, f"{CFM}.inference_cfg_rate") for family in (2, 3)),
        *((family, f"{CFM}.t_scheduler") for family in (2, 3)),
        *((2, f"flow.encoder.{name}") for name in ("output_size", "attention_heads", "linear_units", "num_blocks")),
        *((2, f"{ESTIMATOR}.{name}") for name in ("channels", "n_blocks", "num_mid_blocks", "num_heads")),
        *((3, f"{ESTIMATOR}.{name}") for name in ("dim", "depth", "heads", "dim_head", "ff_mult", "mel_dim")),
        (3, f"{ESTIMATOR}.static_chunk_size"),
        (3, "flow.pre_lookahead_layer"),
        (3, "flow.pre_lookahead_layer.channels"),
    ],
)
def test_a_missing_value_is_named(family: int, path: str) -> None:
    with pytest.raises(NodeError, match=path.replace(".", r"\.") + " is missing"):
        read_flow(edited(family, path, REMOVED), KINDS[family])


@pytest.mark.parametrize("value", ["10", True, 0, 2.5, None, []])
def test_a_value_of_the_wrong_type_is_named(value: Any) -> None:
    with pytest.raises(NodeError, match=r"content\.n_timesteps is .*, expected a whole number of at least 1"):
        read_flow(edited(3, f"{CFM}.n_timesteps", value), KINDS[3])
    with pytest.raises(NodeError, match=r"flow\.pre_lookahead_layer is .*, expected a mapping"):
        read_flow(edited(3, "flow.pre_lookahead_layer", value), KINDS[3])


def test_the_error_of_a_directory_names_the_file(tmp_path: Path) -> None:
    source = DATA / "cosyvoice2-mini"
    for file in source.iterdir():
        (tmp_path / file.name).symlink_to(file)
    yaml = tmp_path / "cosyvoice2.yaml"
    yaml.unlink()
    text = (source / "cosyvoice2.yaml").read_text(encoding="utf-8")
    yaml.write_text(text.replace("solver: 'euler'", "solver: 'heun'"), encoding="utf-8")
    with pytest.raises(ModelDirError, match=r"cosyvoice2\.yaml: flow\.decoder\..*\.solver is 'heun', which is not"):
        open_model_dir(tmp_path)
