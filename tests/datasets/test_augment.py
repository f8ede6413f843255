"""Augmentation of whole batches, against the same thing done image by image."""

from __future__ import annotations

import pytest
import torch

from prune_gym.datasets.augment import flip_and_shift, shift, shift_and_rotate

EVERY = [shift_and_rotate, flip_and_shift, shift]
MOVING = [flip_and_shift, shift]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(n: int, channels: int = 2, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.randn(n, channels, height, width, generator=seeded(5))


def one_by_one(augment, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`flip_and_shift` and `shift`, pixel by pixel."""
    n, _, height, width = images.shape
    reach = height // 8
    draws = torch.rand(3 if augment is flip_and_shift else 2, n, generator=generator)
    out = torch.zeros_like(images)
    for i in range(n):
        down = int(draws[0, i] * (2 * reach + 1)) - reach
        right = int(draws[1, i] * (2 * reach + 1)) - reach
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + down, x + right
                if augment is flip_and_shift and draws[2, i] < 0.5:
                    from_x = width - 1 - x + right
                if augment is shift:
                    from_y = min(max(from_y, 0), height - 1)
                    from_x = min(max(from_x, 0), width - 1)
                if 0 <= from_y < height and 0 <= from_x < width:
                    out[i, :, y, x] = images[i, :, from_y, from_x]
    return out


@pytest.mark.parametrize("augment", MOVING)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_batch_is_what_a_loop_over_its_images_gives(augment, seed):
    images = images_of(12)
    found = augment(images, seeded(seed))
    assert torch.equal(found, one_by_one(augment, images, seeded(seed)))


def test_rotation_is_what_a_loop_over_its_images_gives():
    images, draws = images_of(9, 1, 16, 16), 2.0 * torch.rand(4, 9, generator=seeded(3)) - 1.0
    found = shift_and_rotate(images, seeded(3))
    middle = (torch.arange(16) + 0.5) / 8.0 - 1.0
    for i in range(9):
        angle, scale = draws[0, i] * torch.pi * 12 / 180, 1.0 + 0.1 * draws[1, i]
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        from_x = scale * angle.cos() * x - scale * angle.sin() * y + 0.2 * draws[2, i]
        from_y = scale * angle.sin() * x + scale * angle.cos() * y + 0.2 * draws[3, i]
        place = torch.stack([from_y, from_x]) * 8.0 + 7.5  # in pixels
        place = place.clamp(0, 15)
        low = place.floor().long().clamp(max=14)
        part = place - low
        image, (row, column), (down, right) = images[i, 0], low, part
        top = image[row, column] * (1 - right) + image[row, column + 1] * right
        below = image[row + 1, column] * (1 - right) + image[row + 1, column + 1] * right
        torch.testing.assert_close(found[i, 0], top * (1 - down) + below * down, rtol=0, atol=1e-4)


@pytest.mark.parametrize("augment", EVERY)
def test_draws_come_from_the_generator_alone(augment):
    images = images_of(8)
    before = images.clone()
    torch.manual_seed(0)
    first = augment(images, seeded(1))
    torch.manual_seed(99)
    assert torch.equal(augment(images, seeded(1)), first)
    assert not torch.equal(augment(images, seeded(2)), first)
    assert torch.equal(images, before)
    assert first.shape == images.shape
    assert first.dtype == images.dtype


@pytest.mark.parametrize("augment", EVERY)
def test_every_image_has_draws_of_its_own(augment):
    same = images_of(1).expand(64, -1, -1, -1)
    found = augment(same, seeded(0)).flatten(1)
    assert len(found.unique(dim=0)) > 20


@pytest.mark.parametrize("augment", MOVING)
def test_pixels_move_by_every_whole_distance_up_to_an_eighth(augment):
    images = torch.zeros(4000, 1, 16, 16)
    images[:, 0, 8, 8] = 1.0
    found = augment(images, seeded(0))
    assert torch.equal(found.sum(dim=(1, 2, 3)), torch.ones(4000))
    rows, columns = found[:, 0].nonzero()[:, 1:].T
    assert sorted(set(rows.tolist())) == [6, 7, 8, 9, 10]
    # mirrored, column 8 of 16 becomes column 7
    assert sorted(set(columns.tolist())) == ([5] if augment is flip_and_shift else []) + [
        6, 7, 8, 9, 10,
    ]  # fmt: skip
    counts = rows.bincount()[6:]
    assert counts.min() > 700  # of 800 expected


def test_half_of_the_images_are_mirrored():
    ramp = torch.arange(16.0).expand(4000, 1, 16, 16)
    middle = flip_and_shift(ramp, seeded(0))[:, 0, 8, 4:12]
    mirrored = middle.diff(dim=1).mean(dim=1) < 0
    assert 1900 < int(mirrored.sum()) < 2100
    assert not (shift(ramp, seeded(0))[:, 0, 8, 4:12].diff(dim=1) < 0).any()


def test_what_comes_in_at_the_border():
    ones = torch.ones(200, 3, 16, 16)
    assert set(flip_and_shift(ones, seeded(0)).unique().tolist()) == {0.0, 1.0}
    assert torch.equal(shift(ones, seeded(0)), ones)


def test_small_images_move_by_a_pixel():
    images = images_of(50, 1, 4, 4)
    for augment in MOVING:
        assert not torch.equal(augment(images, seeded(0)), images)
