"""Google's weights as the start of TransUNet: where every array goes, and what is refused."""

import io
import logging
import math
import zipfile
import zlib

import numpy as np
import pytest
import torch

from c2fvl.models import build_model
from c2fvl.models.transunet import TransUNet
from c2fvl.training.vit_weights import start_from_vit

HEADS, DEPTH = 4, 6
WIDTH, HIDDEN, LAYERS, STEM, UNITS, GRID = HEADS * DEPTH, 40, 2, 8, (2, 1, 3), 3
ARGUMENTS = {
    "image_size": 16 * GRID, "stem_width": STEM, "units": UNITS, "width": WIDTH, "num_layers": LAYERS,
    "num_heads": HEADS, "hidden": HIDDEN, "neck_width": 16, "decoder_widths": (8, 8, 8, 4),
}  # fmt: skip
POSITIONS = "Transformer/posembed_input/pos_embedding"
ENCODERS = pytest.mark.parametrize("encoder", ["r50-vit-b16", "vit-b16"])


def shapes(encoder, *, grid=GRID, stem=STEM, units=UNITS, width=WIDTH, layers=LAYERS, heads=HEADS, hidden=HIDDEN):
    """Return the shapes of all arrays of a file that the network uses."""
    found = {}
    if encoder == "r50-vit-b16":
        found |= {
            "conv_root/kernel": (7, 7, 3, stem),
            "gn_root/scale": (1, 1, 1, stem),
            "gn_root/bias": (1, 1, 1, stem),
        }
        before = stem
        for block, count in enumerate(units, 1):
            out = stem * 2 ** (block + 1)
            for unit in range(1, count + 1):
                place, middle = f"block{block}/unit{unit}", out // 4
                convolutions = {1: (1, 1, before, middle), 2: (3, 3, middle, middle), 3: (1, 1, middle, out)}
                for number, shape in convolutions.items():
                    found[f"{place}/conv{number}/kernel"] = shape
                    found |= {f"{place}/gn{number}/{part}": (1, 1, 1, shape[3]) for part in ("scale", "bias")}
                if unit == 1:
                    found[f"{place}/conv_proj/kernel"] = (1, 1, before, out)
                    found |= {f"{place}/gn_proj/{part}": (out,) for part in ("scale", "bias")}
                before = out
        found["embedding/kernel"] = (1, 1, before, width)
    else:
        found["embedding/kernel"] = (16, 16, 3, width)
    found["embedding/bias"] = (width,)
    for layer in range(layers):
        place = f"Transformer/encoderblock_{layer}"
        attention = f"{place}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            found[f"{attention}/{part}/kernel"] = (width, heads, width // heads)
            found[f"{attention}/{part}/bias"] = (heads, width // heads)
        found |= {f"{attention}/out/kernel": (heads, width // heads, width), f"{attention}/out/bias": (width,)}
        found |= {f"{place}/MlpBlock_3/Dense_0/kernel": (width, hidden), f"{place}/MlpBlock_3/Dense_0/bias": (hidden,)}
        found |= {f"{place}/MlpBlock_3/Dense_1/kernel": (hidden, width), f"{place}/MlpBlock_3/Dense_1/bias": (width,)}
        found |= {f"{place}/LayerNorm_{n}/{part}": (width,) for n in (0, 2) for part in ("scale", "bias")}
    found |= {f"Transformer/encoder_norm/{part}": (width,) for part in ("scale", "bias")}
    found[POSITIONS] = (1, grid**2 + 1, width)
    return found


def numbers(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape).astype(np.float32)


def google_arrays(encoder, **sizes):
    return {name: numbers(name, shape) for name, shape in shapes(encoder, **sizes).items()}


def write(path, arrays, **others):
    np.savez(path, **arrays, **others)
    return path


def network(encoder, **arguments):
    torch.manual_seed(0)
    return build_model("transunet", ARGUMENTS | {"encoder": encoder} | arguments)


def expected_start(encoder, arrays):
    """Return what each of our parameters must be, by loops over places and heads instead of by axes."""

    def kernel(name):  # HWIO → OIHW
        return np.stack([np.stack([arrays[name][:, :, i, o] for i in range(arrays[name].shape[2])])
                         for o in range(arrays[name].shape[3])])  # fmt: skip

    def heads_out(name):  # (in, heads, depth) → (heads · depth, in)
        return np.stack([arrays[name][:, head, place] for head in range(HEADS) for place in range(DEPTH)])

    def heads_in(name):  # (heads, depth, out) → (out, heads · depth)
        rows = [arrays[name][head, place] for head in range(HEADS) for place in range(DEPTH)]
        return np.stack(rows, axis=1)

    ours = {}
    if encoder == "r50-vit-b16":
        ours["residual.stem.weight"] = kernel("conv_root/kernel")
        ours["residual.stem_norm.weight"] = arrays["gn_root/scale"].ravel()
        ours["residual.stem_norm.bias"] = arrays["gn_root/bias"].ravel()
        for stage, count in enumerate(UNITS):
            for unit in range(count):
                key, place = f"residual.stages.{stage}.{unit}", f"block{stage + 1}/unit{unit + 1}"
                for number in range(3):
                    ours[f"{key}.convolutions.{number}.weight"] = kernel(f"{place}/conv{number + 1}/kernel")
                    ours[f"{key}.norms.{number}.weight"] = arrays[f"{place}/gn{number + 1}/scale"].ravel()
                    ours[f"{key}.norms.{number}.bias"] = arrays[f"{place}/gn{number + 1}/bias"].ravel()
            key, place = f"residual.stages.{stage}.0", f"block{stage + 1}/unit1"
            ours[f"{key}.shortcut.weight"] = kernel(f"{place}/conv_proj/kernel")
            ours[f"{key}.shortcut_norm.weight"] = arrays[f"{place}/gn_proj/scale"]
            ours[f"{key}.shortcut_norm.bias"] = arrays[f"{place}/gn_proj/bias"]
    ours["embedding.projection.weight"] = kernel("embedding/kernel")
    ours["embedding.projection.bias"] = arrays["embedding/bias"]
    for layer in range(LAYERS):
        key, place = f"blocks.{layer}", f"Transformer/encoderblock_{layer}"
        attention = f"{place}/MultiHeadDotProductAttention_1"
        parts = [f"{attention}/{part}" for part in ("query", "key", "value")]
        ours[f"{key}.attention.query_key_value.weight"] = np.vstack([heads_out(f"{part}/kernel") for part in parts])
        ours[f"{key}.attention.query_key_value.bias"] = np.hstack([arrays[f"{part}/bias"].ravel() for part in parts])
        ours[f"{key}.attention.projection.weight"] = heads_in(f"{attention}/out/kernel")
        ours[f"{key}.attention.projection.bias"] = arrays[f"{attention}/out/bias"]
        for name, dense in (("expand", "Dense_0"), ("reduce", "Dense_1")):
            ours[f"{key}.mlp.{name}.weight"] = arrays[f"{place}/MlpBlock_3/{dense}/kernel"].T
            ours[f"{key}.mlp.{name}.bias"] = arrays[f"{place}/MlpBlock_3/{dense}/bias"]
        for name, norm in (("attention_norm", "LayerNorm_0"), ("mlp_norm", "LayerNorm_2")):
            ours[f"{key}.{name}.weight"] = arrays[f"{place}/{norm}/scale"]
            ours[f"{key}.{name}.bias"] = arrays[f"{place}/{norm}/bias"]
    ours["norm.weight"] = arrays["Transformer/encoder_norm/scale"]
    ours["norm.bias"] = arrays["Transformer/encoder_norm/bias"]
    return ours


@ENCODERS
def test_every_array_arrives_where_it_belongs(encoder, tmp_path, caplog):
    arrays = google_arrays(encoder)
    classifier = {"cls": (1, 1, WIDTH), "head/kernel": (WIDTH, 5), "head/bias": (5,), "pre_logits/bias": (3,)}
    file = write(tmp_path / "weights.npz", arrays, **{name: np.ones(shape) for name, shape in classifier.items()})
    started, before = network(encoder), network(encoder).state_dict()
    with caplog.at_level(logging.WARNING):
        assert start_from_vit(started, file) == len(arrays)
    assert not caplog.records
    expected = expected_start(encoder, arrays)
    for key, value in started.state_dict().items():
        if key.startswith(("neck.", "decoders.", "head.")):
            assert torch.equal(value, before[key]), key
        elif key != "embedding.position":
            assert torch.equal(value, torch.from_numpy(expected.pop(key))), key
    assert not expected
    for row in range(GRID):
        for column in range(GRID):
            token = arrays[POSITIONS][0, 1 + row * GRID + column]
            assert np.array_equal(started.embedding.position[0, :, row, column].detach(), token)
    assert torch.isfinite(started.eval()(torch.rand(1, 3, 48, 48)).logits).all()


def test_the_published_network_uses_353_arrays(tmp_path):
    published = shapes("r50-vit-b16", grid=14, stem=64, units=(3, 4, 9), width=768, layers=12, heads=12, hidden=3072)
    assert len(published) == 353
    with torch.device("meta"):
        full = TransUNet()
    with pytest.raises(ValueError, match="353 of 353 arrays are missing"):
        start_from_vit(full, write(tmp_path / "empty.npz", {"head/bias": np.zeros(3)}))


@ENCODERS
def test_positions_of_the_same_grid_need_no_class_token(encoder, tmp_path):
    arrays = google_arrays(encoder)
    arrays[POSITIONS] = arrays[POSITIONS][:, 1:]
    started = network(encoder)
    start_from_vit(started, write(tmp_path / "weights.npz", arrays))
    expected = arrays[POSITIONS][0].reshape(GRID, GRID, WIDTH).transpose(2, 0, 1)
    assert np.array_equal(started.embedding.position[0].detach(), expected)


@pytest.mark.parametrize(
    ("stored", "grid"), [(2, 1), (1, 3), (2, 3), (3, 2), (4, 3), (3, 7), (14, 5), (5, 14), (7, 32)]
)
def test_positions_of_another_grid_are_resized_as_scipy_does(stored, grid, tmp_path):
    ndimage = pytest.importorskip("scipy.ndimage")
    arrays = google_arrays("vit-b16", grid=stored)
    started = network("vit-b16", image_size=16 * grid)
    start_from_vit(started, write(tmp_path / "weights.npz", arrays))
    tokens = arrays[POSITIONS][0, 1:].reshape(stored, stored, WIDTH)
    expected = ndimage.zoom(tokens, (grid / stored, grid / stored, 1), order=1).transpose(2, 0, 1)
    assert np.abs(started.embedding.position[0].detach().numpy() - expected).max() < 1e-6


def test_arrays_without_a_place_are_named_once(tmp_path, caplog):
    arrays = google_arrays("vit-b16", layers=LAYERS + 1)
    with caplog.at_level(logging.WARNING):
        assert start_from_vit(network("vit-b16"), write(tmp_path / "weights.npz", arrays)) == len(arrays) - 16
    assert len(caplog.records) == 1
    assert f"encoderblock_{LAYERS}/" in caplog.records[0].getMessage()


def refused(tmp_path, change, message, *, encoder="r50-vit-b16", error=ValueError):
    """Change the file's arrays, or write others in its place, and check that nothing happened to the network."""
    started = network(encoder)
    before = {key: value.clone() for key, value in started.state_dict().items()}
    file = tmp_path / "weights.npz"
    write(file, change(google_arrays(encoder)))
    with pytest.raises(error, match=message) as caught:
        start_from_vit(started, file)
    assert str(file) in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in started.state_dict().items())
    return str(caught.value)


def with_array(name, change):
    return lambda arrays: arrays | {name: change(arrays[name])}


def with_nan(array):
    array.flat[-1] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_array("conv_root/kernel", lambda a: a[:3]), r"conv_root/kernel: the shape \(3, 7, 3, 8\) instead of"),
        (with_array("gn_root/scale", lambda a: a[..., :-1]), r"/scale: the shape \(1, 1, 1, 7\) instead of \(8,\)"),
        (with_array("gn_root/scale", lambda a: a.reshape(2, 4)), r"gn_root/scale: the shape \(2, 4\)"),
        (
            with_array("Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/kernel",
                       lambda a: a.reshape(WIDTH, DEPTH, HEADS)),
            r"key/kernel: the shape \(24, 6, 4\) instead of \(24, 4, 6\)",
        ),
        (with_array(POSITIONS, lambda a: np.concatenate([a, a[:, :1]], 1)), r"pos_embedding: the shape \(1, 11, 24\)"),
        (with_array(POSITIONS, lambda a: a[:, :1]), r"pos_embedding: the shape \(1, 1, 24\)"),
        (with_array(POSITIONS, lambda a: a[0]), r"pos_embedding: the shape \(10, 24\)"),
        (with_array("embedding/bias", with_nan), "embedding/bias: numbers that are not finite"),
        (with_array("embedding/bias", lambda a: a / 0.0), "embedding/bias: numbers that are not finite"),
        (with_array("embedding/bias", lambda a: a.astype(np.float64)), "embedding/bias: .* float64 instead of float32"),
        (with_array("embedding/bias", lambda a: a.astype(object)), "embedding/bias: .* object instead of float32"),
        (lambda a: google_arrays("vit-b16"), r"66 of 103 .* \(block1.* and 54 more\), 1 cannot be used \(emb"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_arrays_that_do_not_fit_are_listed(change, message, tmp_path):
    assert "expected R50+ViT-B_16.npz from https://" in refused(tmp_path, change, message)


def test_all_missing_and_wrong_arrays_are_listed_together(tmp_path):
    def change(arrays):
        del arrays["embedding/bias"], arrays["Transformer/encoder_norm/scale"]
        return arrays | {"embedding/kernel": arrays["embedding/kernel"][:-1]}

    message = refused(tmp_path, change, "2 of 37 arrays are missing", encoder="vit-b16")
    assert "(Transformer/encoder_norm/scale, embedding/bias), 1 cannot be used (embedding/kernel: " in message
    assert "expected ViT-B_16.npz from https://" in message


def damaged(tmp_path, change):
    file = write(tmp_path / "weights.npz", google_arrays("vit-b16"))
    file.write_bytes(change(file.read_bytes()))
    started = network("vit-b16")
    with pytest.raises(ValueError, match=r"weights\.npz is damaged or no \.npz file: .* fetch it again from https://"):
        start_from_vit(started, file)
    assert all(torch.equal(value, before) for value, before in
               zip(started.state_dict().values(), network("vit-b16").state_dict().values(), strict=True))  # fmt: skip


@pytest.mark.parametrize("fraction", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(fraction, tmp_path):
    damaged(tmp_path, lambda data: data[: math.floor(fraction * len(data))])


def test_a_flipped_bit_is_noticed(tmp_path):
    kernel = numbers("embedding/kernel", (16, 16, 3, WIDTH)).tobytes()

    def flip(data):
        place = data.index(kernel) + len(kernel) // 2
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    damaged(tmp_path, flip)


def header(shape, version=b"\x01\x00"):
    text = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((WIDTH,)) + bytes(4 * WIDTH - 1), "embedding/bias has not the 96 bytes"),
        (header((WIDTH,)) + bytes(10**6), "embedding/bias has not the 96 bytes"),
        (header((10**15,)), r"embedding/bias: the shape \(1000000000000000,\) instead of \(24,\)"),
        (header((-WIDTH,)), r"embedding/bias: the shape \(-24,\) instead of"),
        (header((WIDTH,), b"\x02\x00") + bytes(4 * WIDTH), r"the version \(2, 0\)"),
        (b"no array", "damaged"),
        (b"", "damaged"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "damaged"),
    ],
)
def test_an_array_is_not_what_it_claims(content, message, tmp_path):
    arrays = google_arrays("vit-b16")
    del arrays["embedding/bias"]
    file = write(tmp_path / "weights.npz", arrays)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("embedding/bias.npy", content)
    with pytest.raises(ValueError, match=message):
        start_from_vit(network("vit-b16"), file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path):
    file = write(tmp_path / "weights.npz", google_arrays("vit-b16"))
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(WIDTH, np.float32))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("embedding/bias.npy", buffer.getvalue())
    with pytest.raises(ValueError, match="two arrays share one name"):
        start_from_vit(network("vit-b16"), file)


def test_a_compressed_file_and_columns_first_are_read(tmp_path):
    arrays = google_arrays("vit-b16")
    plain, packed = network("vit-b16"), network("vit-b16", dropout=0.5)
    start_from_vit(plain, write(tmp_path / "plain.npz", arrays))
    np.savez_compressed(tmp_path / "packed.npz", **{name: np.asfortranarray(array) for name, array in arrays.items()})
    start_from_vit(packed, tmp_path / "packed.npz")
    for key in expected_start("vit-b16", arrays):
        assert torch.equal(plain.state_dict()[key], packed.state_dict()[key]), key


def test_other_networks_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weights\.npz starts a transunet only; the network is C2FVL"):
        start_from_vit(build_model("c2fvl", base_width=8, image_size=32), tmp_path / "weights.npz")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*weights\.npz; Google's weights are at https://"):
        start_from_vit(network("vit-b16"), tmp_path / "weights.npz")
    with pytest.raises(ValueError, match=r"in_channels is 1 .* in_channels=3; a grey image is repeated"):
        start_from_vit(network("vit-b16", in_channels=1), tmp_path / "weights.npz")
