import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from advrush_tf.data import source as data_source
from advrush_tf.errors import UserError

DIGITS = Path(__file__).resolve().parents[2] / "testdata" / "digits"


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """Four grey images; its "download" fails as often as `failures` says."""

    VERSION = tfds.core.Version("1.0.0")
    failures: list[Exception] = []  # noqa: RUF012

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(2, 2, 1)),
                    "label": tfds.features.ClassLabel(names=["dark", "light"]),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for index in range(4):
            if self.failures and index == 2:
                raise self.failures.pop()
            image = np.full((2, 2, 1), 60 * index, np.uint8)
            yield index, {"image": image, "label": index // 2}


def _unprepared(name, features, supervised_keys):
    """Registers a data set that can be described but not prepared."""

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=supervised_keys,
        )

    def _split_generators(self, dl_manager):
        raise AssertionError("must be refused before the download")

    members = {
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": _info,
        "_split_generators": _split_generators,
        "_generate_examples": None,
        "__module__": __name__,
    }
    type(name, (tfds.core.GeneratorBasedBuilder,), members)


IMAGE = tfds.features.Image(shape=(2, 2, 3))
LABEL = tfds.features.ClassLabel(num_classes=3)
PAIR = ("image", "label")
_unprepared("NoPairImages", {"image": IMAGE, "label": LABEL}, None)
_unprepared("NumberImages", {"image": IMAGE, "label": np.int64}, PAIR)
_unprepared("TextImages", {"image": tfds.features.Text(), "label": LABEL}, PAIR)
_unprepared(
    "DeepImages",
    {"image": tfds.features.Image(shape=(2, 2, 1), dtype=np.uint16), "label": LABEL},
    PAIR,
)


@pytest.fixture(autouse=True)
def _no_failures(monkeypatch):
    monkeypatch.setattr(TinyImages, "failures", [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifra10", r"Unknown data set 'cifra10'; use cifar10, .*svhn_cropped.* path"),
        ("tiny_images/no_such_config", "cannot open .*no_such_config.*check its name"),
        ("tiny_images:9.9.9", "cannot open .*9.9.9.*check its name"),
        ("", "cannot open data set ''"),
        ("./no/such/folder", "no ./no/such/folder; give .* folder of class folders"),
        ("none.npz", "There is no none.npz; give the path of"),
        ("no_pair_images", "does not say which features are its image and its label"),
        ("number_images", "'label' of data set number_images is not a class label"),
        ("text_images", "'image' of data set text_images is not an 8-bit image"),
        ("deep_images", "'image' of data set deep_images is not an 8-bit image"),
    ],
)
def test_bad_name_is_refused_in_one_line(tmp_path, name, message):
    with pytest.raises(UserError, match=message) as caught:
        data_source.open_source(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_missing_data_dir_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--data_dir=.*nowhere is not a folder"):
        data_source.open_source("cifar10", tmp_path / "nowhere")


def test_unreadable_data_dir_is_refused(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(PermissionError.*correct"):
        data_source.open_source("cifar10", tmp_path)


def test_no_network_says_how_to_get_the_data(tmp_path, monkeypatch):
    def fail(manager, url):
        raise ConnectionError(f"Max retries exceeded with {url}\nand more")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    monkeypatch.setattr(
        TinyImages, "_split_generators", lambda builder, manager: manager.download("it")
    )
    with pytest.raises(UserError) as caught:
        data_source.open_source("tiny_images", tmp_path)
    message = str(caught.value)
    assert "(ConnectionError: Max retries exceeded with it)" in message
    assert (
        "python -c \"import tensorflow_datasets as tfds; tfds.load('tiny_images')\""
        in message
    )
    assert str(tmp_path) in message
    assert "--data_dir" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "failure",
    [
        OSError(28, "No space left on device"),
        ConnectionError("HTTPSConnectionPool: Max retries exceeded\nand more"),
        ModuleNotFoundError("No module named 'apache_beam'"),
        AssertionError("Manual directory is empty"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_failed_download_is_one_line_and_can_be_tried_again(tmp_path, failure):
    TinyImages.failures = [failure]
    with pytest.raises(UserError, match=r"not prepared in .*could not be") as caught:
        data_source.open_source("tiny_images", tmp_path)
    assert str(failure).splitlines()[0] in str(caught.value)
    assert "\n" not in str(caught.value)
    builder = data_source.open_source("tiny_images", tmp_path)
    assert builder.is_prepared()
    assert builder.info.splits["train"].num_examples == 4


def test_killed_download_can_be_tried_again(tmp_path):
    left = tmp_path / "tiny_images" / "incomplete.ABC123_1.0.0"
    left.mkdir(parents=True)
    (left / "tiny_images-train.tfrecord-00000-of-00001").write_bytes(b"half")
    assert data_source.open_source("tiny_images", tmp_path).is_prepared()


def test_half_copied_data_set_is_named(tmp_path):
    folder = tmp_path / "tiny_images" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "tiny_images-train.tfrecord-00000-of-00001").write_bytes(b"half")
    with pytest.raises(
        UserError, match=r"is not a complete data set.*delete"
    ) as caught:
        data_source.open_source("tiny_images", tmp_path)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("folder", [DIGITS, DIGITS / "1.0.0"])
def test_prepared_folder_is_opened_by_path(folder):
    builder = data_source.open_source(str(folder))
    assert builder.name == "digits"


def test_relative_path_and_newest_version_win(tmp_path, monkeypatch):
    for version in ("1.0.0", "9.0.0", "10.0.0"):
        folder = tmp_path / "mine" / version
        shutil.copytree(DIGITS / "1.0.0", folder)
        info = json.loads((folder / "dataset_info.json").read_text())
        info["version"] = version
        (folder / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.chdir(tmp_path)
    for name in ("./mine", "mine", "../" + tmp_path.name + "/mine"):
        assert str(data_source.open_source(name).version) == "10.0.0"


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_damaged_folder_is_named(tmp_path, file):
    folder = tmp_path / "1.0.0"
    shutil.copytree(DIGITS / "1.0.0", folder)
    (folder / file).write_text("{")
    with pytest.raises(UserError, match=r"is damaged \(.*copy or prepare") as caught:
        data_source.open_source(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_digits_outside_a_checkout_asks_for_the_path(tmp_path, monkeypatch):
    monkeypatch.setattr(data_source, "_EMBEDDED_DIGITS", tmp_path / "testdata")
    with pytest.raises(UserError, match="source checkout only; give the path"):
        data_source.open_source("digits")
