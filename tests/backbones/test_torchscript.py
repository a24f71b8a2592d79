"""TorchScript archives are read as data: the very tensors that `torch.jit.load` gives, without its code."""

from __future__ import annotations

import pickle
import warnings
import zipfile

import pytest
import torch
from torch import nn

from fsar_bench.backbones.reading import read_weights
from fsar_bench.backbones.torchscript import read_torchscript
from fsar_bench.backbones.weights import UnfitError


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class Network(nn.Module):
    """Modules in modules, buffers of both kinds, a tied parameter, a view, attributes that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.layers = nn.ModuleList([Scaled(), nn.Sequential(Scaled())])
        self.tied = self.linear.weight
        self.turned = nn.Parameter(torch.randn(4, 5)[1:, :3].T)
        self.plain = torch.ones(3)
        self.sizes = [1, 2]
        self.register_buffer("mask", torch.tensor([True, False]), persistent=False)
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.gelu(self.norm(self.linear(x)))
        for layer in self.layers:
            x = layer(x)
        return x + self.turned.sum() + self.plain.sum() + self.count


@pytest.fixture(params=["script", "trace"])
def archive(request, tmp_path):
    torch.manual_seed(0)
    network = Network().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = (
            torch.jit.script(network) if request.param == "script" else torch.jit.trace(network, torch.randn(2, 3))
        )
        compiled.save(str(tmp_path / "network.pt"))
    return tmp_path / "network.pt"


@pytest.mark.parametrize("half", [True, False])
def test_tensors_are_those_of_torch(archive, half, tmp_path):
    if half:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.load(archive).half().save(str(archive))
    expected = torch.jit.load(archive).state_dict()
    tensors, quick = read_torchscript(archive)
    assert list(tensors) == list(expected)
    assert "plain" not in tensors
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor)
        assert (tensors[name].dtype, tensors[name].shape) == (tensor.dtype, tensor.shape)
    assert quick is False


def test_no_code_of_an_archive_is_loaded(archive, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("code was loaded")

    monkeypatch.setattr(torch.jit, "load", refuse)
    monkeypatch.setattr(torch._C, "import_ir_module", refuse)
    assert read_weights(archive).origin == "a TorchScript archive"


def rewritten(archive, change, tmp_path):
    """The archive with other entries."""
    path = tmp_path / "changed.pt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return path


class Calls:
    def __reduce__(self):
        return (print, ("code of a file ran",))


BAD = {
    "a call": (lambda name, c: pickle.dumps(Calls(), 2) if name.endswith("/data.pkl") else c, "object other than modules"),
    "no pickle": (lambda name, c: None if name.endswith("/data.pkl") else c, "damaged TorchScript archive"),
    "junk": (lambda name, c: b"junk" if name.endswith("/data.pkl") else c, "damaged TorchScript archive"),
    "no storage": (lambda name, c: None if name.endswith("/data/0") else c, "damaged TorchScript archive"),
    "a short storage": (lambda name, c: c[:4] if "/data/" in name else c, "damaged TorchScript archive"),
    "a quantised type": (
        lambda name, c: c.replace(b"ctorch\nFloatStorage", b"ctorch\nQInt8Storage") if name.endswith("/data.pkl") else c,
        "quantised TorchScript",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_archives_of_another_content_are_refused(archive, tmp_path, name, capsys):
    change, match = BAD[name]
    with pytest.raises(UnfitError, match=match):
        read_weights(rewritten(archive, change, tmp_path))
    assert capsys.readouterr().out == ""


def test_an_unfinished_download_is_named(archive):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnfitError, match="part of a download"):
        read_weights(archive)
