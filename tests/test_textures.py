"""Embedded textures and the MVTec datamodule."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from anomalib.data.utils import LabelName
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import ColorJitter, RandomHorizontalFlip

from anomalib_i3ad import MVTec, Textures
from anomalib_i3ad.data.defects import DEFECTS


def read_all(root: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(root)): cv2.imread(str(path)) for path in sorted(root.rglob("*.png"))}


def epoch(loader: DataLoader) -> dict[str, torch.Tensor]:
    """Images by path, in their order."""
    return {path: image for batch in loader for path, image in zip(batch.image_path, batch.image, strict=True)}


@pytest.mark.parametrize("category", ["fabric", "brick", "grass", "gravel"])
def test_layout_and_masks(tmp_path: Path, category: str) -> None:
    datamodule = Textures(tmp_path, category, image_size=64, train_count=10, test_count=14, num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    assert (len(datamodule.train_data), len(datamodule.val_data), len(datamodule.test_data)) == (8, 2, 28)
    assert (datamodule.val_data.samples.label_index == LabelName.NORMAL).all()
    kinds = set(datamodule.test_data.samples.label) - {"good"}
    assert kinds == set(DEFECTS) | ({"missing_yarn", "double_yarn"} if category == "fabric" else set())
    for item in datamodule.test_data:
        assert item.image.shape == (3, 64, 64)
        share = item.gt_mask.float().mean()
        assert (0.002 < share < 0.2) if item.gt_label else share == 0


def test_defects_change_the_picture_where_the_mask_says() -> None:
    picture = np.random.default_rng(0).uniform(0.3, 0.7, (96, 96, 3))
    for name, draw in DEFECTS.items():
        changed, mask = draw(picture, np.random.default_rng(1))
        difference = np.abs(changed - picture).max(axis=2)
        assert difference[mask].mean() > 0.05, name
        far = cv2.dilate(mask.astype(np.uint8), np.ones((13, 13))) == 0
        assert difference[far].max() < 1e-6, name


def test_same_seed_same_pictures_and_another_seed_others(tmp_path: Path) -> None:
    def draw(root: str, seed: int) -> dict[str, np.ndarray]:
        datamodule = Textures(tmp_path / root, image_size=64, train_count=3, test_count=7, seed=seed)
        datamodule.prepare_data()
        return read_all(datamodule.root)

    first, second, third = draw("a", 1), draw("b", 1), draw("c", 2)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["fabric/train/good/000.png"], third["fabric/train/good/000.png"])


def test_photographs_train_and_test_on_disjoint_regions(tmp_path: Path) -> None:
    """No test picture is found in the training region of the photograph."""
    import skimage

    datamodule = Textures(tmp_path, "gravel", image_size=64, train_count=2, test_count=5)
    datamodule.prepare_data()
    photograph = skimage.data.gravel()
    for split, inside in (("train", True), ("test", False)):
        for path in (datamodule.root / "gravel" / split / "good").glob("*.png"):
            match = cv2.matchTemplate(photograph, cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), cv2.TM_CCOEFF_NORMED)
            _, best, _, (_, top) = cv2.minMaxLoc(match)
            assert best > 0.9
            assert (top + 64 <= 308) if inside else (top >= 307)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"category": "silk"}, "'silk' must be one of 'fabric'"),
        ({"image_size": 32}, "image_size 32 must be a whole number >= 64 and <= 192"),
        ({"image_size": 96.5}, "image_size 96.5 must be a whole number"),
        ({"train_count": -1}, "train_count -1 must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Textures(**arguments)


class TestMVTec:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        Textures(tmp_path, image_size=64, train_count=4, test_count=7).prepare_data()
        return next(tmp_path.glob("*px*")) / "fabric"

    @pytest.mark.parametrize("fits", [True, False])
    def test_images_are_kept_in_memory_where_they_fit(
        self, folder: Path, fits: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[int] = []
        monkeypatch.setattr("anomalib_i3ad.data.mvtec.fits_in_memory", lambda size: asked.append(size) or fits)
        datamodule = MVTec(folder.parent, "fabric", num_workers=0, train_batch_size=2)
        datamodule.setup()
        loader, read = datamodule.train_dataloader(), []
        assert asked == [2 * 3 * 64 * 64 * 4]  # two of four are held out
        get = type(datamodule.train_data).__getitem__
        monkeypatch.setattr(
            type(datamodule.train_data), "__getitem__", lambda own, index: read.append(index) or get(own, index)
        )
        assert [len(batch.image) for _ in range(3) for batch in loader] == [2, 2, 2]
        assert (len(read) <= 2) == fits

    def test_validates_on_held_out_normal_images(self, folder: Path) -> None:
        datamodule = MVTec(folder.parent, "fabric", num_workers=0, val_split_ratio=0.75)
        datamodule.setup()
        held_out = set(datamodule.val_data.samples.image_path)
        assert len(held_out) == 3
        assert held_out.isdisjoint(datamodule.train_data.samples.image_path)
        assert held_out.isdisjoint(datamodule.test_data.samples.image_path)
        assert torch.is_tensor(datamodule.train_data[0].image)

    def test_cache_reads_every_training_image_once(self, folder: Path) -> None:
        datamodules = [MVTec(folder.parent, "fabric", 2, num_workers=0, cache=cache) for cache in (False, True)]
        for datamodule in datamodules:
            datamodule.setup()
        plain, cached = (datamodule.train_dataloader() for datamodule in datamodules)
        expected, first = epoch(plain), epoch(cached)
        for path in (folder / "train").rglob("*.png"):
            path.unlink()
        for found in (first, epoch(cached)):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[path], expected[path]) for path in expected)

    def test_what_is_made_of_a_cached_image_changes_it_not(self, folder: Path) -> None:
        """anomalib resizes images of several sizes in place."""
        datamodule = MVTec(folder.parent, "fabric", 2, num_workers=0, cache=True)
        datamodule.setup()
        images = datamodule.train_dataloader().dataset
        before = images[0].image
        images[0].image = torch.zeros(3, 8, 8)
        assert torch.equal(images[0].image, before)

    def test_cached_images_are_shuffled(self, texture_root: Path) -> None:
        datamodule = MVTec(next(texture_root.glob("*px*")), "fabric", num_workers=0, cache=True)
        datamodule.setup()
        loader = datamodule.train_dataloader()
        assert len({tuple(epoch(loader)) for _ in range(3)}) > 1

    def test_augmented_images_are_not_kept(self, folder: Path) -> None:
        settings = {"num_workers": 0, "val_split_ratio": 0.25, "train_augmentations": ColorJitter(brightness=0.5)}
        datamodule = MVTec(folder.parent, "fabric", **settings)
        datamodule.setup()
        loader = datamodule.train_dataloader()
        first, second = epoch(loader), epoch(loader)
        assert not any(torch.equal(first[path], second[path]) for path in first)

    @pytest.mark.parametrize(
        "unfit", [{"num_workers": 1}, {"num_workers": 0, "train_augmentations": RandomHorizontalFlip()}]
    )
    def test_cache_refuses_workers_and_augmentations(self, folder: Path, unfit: dict) -> None:
        with pytest.raises(ValueError, match="without augmentations and with num_workers=0"):
            MVTec(folder.parent, "fabric", cache=True, **unfit)

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
    def test_names_a_truncated_image_before_training(self, folder: Path, suffix: str) -> None:
        image = folder / "test" / "spot" / "000.png"
        broken = image.with_suffix(suffix)
        cv2.imwrite(str(broken), cv2.imread(str(image)))
        if broken != image:
            image.unlink()
        MVTec(folder.parent, "fabric").setup()
        broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
        with pytest.raises(ValueError, match=rf"1 images cannot be read.*spot/000{suffix}"):
            MVTec(folder.parent, "fabric").setup()

    def test_refuses_deep_gray_values_before_training(self, folder: Path) -> None:
        image = folder / "test" / "spot" / "000.png"
        cv2.imwrite(str(image), cv2.imread(str(image), cv2.IMREAD_GRAYSCALE).astype(np.uint16) * 256)
        with pytest.raises(ValueError, match=r"spot/000.png: gray values of more than 8 bits"):
            MVTec(folder.parent, "fabric").setup()

    @pytest.mark.parametrize("place", ["train/scratch", "train/good/monday", "test/spot/monday", "train"])
    def test_names_images_in_folders_it_does_not_take(self, folder: Path, place: str) -> None:
        (folder / place).mkdir(exist_ok=True)
        shutil.copy(folder / "train" / "good" / "000.png", folder / place / "new.png")
        with pytest.raises(ValueError, match=rf"1 images lie neither in train/good nor.*{place}/new.png; move"):
            MVTec(folder.parent, "fabric").setup()

    def test_leaves_hidden_folders_alone(self, folder: Path) -> None:
        for place in ("train/.cache", "train/good/.ipynb_checkpoints"):
            (folder / place).mkdir()
            shutil.copy(folder / "train" / "good" / "000.png", folder / place / "000.png")
        datamodule = MVTec(folder.parent, "fabric", val_split_ratio=0.75)
        datamodule.setup()
        assert (len(datamodule.train_data), len(datamodule.val_data)) == (1, 3)

    def test_names_the_folder_that_is_missing_in_a_category(self, folder: Path) -> None:
        shutil.rmtree(folder / "train")
        datamodule = MVTec(folder.parent, "fabric")
        datamodule.prepare_data()
        with pytest.raises(ValueError, match=r"fabric/train holds no images"):
            datamodule.setup()

    @pytest.mark.parametrize("linked", ["test", "test/scratch", "train/good", "ground_truth"])
    def test_follows_links_to_folders(self, folder: Path, linked: str) -> None:
        """anomalib would not, and test on training images or leave a defect out."""
        whole = MVTec(folder.parent, "fabric", num_workers=0)
        whole.setup()
        (folder / linked).rename(folder.parent / "elsewhere")
        (folder / linked).symlink_to(folder.parent / "elsewhere")
        datamodule = MVTec(folder.parent, "fabric", num_workers=0)
        datamodule.setup()
        assert datamodule.test_data.samples.equals(whole.test_data.samples)
        assert datamodule.train_data.samples.equals(whole.train_data.samples)
        if linked != "ground_truth":
            (folder.parent / "elsewhere" / "deeper" / "still").mkdir(parents=True)
            (folder.parent / "elsewhere" / "deeper" / "x.png").touch()
            (folder.parent / "elsewhere" / "deeper" / "still" / "y.png").touch()
            misplaced = "x.png" if linked != "test" else "y.png"
            with pytest.raises(ValueError, match=f"images lie neither in train/good nor in test/<kind>: .*{misplaced}"):
                MVTec(folder.parent, "fabric").setup()

    def test_names_an_empty_category(self, folder: Path) -> None:
        for path in (folder / "train").rglob("*.png"):
            path.unlink()
        with pytest.raises(ValueError, match=r"fabric/train holds no images: expected train/good"):
            MVTec(folder.parent, "fabric").setup()

    @pytest.mark.parametrize("suffix", [".PNG", ".jpg", ".JPEG", ".bmp", ".tiff"])
    def test_reads_what_anomalibs_folder_reads(self, folder: Path, suffix: str) -> None:
        for path in [*folder.glob("train/*/*.png"), *folder.glob("test/*/*.png")]:
            cv2.imwrite(str(path.with_suffix(suffix)), cv2.imread(str(path)))
            path.unlink()
        datamodule = MVTec(folder.parent, "fabric", num_workers=0, val_split_ratio=0.25)
        datamodule.setup()
        assert (len(datamodule.train_data), len(datamodule.val_data), len(datamodule.test_data)) == (2, 2, 14)
        for item in datamodule.test_data:
            assert item.image.shape == (3, 64, 64)
            assert bool(item.gt_mask.any()) == bool(item.gt_label)

    def test_finds_masks_by_name(self, folder: Path) -> None:
        """Sorted, 1_mask.png comes after 10_mask.png, but 1.png before 10.png."""
        for name in ("test/spot/{}.png", "ground_truth/spot/{}_mask.png"):
            picture = cv2.imread(str(folder / name.format("000")))
            for number in (1, 10):
                cv2.imwrite(str(folder / name.format(number)), picture)
        datamodule = MVTec(folder.parent, "fabric", num_workers=0, val_split_ratio=0.25)
        datamodule.setup()
        spots = datamodule.test_data.samples.query("label == 'spot'")
        assert len(spots) == 3
        assert all(Path(row.mask_path).stem == f"{Path(row.image_path).stem}_mask" for row in spots.itertuples())

    @pytest.mark.parametrize("broken", [False, True])
    def test_names_a_missing_or_broken_mask(self, folder: Path, broken: bool) -> None:
        mask = folder / "ground_truth" / "spot" / "000_mask.png"
        mask.unlink()
        message = "ground_truth lacks masks of 1 anomalous test images: spot/000_mask.png"
        if broken:
            mask.write_bytes(b"\x89PNG")
            message = "1 images cannot be read.*spot/000_mask.png"
        with pytest.raises(ValueError, match=message):
            MVTec(folder.parent, "fabric").setup()

    @pytest.mark.parametrize("stage", ["fit", "test", None])
    def test_holds_out_two_images_where_a_tenth_is_fewer(
        self, folder: Path, stage: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        datamodule = MVTec(folder.parent, "fabric")
        for _ in range(2):
            datamodule.setup(stage)
            assert (len(datamodule.train_data), len(datamodule.val_data)) == (2, 2)
        said = "4 training images: two are held out to calibrate on, more than val_split_ratio says."
        assert caplog.messages.count(said) == 1
        for path in sorted((folder / "train" / "good").iterdir())[2:]:
            path.unlink()
        MVTec(folder.parent, "fabric").setup("test")
        with pytest.raises(ValueError, match=r"2 training images in .*fabric: it takes 3, two to calibrate on"):
            MVTec(folder.parent, "fabric").setup("fit")
        MVTec(folder.parent, "fabric", val_split_mode="from_test").setup("fit")

    def test_holds_out_two_where_normal_test_images_come_from_training_ones_too(self, tmp_path: Path) -> None:
        Textures(tmp_path, image_size=64, train_count=20, test_count=1).prepare_data()
        folder = next(tmp_path.glob("*px*")) / "fabric"
        shutil.rmtree(folder / "test" / "good")
        datamodule = MVTec(folder.parent, "fabric")
        datamodule.setup("fit")
        assert (len(datamodule.train_data), len(datamodule.val_data)) == (14, 2)
        assert (datamodule.test_data.samples.label_index == 0).sum() == 4
        datamodule = MVTec(folder.parent, "fabric", test_split_mode="none")
        datamodule.setup("fit")
        assert (len(datamodule.train_data), len(datamodule.val_data)) == (18, 2)

    @pytest.mark.parametrize("size", [(32, 32), (128, 128), (64, 48)])
    def test_masks_have_the_shape_of_their_images(self, folder: Path, size: tuple[int, int]) -> None:
        mask = folder / "ground_truth" / "spot" / "000_mask.png"
        cv2.imwrite(str(mask), cv2.resize(cv2.imread(str(mask)), size))
        if size[0] == size[1]:
            MVTec(folder.parent, "fabric").setup()
        else:
            with pytest.raises(ValueError, match=r"1 masks are of another shape than their images.*spot/000_mask.png"):
                MVTec(folder.parent, "fabric").setup()

    @pytest.mark.parametrize("root", ["nowhere", "datasets/MVTecAD"])
    def test_downloads_only_what_there_is_into_its_usual_place(
        self, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Path] = []
        download = "anomalib.data.datamodules.image.mvtecad.download_and_extract"
        monkeypatch.setattr(download, lambda at, _: asked.append(at))
        with pytest.raises(FileNotFoundError, match=f"--data.root {root}: there is no folder {root}/mine"):
            MVTec(root, "mine").prepare_data()
        if root == "nowhere":
            with pytest.raises(FileNotFoundError, match="no folder nowhere/bottle"):
                MVTec(root, "bottle").prepare_data()
        else:
            MVTec(root, "bottle").prepare_data()
        assert asked == ([] if root == "nowhere" else [Path(root)])

    def test_names_the_categories_there_are_instead_of_downloading(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="no category 'botle', only fabric"):
            MVTec(folder.parent, "botle").prepare_data()
