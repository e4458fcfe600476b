"""The parts of an artifact: codes in bytes, grids found from values, coders, and sizes known beforehand."""

import math

import numpy as np
import pytest

from lmbench.measure.artifact import capacity, sparse_table
from lmbench.measure.artifact.bits import pack_codes, packed_length, unpack_codes
from lmbench.measure.artifact.coders import check_coders, decode, installed_coders, smallest
from lmbench.measure.artifact.coding import CODE_BITS
from lmbench.measure.artifact.lattice import OffGrid, code_range, find_grid
from lmbench.measure.artifact.predict import clipped_entropy, mask_entropy, sparse_bits
from lmbench.measure.artifact.streams import laid_out, values_of


@pytest.mark.parametrize("bits", CODE_BITS)
@pytest.mark.parametrize("n", [0, 1, 5, 8, 13, 1000])
def test_codes_come_back_from_their_bytes(bits: float, n: int) -> None:
    codes_N = (
        np.random.default_rng(0).integers(3 if bits == 1.58 else 2 ** int(bits), size=n).astype(np.uint8)
    )
    data = pack_codes(codes_N, bits=bits)
    assert len(data) == packed_length(n, bits=bits)
    assert (unpack_codes(data, bits=bits, n=n) == codes_N).all()


def test_codes_longer_than_one_piece_come_back() -> None:
    codes_N = np.random.default_rng(0).integers(8, size=(1 << 20) + 3).astype(np.uint8)
    assert (unpack_codes(pack_codes(codes_N, bits=3), bits=3, n=len(codes_N)) == codes_N).all()


def test_codes_stand_from_the_lowest_bit_on_without_gaps() -> None:
    # 5 = 101, 3 = 011, 6 = 110 from the lowest: 0b10_011_101 and the last bit in the next byte
    assert pack_codes(np.array([5, 3, 6], dtype=np.uint8), bits=3) == bytes([0b10011101, 0b1])


def test_five_three_valued_codes_make_a_byte() -> None:
    assert pack_codes(np.array([1, 0, 2, 0, 0, 2], dtype=np.uint8), bits=1.58) == bytes([1 + 2 * 9, 2])
    assert pack_codes(np.full(5, 2, dtype=np.uint8), bits=1.58) == bytes([242])


def test_bytes_that_are_no_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="byte 243 stands for no 5 three-valued codes"):
        unpack_codes(bytes([243]), bits=1.58, n=5)
    with pytest.raises(ValueError, match="9 codes of 3 bits take 4 bytes, got 3"):
        unpack_codes(bytes(3), bits=3, n=9)
    with pytest.raises(ValueError, match="section codes/4/bytes holds code 16, the highest is 15"):
        values_of("codes/4/bytes", bytes([16]), n=1)


@pytest.mark.parametrize("stream", ["float16", "float32", "rows", "scales/float16"])
def test_numbers_in_planes_come_back(stream: str) -> None:
    numbers = np.arange(1, 8, dtype=np.float32)
    ((name, data),) = laid_out(stream, numbers).items()
    assert (values_of(name, data, n=7) == numbers).all()


# ------------------------------------------------------------------ grids


@pytest.mark.parametrize("bits", CODE_BITS)
def test_the_grid_of_any_quantiser_is_found_exactly(bits: float) -> None:
    rng = np.random.default_rng(1)
    lowest, highest = code_range(bits)
    codes_GN = rng.integers(lowest, highest + 1, size=(50, 30))
    codes_GN[:, 0] = lowest  # so that no coarser grid holds them
    codes_GN[:, 1] = highest
    codes_GN[codes_GN == 0] = 0 if bits != 1 else 1
    scales_G = rng.uniform(1e-4, 3, size=50).astype(np.float32)
    values_GN = codes_GN.astype(np.float32) * scales_G[:, None]
    found_G, found_GN = find_grid(values_GN, bits=bits)
    assert (found_GN == codes_GN).all()
    assert (found_GN.astype(np.float32) * found_G[:, None] == values_GN).all()


def test_the_coarsest_grid_is_taken() -> None:
    scales, codes = find_grid(np.array([[0.0, 3.0, -6.0]], dtype=np.float32), bits=8)
    assert scales.tolist() == [3.0] and codes.tolist() == [[0, 1, -2]]


def test_a_group_of_zeros_has_scale_zero() -> None:
    scales, codes = find_grid(np.zeros((2, 3), dtype=np.float32), bits=4)
    assert scales.tolist() == [0, 0] and not codes.any()


def test_a_learned_step_may_use_the_lowest_code_and_never_one_beyond() -> None:
    find_grid(np.array([[-2.0, 1.0]], dtype=np.float32), bits=2)
    with pytest.raises(OffGrid, match="whole numbers from -2 to 1"):
        find_grid(np.array([[2.0, 1.0]], dtype=np.float32), bits=2)


# ------------------------------------------------------------------ coders


@pytest.mark.parametrize("name", installed_coders())
@pytest.mark.parametrize("data", [b"", b"a", b"abc" * 500, bytes(range(256)) * 3])
def test_coders_give_back_the_bytes(name: str, data: bytes) -> None:
    coder, stored = smallest(data, coders=(name,))
    assert decode(stored, name=coder, length=len(data)) == data
    assert len(stored) <= len(data)


@pytest.mark.parametrize("name", sorted(set(installed_coders()) - {"none"}))
def test_a_stream_that_expands_beyond_its_length_is_stopped_there(name: str) -> None:
    coder, bomb = smallest(bytes(30_000_000), coders=(name,))
    assert coder == name and len(bomb) < 40_000
    with pytest.raises(ValueError, match=f"coded by {name} declares 100 bytes but holds more than 100"):
        decode(bomb, name=name, length=100)
    with pytest.raises(ValueError, match="declares 30,000,001 bytes but holds 30,000,000"):
        decode(bomb, name=name, length=30_000_001)


def test_a_missing_zstd_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert installed_coders() == ("none", "zlib", "lzma")
    with pytest.raises(ValueError, match="needs the package zstandard, .* pip install zstandard"):
        check_coders(("zstd",))
    with pytest.raises(ValueError, match="needs the package zstandard"):
        decode(b"", name="zstd", length=1)


def test_codes_of_a_bell_curve_come_near_their_entropy() -> None:
    # 6 bits, clip at 12.85 standard deviations: the spec's formula gives 3.36 bits, a Gaussian 3.33.
    values = np.random.default_rng(0).normal(size=60_000)
    codes = (np.rint(values / (12.85 / 31)) + 32).astype(np.uint8)
    p = np.bincount(codes) / len(codes)
    entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
    assert entropy == pytest.approx(3.32, abs=0.01)
    assert clipped_entropy(6, clip=12.85) == pytest.approx(3.36, abs=0.005)
    sizes = [len(smallest(data, coders=("zlib", "lzma"))[1]) for data in laid_out("codes/6", codes).values()]
    assert min(sizes) * 8 / len(codes) == pytest.approx(entropy, rel=0.05)
    assert sizes[1] < sizes[0]  # a byte each compresses better than six bits across bytes


# ------------------------------------------------------------------ sizes known beforehand


@pytest.mark.parametrize(
    "bits, group, millions",
    [
        (2, None, 64.0),
        (3, None, 42.7),
        (4, None, 32.0),
        (2, 128, 60.2),
        (3, 128, 41.0),
        (4, 128, 31.0),
        (2, 32, 51.2),
        (3, 32, 36.6),
        (4, 32, 28.4),
        (1.58, None, 80.8),
        (1.58, 128, 74.9),
        (1, 128, 113.8),
    ],
)
def test_how_many_parameters_16_million_bytes_hold(bits: float, group: int | None, millions: float) -> None:
    assert capacity(16_000_000, bits=bits, group=group) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("bits, millions", [(2, 67.1), (3, 44.7), (4, 33.6)])
def test_binary_megabytes_would_hold_more(bits: int, millions: float) -> None:
    assert capacity(16 * 2**20, bits=bits) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    "bits, thousands", [(4, (124, 496, 1940)), (2, (241, 964, 3760)), (1.58, (299, 1200, 4700))]
)
def test_how_many_parameters_the_small_budgets_hold(bits: float, thousands: tuple[int, ...]) -> None:
    for budget, expected in zip((64_000, 256_000, 1_000_000), thousands, strict=True):
        assert capacity(budget, bits=bits, group=128) / 1e3 == pytest.approx(expected, rel=0.005)


def test_eight_bits_and_a_tenth_of_the_weights_in_three_ways() -> None:
    found = sparse_bits(8, density=0.1)
    assert 32 / found["mask"] == pytest.approx(17.8, abs=0.05)
    assert 32 / found["coded mask"] == pytest.approx(25.2, abs=0.05)
    assert 32 / found["csr16"] == pytest.approx(13.3, abs=0.05)
    table = sparse_table(8, densities=[0.1])
    assert table["times smaller than float32"].round(1).tolist() == [17.8, 25.2, 13.3]


def test_a_mask_of_half_the_weights_has_one_bit_each_and_a_full_one_none() -> None:
    assert mask_entropy(0.5) == 1 and mask_entropy(1.0) == 0
    assert mask_entropy(0.1) == pytest.approx(0.469, abs=0.0005)


def test_a_tight_clip_never_predicts_more_than_the_bits() -> None:
    assert clipped_entropy(4, clip=1.0) == 4
    assert clipped_entropy(1.58, clip=1.0) == math.log2(3)
