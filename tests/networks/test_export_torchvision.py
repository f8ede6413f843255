"""Networks of torchvision, cut to about half by random masks, as pt2 and ONNX files."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from prune_gym.networks.formats import export_files
from prune_gym.pruning.compact import compact
from prune_gym.pruning.groups import find_filter_groups

EXAMPLE = torch.zeros(1, 3, 64, 64)
NETWORKS = {
    "resnet18": {},
    "resnet50": {},
    "mobilenet_v2": {},
    "densenet121": {},
    "efficientnet_b0": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "regnet_y_400mf": {},
}


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request):
    """A network with random norms, and what random masks leave of it."""
    models = pytest.importorskip("torchvision.models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.get_model(request.param, num_classes=10, **NETWORKS[request.param])
    tiny.randomised(network)
    groups = find_filter_groups(network, EXAMPLE)
    generator = np.random.default_rng(0)
    masks = [generator.permutation(group.n_filters) < -(-group.n_filters // 2) for group in groups]
    return network, compact(network, groups, masks)


@pytest.mark.slow
@pytest.mark.sampled
def test_round_trips(tmp_path, pair):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    network, pruned = pair
    paths = [tmp_path / "network.pt2", tmp_path / "network.onnx"]
    differences = list(export_files(pruned, EXAMPLE, paths))
    assert len(differences) == 2
    assert all(0.0 <= difference <= 1e-4 for difference in differences)
    dense_bytes = 4 * sum(parameter.numel() for parameter in network.parameters())
    for path in paths:
        assert 0 < path.stat().st_size < 0.6 * dense_bytes
