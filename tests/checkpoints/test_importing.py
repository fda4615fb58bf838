"""What an import writes beside the tensors: header, report, and the sentence of every refusal."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cmae_mm.checkpoints import load_backbone, load_into
from cmae_mm.checkpoints.importing import import_checkpoint
from cmae_mm.checkpoints.known import known_family
from cmae_mm.checkpoints.sources import FAMILIES
from cmae_mm.errors import UserError

HALF, IMAGENET = (127.5,) * 3, (123.675, 116.28, 103.53)


@pytest.fixture
def mae(zoo, tmp_path):
    """A file as MAE publishes it, and the model in it."""
    model = zoo.vit("col")
    torch.save({"model": model.state_dict()}, tmp_path / "mae_pretrain_vit_tiny.pth")
    return tmp_path / "mae_pretrain_vit_tiny.pth", model


def saved(state, folder, name="file.pth"):
    torch.save(state, folder / name)
    return folder / name


def test_the_header_says_everything(mae):
    path, _ = mae
    header = import_checkpoint(path, heads=3).header
    assert (header.width, header.depth, header.heads, header.hidden) == (48, 2, 3, 96)
    assert (header.patch, header.image_size, header.grid) == (16, 64, 4)
    assert (header.method, header.family, header.branch, header.pooling) == ("mae", "mae", "", "avg")
    assert (header.mean, header.std) == (IMAGENET, (58.395, 57.12, 57.375))
    assert (header.channel_order, header.ln_eps) == ("rgb", 1e-6)
    assert "CC-BY-NC" in header.licence
    assert header.source == "mae_pretrain_vit_tiny.pth"
    assert header.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_backbone_file_holds_what_was_returned_and_loads(mae, zoo, tmp_path):
    path, model = mae
    result = import_checkpoint(path, tmp_path / "out" / "mae.safetensors", heads=3)
    state, header = load_backbone(tmp_path / "out" / "mae.safetensors")
    assert header == result.header
    assert set(state) == set(result.state)
    assert all(torch.equal(state[k], v) for k, v in result.state.items())
    fresh = zoo.vit(seed=9)
    load_into(fresh, tmp_path / "out" / "mae.safetensors")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in fresh.state_dict().items())


def test_nothing_is_written_without_a_target(mae):
    path, _ = mae
    import_checkpoint(path, heads=3)
    assert list(path.parent.iterdir()) == [path]


def test_the_report_reads_well(zoo, tmp_path):
    state = {**zoo.vit("col").state_dict(), **zoo.junk("mask_token", "decoder_embed.weight")}
    text = str(import_checkpoint(saved({"model": state}, tmp_path, "mae_visualize.pth"), heads=3).report)
    lines = text.splitlines()
    assert lines[0].endswith(
        "mae (with decoder), 2 blocks of width 48 with 3 heads, patch 16, 64 px, 0.1 M parameters"
    )
    assert lines[1] == "recognised: no other family has these keys, shapes and kind of positions"
    assert lines[2] == "left out: mask_token, decoder_*"
    assert lines[3].startswith(
        "fed with: RGB images, mean 123.675, 116.28, 103.53, standard deviation 58.395,"
    )
    assert lines[4] == "licence: CC-BY-NC 4.0 (facebookresearch/mae)"
    assert lines[5].startswith("note: files called visualize")


@pytest.mark.parametrize("name", ["file.pth", "file.pt", "file.tar", "file.safetensors"])
def test_every_kind_of_file(mae, tmp_path, name):
    _, model = mae
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if name.endswith("safetensors"):
        save_file(state, str(tmp_path / name))
    else:
        saved({"model": state}, tmp_path, name)
    assert import_checkpoint(tmp_path / name, heads=3).header.family == "mae"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(mae, tmp_path, dtype):
    _, model = mae
    state = {k: v.to(dtype) for k, v in model.state_dict().items()}
    result = import_checkpoint(saved({"model": state}, tmp_path), heads=3)
    assert {v.dtype for v in result.state.values()} == {torch.float32}
    assert all(torch.equal(v, state[k].float()) for k, v in result.state.items())
    assert f"converted from {str(dtype)[6:]} to float32" in result.report.notes


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(mae, tmp_path, value):
    _, model = mae
    state = model.state_dict()
    state["blocks.1.mlp.fc1.weight"][3, 4] = value
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc1\.weight holds values that are not finite"):
        import_checkpoint(saved({"model": state}, tmp_path), heads=3)


def test_whole_numbers_are_refused(mae, tmp_path):
    state = mae[1].state_dict()
    state["norm.bias"] = torch.zeros(48, dtype=torch.int64)
    with pytest.raises(UserError, match=r"norm\.bias is no plain tensor of real numbers"):
        import_checkpoint(saved({"model": state}, tmp_path), heads=3)


def test_the_tensors_share_no_memory(zoo, tmp_path):
    model = zoo.beit(shared=True, pool="token")
    path = saved({"model": zoo.shared_to_original(model)}, tmp_path)
    state = import_checkpoint(path, tmp_path / "beit.safetensors", source="beit").state
    tables = [v for k, v in state.items() if k.endswith("relative_position_bias_table")]
    assert len(tables) == 2
    assert torch.equal(*tables)
    assert len({v.untyped_storage().data_ptr() for v in state.values()}) == len(state)


class TestAmbiguity:
    def test_several_families_are_named_and_none_is_taken(self, zoo, tmp_path):
        path = saved(zoo.vit().state_dict(), tmp_path)
        with pytest.raises(
            UserError, match=r"fits dino, ibot, timm-vit, .* say which it is with `--source NAME`"
        ):
            import_checkpoint(path, heads=3)

    @pytest.mark.parametrize(
        ("family", "mean", "pooling"), [("dino", IMAGENET, "cls"), ("ibot", IMAGENET, "cls")]
    )
    def test_a_source_decides(self, zoo, tmp_path, family, mean, pooling):
        header = import_checkpoint(saved(zoo.vit().state_dict(), tmp_path), source=family, heads=3).header
        assert (header.family, header.mean, header.pooling) == (family, mean, pooling)
        assert header.branch == "teacher"

    def test_a_known_file_decides(self, zoo, tmp_path, monkeypatch):
        path = saved(zoo.to_mm(zoo.vit("row").state_dict()), tmp_path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        table = {digest[:8]: "mmpretrain-mocov3"}
        monkeypatch.setattr("cmae_mm.checkpoints.known._FAMILIES", table)
        assert import_checkpoint(path, heads=3).header.family == "mmpretrain-mocov3"

    def test_a_known_file_must_still_fit(self, mae, monkeypatch):
        path, _ = mae
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr("cmae_mm.checkpoints.known._FAMILIES", {digest[:8]: "dino"})
        assert import_checkpoint(path, heads=3).header.family == "mae"

    def test_known_files_have_known_families(self):
        assert known_family("c2cf66ba" + 56 * "0") == "mmpretrain-mae"
        assert known_family(64 * "0") == ""

    def test_the_source_must_fit(self, mae):
        with pytest.raises(UserError, match=r"is no checkpoint of cae: .*; give another --source"):
            import_checkpoint(mae[0], source="cae", heads=3)

    def test_an_unusual_table_is_taken_when_asked_for_and_noted(self, mae):
        notes = import_checkpoint(mae[0], source="dino", heads=3).report.notes
        assert any("its position table is sincos_col, which is unusual" in note for note in notes)

    def test_an_unknown_file_names_the_closest_family(self, zoo, tmp_path):
        state = {**zoo.vit().state_dict(), "blocks.0.attn.q_norm.weight": torch.ones(16)}
        expected = r"fits no known family; the closest is \S+, but 1 key is not known \(blocks.0.attn.q_norm"
        with pytest.raises(UserError, match=expected):
            import_checkpoint(saved(state, tmp_path))

    def test_a_tensor_beside_the_encoder_is_no_part_of_it(self, zoo, tmp_path):
        """The norm of another module must not stand in for one that the encoder lacks."""
        state = zoo.prefixed("backbone.", zoo.vit().state_dict()) | zoo.junk("head.last_layer.weight_g")
        for kind in ("weight", "bias"):
            state[f"norm.{kind}"] = state.pop(f"backbone.norm.{kind}")
        with pytest.raises(UserError, match=r"2 keys beside it are not known \(norm\.weight, norm\.bias\)"):
            import_checkpoint(saved({"teacher": state}, tmp_path), source="dino", heads=3)

    def test_a_fixed_table_of_no_family_says_how_to_go_on(self, zoo, tmp_path):
        state = zoo.vit("row", init_values=0.1).state_dict()
        with pytest.raises(
            UserError, match=r"position table is of another kind \(`--source timm-vit` takes it"
        ):
            import_checkpoint(saved(state, tmp_path))
        import_checkpoint(saved(state, tmp_path), source="timm-vit", heads=3, normalization="half")

    def test_something_else_entirely(self, tmp_path):
        with pytest.raises(UserError, match="fits no known family: there is no patch embedding of a ViT"):
            import_checkpoint(saved({"fc.weight": torch.zeros(3, 4)}, tmp_path))


class TestWhatTensorsDoNotShow:
    def test_heads_must_be_given_at_unknown_sizes(self, mae):
        with pytest.raises(UserError, match=r"2 blocks of width 48, .* give it with `--heads N`"):
            import_checkpoint(mae[0])

    def test_wrong_heads_load_and_give_other_features(self, mae, zoo):
        """Why heads are never guessed."""
        right, wrong = (import_checkpoint(mae[0], heads=n) for n in (3, 4))
        with torch.no_grad():
            a, b = (zoo.build(r.header, r.state).forward_features(zoo.image) for r in (right, wrong))
        assert float((a - b).abs().max()) > 0.1

    def test_heads_must_divide_the_width(self, mae):
        with pytest.raises(UserError, match="5 heads do not divide a width of 48"):
            import_checkpoint(mae[0], heads=5)

    def test_tables_show_the_heads(self, zoo, tmp_path):
        path = saved({"model": zoo.shared_to_original(zoo.beit(shared=True, pool="token"))}, tmp_path)
        assert import_checkpoint(path, source="simmim").header.heads == 3
        with pytest.raises(UserError, match="its tables of relative positions are for 3 heads, not 4"):
            import_checkpoint(path, source="simmim", heads=4)

    @pytest.mark.parametrize(
        ("family", "size", "heads"),
        [
            ("dino", (384, 12), 6),
            ("mocov3", (384, 12), 12),
            ("cae", (384, 12), 12),
            ("mmpretrain-mocov3", (384, 12), 12),
            ("mae", (1280, 32), 16),
            ("dinov2", (1536, 40), 24),
            ("mmpretrain-vit", (768, 8), 8),
        ],
    )
    def test_heads_by_family_and_size(self, family, size, heads):
        assert FAMILIES[family].heads[size] == heads

    def test_normalization_must_be_given_where_files_differ(self, zoo, tmp_path):
        path = saved(zoo.vit().state_dict(), tmp_path)
        with pytest.raises(UserError, match="`--normalization imagenet` or `--normalization half`"):
            import_checkpoint(path, source="timm-vit", heads=3)
        for name, mean in (("half", HALF), ("imagenet", IMAGENET)):
            assert import_checkpoint(path, None, "timm-vit", None, name, 3).header.mean == mean

    @pytest.mark.parametrize(("family", "mean"), [("beit", HALF), ("beit2", IMAGENET), ("simmim", IMAGENET)])
    def test_one_layout_three_normalisations(self, zoo, tmp_path, family, mean):
        model = zoo.beit()
        path = saved({"model": zoo.cat(model.state_dict(), zoo.beit_index(model))}, tmp_path)
        header = import_checkpoint(path, source=family).header
        assert (header.mean, header.final_norm, header.pooling) == (mean, "fc_norm", "avg")
        with pytest.raises(UserError, match="differently normalised"):
            import_checkpoint(path, source="data2vec")

    @pytest.mark.parametrize("given", [None, "rgb", "bgr"])
    def test_the_channel_order_of_cmae_is_noted_unless_given(self, zoo, tmp_path, given):
        path = saved({"state_dict": zoo.to_mm(zoo.vit("row").state_dict())}, tmp_path)
        result = import_checkpoint(path, source="cmae", channel_order=given, heads=3)
        assert result.header.channel_order == (given or "bgr")
        assert bool(result.report.notes) is (given is None)

    def test_a_branch_that_is_not_there(self, zoo, tmp_path):
        path = saved(zoo.vit().state_dict(), tmp_path)
        with pytest.raises(UserError, match=r"dino: it has no branch 'student'"):
            import_checkpoint(path, source="dino", heads=3, branch="student")

    def test_two_branches_are_noted(self, zoo, tmp_path):
        state = zoo.beit(shared=True, pool="token").state_dict()
        file = {"model": state, "model_ema": {k: v + 1 for k, v in state.items()}}
        path = saved(file, tmp_path)
        student = import_checkpoint(path, source="data2vec")
        teacher = import_checkpoint(path, source="data2vec", branch="model_ema")
        assert "the file has model, model_ema; taken: model" in student.report.notes
        assert (student.header.branch, teacher.header.branch) == ("", "model_ema")
        assert torch.allclose(teacher.state["cls_token"], student.state["cls_token"] + 1)


class TestSidecar:
    def write(self, folder, **files):
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))

    def test_hugging_face_says_input_heads_and_epsilon(self, zoo, tmp_path):
        self.write(
            tmp_path,
            config={"num_attention_heads": 3, "layer_norm_eps": 1e-5, "hidden_act": "gelu"},
            preprocessor_config={"image_mean": [0.5, 0.25, 0.75], "image_std": [0.1, 0.2, 0.3]},
        )
        state = {k: v.clone() for k, v in zoo.to_hf(zoo.vit().state_dict()).items()}
        save_file(state, str(tmp_path / "model.safetensors"))
        result = import_checkpoint(tmp_path / "model.safetensors")
        header = result.header
        assert (header.family, header.heads, header.ln_eps) == ("hf-vit", 3, 1e-5)
        assert header.mean == pytest.approx((127.5, 63.75, 191.25))
        assert header.std == pytest.approx((25.5, 51, 76.5))
        assert "read beside it: config.json, preprocessor_config.json" in result.report.notes
        assert import_checkpoint(tmp_path / "model.safetensors", heads=4).header.heads == 4

    def test_timm_says_the_input(self, zoo, tmp_path):
        self.write(tmp_path, config={"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}})
        path = saved(zoo.vit(init_values=0.1).state_dict(), tmp_path)
        assert import_checkpoint(path, heads=3).header.mean == HALF
        assert import_checkpoint(path, heads=3, normalization="imagenet").header.mean == IMAGENET

    def test_other_families_do_not_read_it(self, mae):
        path, _ = mae
        self.write(path.parent, config={"num_attention_heads": 4, "hidden_act": "quick_gelu"})
        with pytest.raises(UserError, match="--heads N"):
            import_checkpoint(path)

    def test_another_activation_is_refused(self, zoo, tmp_path):
        self.write(tmp_path, config={"hidden_act": "quick_gelu"})
        path = saved(zoo.to_hf(zoo.vit().state_dict()), tmp_path)
        with pytest.raises(UserError, match=r"config\.json: the activation is quick_gelu"):
            import_checkpoint(path, normalization="half", heads=3)

    def test_a_damaged_file_is_named(self, zoo, tmp_path):
        (tmp_path / "config.json").write_text("{")
        path = saved(zoo.to_hf(zoo.vit().state_dict()), tmp_path)
        with pytest.raises(UserError, match=r"config\.json: is not readable JSON"):
            import_checkpoint(path)


class TestFiles:
    @pytest.mark.parametrize("name", ["none.pth", "none.safetensors"])
    def test_missing(self, tmp_path, name):
        with pytest.raises(UserError, match=r"none.*no such checkpoint file"):
            import_checkpoint(tmp_path / name)

    def test_damaged(self, tmp_path):
        (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match="not a readable safetensors file"):
            import_checkpoint(tmp_path / "bad.safetensors")

    def test_a_backbone_file(self, backbone_file):
        with pytest.raises(UserError, match="is a backbone file already"):
            import_checkpoint(backbone_file)

    def test_a_run_of_this_suite(self, tmp_path):
        path = saved({"state_dict": {}, "meta": {"backbone_header": {}}}, tmp_path)
        with pytest.raises(UserError, match="the header is incomplete"):
            import_checkpoint(path)

    def test_refused_kinds_say_why(self, zoo, tmp_path):
        state = {**zoo.vit().state_dict(), "rope_embed.periods": torch.ones(16)}
        with pytest.raises(
            UserError, match=r"refused, DINOv3 has rotary positions.*; give a checkpoint of a plain"
        ):
            import_checkpoint(saved(state, tmp_path), source="dino")

    @pytest.mark.parametrize(
        "words", [{"source": "dyno"}, {"channel_order": "grb"}, {"normalization": "clip"}]
    )
    def test_unknown_choices(self, mae, words):
        with pytest.raises(UserError, match=f"{next(iter(words.values()))!r} is not known; give one of"):
            import_checkpoint(mae[0], **words)

    def test_nothing_in_the_file_is_executed(self, mae, tmp_path):
        class Hostile:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        path = saved({"model": mae[1].state_dict(), "args": Hostile()}, tmp_path)
        with pytest.raises(UserError, match="refused"):
            import_checkpoint(path, heads=3)
        assert not (tmp_path / "ran").exists()


def test_every_family_states_a_licence():
    assert all(len(family.licence) > 3 for family in FAMILIES.values())
    for name in ("mae", "mocov3", "data2vec", "hf-vitmae", "hf-data2vec"):
        assert "CC-BY-NC" in FAMILIES[name].licence
    for name in ("cmae", "cae"):
        assert "none stated" in FAMILIES[name].licence


def test_the_documents_name_every_family():
    text = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    assert [name for name in FAMILIES if f"`{name}`" not in text] == []
