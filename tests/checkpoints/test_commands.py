"""``cmae-mm import``, ``export``, ``inspect`` and ``--backbone`` as a user calls them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cmae_mm.checkpoints import load_backbone, save_backbone, sha256_of
from cmae_mm.checkpoints.acquire import backbone_from, default_name
from cmae_mm.cli import run
from cmae_mm.engine.config import set_backbone
from cmae_mm.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden"
HOLD_ENCODERS = {
    "cmae_released_tiny": ("cmae", 30),
    "mae_official_tiny": ("mae", 42),
    "convmae_tiny": ("convmae", 93),
}


@pytest.fixture
def suite(call, capsys, tmp_path, monkeypatch):
    """Call a command in an empty folder; returns exit code, standard output and errors."""
    monkeypatch.chdir(tmp_path)

    def run_it(*words):
        code = call(run, *words)
        out = capsys.readouterr()
        return code, out.out, out.err

    return run_it


@pytest.fixture
def mae(zoo, tmp_path):
    model = zoo.vit(depth=12, embed_dim=192, num_heads=3)  # a size whose heads are known
    model.pos_embed.data.copy_(zoo.fixed_table("col", width=192))
    torch.save({"model": model.state_dict()}, tmp_path / "mae_pretrain_vit_tiny.pth")
    return model


@pytest.mark.parametrize("name", sorted(p.stem for p in GOLDEN.glob("*.safetensors")))
def test_recordings_are_imported_then_inspected(suite, name):
    """Tensors of the model below ``state.`` become a backbone file; ViTDet's encoder is refused with a reason."""
    code, said, error = suite("import", GOLDEN / f"{name}.safetensors", "--heads", 4)
    if name not in HOLD_ENCODERS:
        assert code == 2
        assert "ViTDet have decomposed relative positions" in error
        return
    family, tensors = HOLD_ENCODERS[name]
    assert code == 0
    assert f": {family} (" in said
    assert f"written: {name}.backbone.safetensors" in said
    code, said, _ = suite("inspect", f"{name}.backbone.safetensors")
    assert code == 0
    assert f"family: {family}" in said
    assert f"tensors: {tensors} tensors" in said
    assert "\n!" not in said


def test_import_says_what_it_did(suite, mae, tmp_path):
    code, said, _ = suite("import", "mae_pretrain_vit_tiny.pth")
    assert code == 0
    lines = said.splitlines()
    assert lines[0].startswith(
        "mae_pretrain_vit_tiny.pth: mae (encoder), 12 blocks of width 192 with 3 heads"
    )
    assert [line.split(":")[0] for line in lines[1:]] == ["recognised", "fed with", "licence", "written"]
    state, header = load_backbone(tmp_path / "mae_pretrain_vit_tiny.backbone.safetensors")
    assert header.source_sha256 == sha256_of(tmp_path / "mae_pretrain_vit_tiny.pth")
    assert all(torch.equal(v, mae.state_dict()[k]) for k, v in state.items())


def test_options_of_import_reach_the_header(suite, zoo, tmp_path):
    torch.save(zoo.vit().state_dict(), tmp_path / "vit.pth")
    sha256 = sha256_of(tmp_path / "vit.pth")
    words = ("--source", "timm-vit", "--channel-order", "bgr", "--normalization", "half", "--heads", 6)
    code, _, _ = suite("import", "vit.pth", *words, "--sha256", sha256, "--out", "deep/x.safetensors")
    assert code == 0
    header = load_backbone(tmp_path / "deep" / "x.safetensors")[1]
    assert (header.family, header.channel_order, header.mean, header.heads) == (
        "timm-vit",
        "bgr",
        (127.5,) * 3,
        6,
    )
    code, _, error = suite("import", "vit.pth", *words, "--sha256", "0" * 64)
    assert (code, "it is damaged or another file" in error) == (2, True)
    code, _, error = suite("import", "vit.pth", "--heads", 3)
    assert (code, "say which it is with `--source NAME`" in error) == (2, True)


def test_import_keeps_what_is_there(suite, mae, tmp_path):
    target = tmp_path / "mae_pretrain_vit_tiny.backbone.safetensors"
    target.write_text("something of the user's")
    code, _, error = suite("import", "mae_pretrain_vit_tiny.pth")
    assert code == 2
    assert "is there already; give another --out, or --force" in error
    assert target.read_text() == "something of the user's"
    assert suite("import", "mae_pretrain_vit_tiny.pth", "--force")[0] == 0
    first = target.read_bytes()
    assert suite("import", "mae_pretrain_vit_tiny.pth")[0] == 0  # made of the same checkpoint
    assert target.read_bytes() == first
    torch.save({"model": {k: v + 1 for k, v in mae.state_dict().items() if k != "pos_embed"}}, "other.pth")
    code, _, error = suite("import", "other.pth", "--out", target)
    assert (code, "is there already" in error) == (2, True)
    code, _, error = suite(
        "import", "mae_pretrain_vit_tiny.pth", "--out", "mae_pretrain_vit_tiny.pth", "--force"
    )
    assert (code, "is the file that is read" in error) == (2, True)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("mae_pretrain_vit_base.pth", "mae_pretrain_vit_base"),
        ("work_dirs/pre/last.pth", "pre-last"),
        ("work_dirs/pre/epoch_300.pth", "pre-epoch_300"),
        ("last.pth", "last"),
        ("../last.pth", "last"),
        ("hf://facebook/vit-mae-base/pytorch_model.bin", "vit-mae-base-pytorch_model"),
        ("hf://org/name@main/model.safetensors", "name-model"),
        ("https://a.b/c/mae%20x.pth?download=1#sha256=" + "0" * 64, "mae_20x"),
        ("/data/cmae.backbone.safetensors", "cmae"),
        ("moco.pth.tar", "moco"),
    ],
)
def test_default_names(reference, name):
    assert default_name(reference) == name


class TestExport:
    def file(self, encoder, tmp_path, **change):
        state, header = encoder(**change)
        fed = dict(channel_order="bgr", mean=header.mean[::-1], std=header.std[::-1])
        header = replace(header, ln_eps=1e-6, **fed)
        save_backbone(tmp_path / "x.backbone.safetensors", state, header)
        return state, header

    @pytest.mark.parametrize("kind", [{}, {"layer_scale": True}, {"position": "patches", "registers": 4},
                                      {"class_token": False}, {"final_norm": "fc_norm"}, {"final_norm": "none"},
                                      {"mlp": "swiglu", "hidden": 128}, {"position": "none"},
                                      {"relative_position": True, "final_norm": "fc_norm", "layer_scale": True},
                                      {"relative_position": True}], ids=str)  # fmt: skip
    def test_timm_reads_it_as_printed(self, suite, encoder, tmp_path, kind):
        """The printed line is run, and the tensors load strictly."""
        import timm

        self.file(encoder, tmp_path, **kind)
        code, said, _ = suite("export", "x.backbone.safetensors", "--to", "timm")
        assert code == 0
        create, load = [line for line in said.splitlines() if line.startswith("model")]
        model = eval(create.removeprefix("model = "), {"timm": timm})
        state = load_file(re.search(r"load_file\('(.*)'\)", load)[1])
        assert model.load_state_dict(state, strict=True)
        assert "BGR images" in said

    @pytest.mark.parametrize(("library", "model"), [("mmpretrain", "MAE"), ("mmseg", "MAE"),
                                                    ("mmseg", "VisionTransformer")])  # fmt: skip
    def test_openmmlab_reads_it_as_printed(self, suite, encoder, tmp_path, library, model):
        """The printed config is built; its ``init_cfg`` loads the file through the library's own loader."""
        import importlib

        registry = importlib.import_module(f"{library}.registry").MODELS
        state, _ = self.file(encoder, tmp_path)
        code, said, _ = suite("export", "x.backbone.safetensors", "--to", library, "--model", model)
        assert code == 0
        config = next(line for line in said.splitlines() if line.startswith("backbone = "))
        backbone = registry.build(eval(config.removeprefix("backbone = ")))
        backbone.init_weights()
        own = backbone.state_dict()
        saved = torch.load(f"x.{library}.pth", weights_only=True)
        assert saved["state_dict"].keys() == own.keys()
        assert all(torch.equal(own[k], v) for k, v in saved["state_dict"].items())
        assert torch.equal(own["patch_embed.projection.weight"], state["patch_embed.proj.weight"])

    def test_mmdet_and_vitdet(self, suite, encoder, tmp_path):
        from cmae_mm.transfer.coco import CMAEViTDet

        state, _ = self.file(encoder, tmp_path)
        assert suite("export", "x.backbone.safetensors", "--to", "mmdet", "--out", "vitdet.pth")[0] == 0
        saved = torch.load("vitdet.pth", weights_only=True)
        size = dict(img_size=40, patch_size=8, embed_dims=48, depth=2, num_heads=3, mlp_ratio=2)
        model = CMAEViTDet(**size, pretrain_img_size=40, window_blocks=())
        missing, unexpected = model.load_state_dict(saved["model"], strict=False)
        assert unexpected == []
        assert {key.rpartition(".")[2] for key in missing} == {"rel_pos_h", "rel_pos_w"}
        assert torch.equal(model.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])

    def test_hf_is_a_folder(self, suite, encoder, tmp_path):
        state, header = self.file(encoder, tmp_path)
        code, said, _ = suite("export", "x.backbone.safetensors", "--to", "hf")
        assert code == 0
        assert "transformers.ViTModel.from_pretrained('x.hf')" in said
        folder = tmp_path / "x.hf"
        assert {p.name for p in folder.iterdir()} == {
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        }
        assert json.loads((folder / "config.json").read_text())["hidden_size"] == header.width
        processor = json.loads((folder / "preprocessor_config.json").read_text())
        assert [255 * v for v in processor["image_mean"]] == pytest.approx(header.mean)
        code, said, _ = suite(
            "import", folder / "model.safetensors", "--source", "hf-vit"
        )  # and the way back
        assert code == 0
        back, again = load_backbone(tmp_path / "x.hf-model.backbone.safetensors")
        assert all(torch.equal(back[k], v) for k, v in state.items())
        assert (again.heads, again.mean, again.ln_eps) == (header.heads, header.mean, header.ln_eps)
        assert suite("export", "x.backbone.safetensors", "--to", "hf")[0] == 2
        assert suite("export", "x.backbone.safetensors", "--to", "hf", "--force")[0] == 0

    def test_folded_input(self, suite, encoder, tmp_path):
        state, _ = self.file(encoder, tmp_path)
        code, said, _ = suite("export", "x.backbone.safetensors", "--to", "timm", "--fold-input")
        assert code == 0
        assert "feed it with RGB images, mean 123.675," in said
        folded = load_file("x.timm.safetensors")["patch_embed.proj.weight"]
        assert torch.equal(folded, state["patch_embed.proj.weight"].flip(1))

    def test_a_checkpoint_is_imported_on_the_way(self, suite, mae):
        code, said, _ = suite("export", "mae_pretrain_vit_tiny.pth", "--to", "mmpretrain")
        assert code == 0
        assert "mae (encoder)" in said
        assert Path("mae_pretrain_vit_tiny.mmpretrain.pth").is_file()

    def test_mistakes(self, suite, encoder, tmp_path):
        self.file(encoder, tmp_path, registers=4, position="patches")
        for words, error in (
            (("--to", "keras"), "--to 'keras' is not known; give --to timm, mmpretrain, mmseg, mmdet, hf"),
            (("--to", "mmpretrain"), "mmpretrain's VisionTransformer has no place for register tokens"),
            (("--to", "mmseg", "--model", "Swin"), "--model 'Swin' is no backbone of mmseg"),
            (("--to", "timm", "--out", "x.backbone.safetensors", "--force"), "is the file that is read"),
        ):
            code, _, said = suite("export", "x.backbone.safetensors", *words)
            assert code == 2
            assert error in said
        assert [p.name for p in tmp_path.iterdir()] == ["x.backbone.safetensors"]


def test_inspect_in_json(suite, mae):
    assert suite("import", "mae_pretrain_vit_tiny.pth")[0] == 0
    code, said, _ = suite("inspect", "mae_pretrain_vit_tiny.backbone.safetensors", "--json")
    assert code == 0
    found = json.loads(said)
    assert (found["kind"], found["header"]["family"], found["warnings"]) == ("backbone file", "mae", [])
    (model,) = found["models"]
    state = mae.state_dict()
    assert model["parameters"] == sum(v.numel() for v in state.values())
    assert {k: v["shape"] for k, v in model["tensors"].items()} == {
        k: list(v.shape) for k, v in state.items()
    }
    inside = torch.cat([v.flatten() for k, v in state.items() if k.startswith("blocks.7.")])
    assert model["block_norms"]["blocks.7"] == pytest.approx(float(inside.double().norm()))
    code, said, _ = suite("inspect", "mae_pretrain_vit_tiny.pth", "--json")
    found = json.loads(said)
    assert (found["kind"], found["families"], found["models"][0]["name"]) == ("checkpoint", ["mae"], "model")


class TestBackboneOfATransfer:
    """``tools/train.py --backbone`` takes what `import` takes, where nothing has to be asked."""

    def config(self, folder):
        from mmengine.config import Config

        return Config(dict(model=dict(backbone=dict(backbone_file=None)), work_dir=str(folder / "work")))

    def test_a_backbone_file_is_used_where_it_lies(self, backbone_file, tmp_path):
        cfg = self.config(tmp_path)
        set_backbone(cfg, backbone_file)
        assert cfg.model.backbone.backbone_file == str(backbone_file)
        assert not (tmp_path / "work").exists()

    def test_a_checkpoint_is_imported_into_the_work_dir_once(self, mae, tmp_path, capsys):
        cfg = self.config(tmp_path)
        set_backbone(cfg, tmp_path / "mae_pretrain_vit_tiny.pth")
        file = tmp_path / "work" / "mae_pretrain_vit_tiny.backbone.safetensors"
        assert cfg.model.backbone.backbone_file == str(file)
        assert f"imported: {file}" in capsys.readouterr().out
        written = file.stat().st_mtime_ns
        set_backbone(cfg, tmp_path / "mae_pretrain_vit_tiny.pth")  # as on resuming
        assert file.stat().st_mtime_ns == written
        assert capsys.readouterr().out == ""
        torch.save(
            {"model": {**mae.state_dict(), "norm.bias": torch.ones(192)}},
            tmp_path / "mae_pretrain_vit_tiny.pth",
        )
        set_backbone(cfg, tmp_path / "mae_pretrain_vit_tiny.pth")  # another checkpoint now
        assert torch.equal(load_backbone(file)[0]["norm.bias"], torch.ones(192))

    def test_what_has_to_be_said_names_the_command(self, zoo, tmp_path):
        torch.save(zoo.vit().state_dict(), tmp_path / "vit.pth")
        with pytest.raises(UserError, match=r"fits dino, ibot.*`cmae-mm import \S+vit\.pth` makes one"):
            set_backbone(self.config(tmp_path), tmp_path / "vit.pth")

    def test_references_are_fetched(self, backbone_file, tmp_path, monkeypatch):
        """Whatever `fetch` brings; for the hub the JSON files beside it are asked for too."""
        asked = []

        def fetch(reference, sha256=None):
            asked.append(reference)
            if reference.endswith("config.json"):
                raise UserError("the repository has no such file")
            return backbone_file

        monkeypatch.setattr("cmae_mm.checkpoints.acquire.fetch", fetch)
        cfg = self.config(tmp_path)
        set_backbone(cfg, "hf://org/name@v1/model.safetensors")
        assert cfg.model.backbone.backbone_file == str(backbone_file)
        folder = "hf://org/name@v1"
        assert asked == [
            f"{folder}/{n}" for n in ("model.safetensors", "config.json", "preprocessor_config.json")
        ]
        set_backbone(cfg, "https://a.b/x.safetensors")
        assert asked[3:] == ["https://a.b/x.safetensors"]

    def test_a_place_that_cannot_be_written(self, mae, tmp_path):
        (tmp_path / "work").write_text("a file")
        with pytest.raises(UserError, match="cannot be written"):
            backbone_from(str(tmp_path / "mae_pretrain_vit_tiny.pth"), tmp_path / "work")


def test_json_beside_a_file_is_read(suite, zoo, tmp_path):
    """As `acquire` lays files of the hub: weights and JSON in one folder."""
    model = zoo.vit(eps=1e-12)
    folder = tmp_path / "vit-x"
    folder.mkdir()
    torch.save(zoo.to_hf(model.state_dict()), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 3, "layer_norm_eps": 1e-12}))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    code, said, _ = suite("import", folder / "pytorch_model.bin")
    assert code == 0
    header = load_backbone(tmp_path / "vit-x-pytorch_model.backbone.safetensors")[1]
    assert (header.heads, header.mean, header.family) == (3, (127.5,) * 3, "hf-vit")
    assert "read beside it: config.json, preprocessor_config.json" in said
    shutil.rmtree(folder)
