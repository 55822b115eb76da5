import pytest
import torch

from compressm_cli.data.digits import Digits


def every_row(dataset):
    splits = (dataset.train, dataset.validation, dataset.test)
    return torch.cat([s.inputs for s in splits]), torch.cat([s.labels for s in splits])


def test_holds_the_published_rows():
    inputs, labels = every_row(Digits().load())
    assert len(labels) == 1797
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert inputs.mean().abs() < 1e-4
    assert (inputs.max() - inputs.min()).item() == pytest.approx(1.0)
    # The first image of the published file, a zero: its pixels, and nothing else, identify it.
    first_line = torch.tensor([0, 0, 5, 13, 9, 1, 0, 0])
    pixels = (inputs[..., 0] * 16.0 + 4.884).round()
    found = (pixels[:, :8] == first_line).all(dim=1) & (labels == 0)
    assert (pixels[found, 8:16] == torch.tensor([0, 0, 13, 15, 10, 15, 5, 0])).all(dim=1).sum() == 1


def test_splits_are_disjoint_and_stratified():
    dataset = Digits().load()
    rows, _ = every_row(dataset)
    assert len(rows.unique(dim=0)) == len(rows)  # so equal rows cannot hide in two splits
    for split in (dataset.train, dataset.validation, dataset.test):
        share = split.labels.bincount(minlength=10) / len(split)
        whole = torch.tensor([178, 182, 177, 183, 181, 182, 181, 179, 174, 180]) / 1797
        assert ((share - whole).abs() * len(split) <= 1.5).all()


def test_the_split_seed_alone_decides_the_rows():
    first, again, other = Digits().load(), Digits().load(), Digits(split_seed=1).load()
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert torch.equal(first.test.labels, again.test.labels)
    assert not torch.equal(first.test.inputs, other.test.inputs)


def test_upsampling_repeats_each_pixel_in_a_square():
    small, large = Digits().load(), Digits(upsample=4).load()
    assert large.spec.length == 1024
    images = small.test.inputs.reshape(-1, 8, 8)
    enlarged = large.test.inputs.reshape(-1, 8, 4, 8, 4)
    assert torch.equal(enlarged, images[:, :, None, :, None].expand_as(enlarged))
    assert torch.equal(small.test.labels, large.test.labels)
