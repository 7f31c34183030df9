import socket
import threading
import time
from pathlib import Path

import pytest
import torch

from finetune.errors import ModelFileError
from finetune.models import weights as module
from finetune.models.weights import Published, WeightSource, can_reach, find_local, locate_weights

RESNET = Published(
    "resnet18", "a1_in1k", "timm/resnet18.a1_in1k", "https://example.org/r-1.pth", "apache-2.0"
)


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def online(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def write(file: Path, content: bytes = b"abc") -> Path:
    file.write_bytes(content)
    return file


def test_a_path_is_taken_as_it_is_and_hashed(tmp_path):
    file = write(tmp_path / "mine.pth")
    source = locate_weights(file, RESNET)
    assert source.kind == "file"
    assert source.location == str(file)
    assert source.size_bytes == 3
    assert source.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert source.license == "unknown"
    assert source.tag == ""


def test_a_path_never_asks_the_network(tmp_path, monkeypatch, online):
    monkeypatch.setattr(module, "can_reach", lambda address: pytest.fail("asked the network"))
    locate_weights(write(tmp_path / "mine.pth"), RESNET)
    with pytest.raises(ModelFileError, match="no such file or folder"):
        locate_weights(tmp_path / "absent.pth", RESNET)


@pytest.mark.parametrize(
    "name",
    ["resnet18.pth", "resnet18.a1_in1k.safetensors", "resnet18_mine.bin", "model.pt", "model_best.pth.tar"],
)
def test_a_folder_gives_the_file_named_after_the_model(tmp_path, name):
    write(tmp_path / "resnet18d.pth")
    write(tmp_path / "resnet34.pth")
    file = write(tmp_path / name)
    assert find_local(tmp_path, "resnet18") == file


def test_a_folder_with_none_or_several_fitting_files_is_refused_with_the_list(tmp_path):
    write(tmp_path / "resnet34.pth")
    with pytest.raises(ModelFileError, match=r"no file is named after resnet18.*\n  resnet34.pth"):
        find_local(tmp_path, "resnet18")
    write(tmp_path / "resnet18.pth")
    write(tmp_path / "resnet18.safetensors")
    with pytest.raises(
        ModelFileError, match=r"2 files fit resnet18.*\n  resnet18.pth\n  resnet18.safetensors"
    ):
        find_local(tmp_path, "resnet18")


def test_a_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"\.safetensors, \.pth, .*, \.pth\.tar, \.pt\.tar, got '\.zip'"):
        find_local(write(tmp_path / "weights.zip"), "resnet18")


@pytest.mark.parametrize("name", ["resnet18.a1_in1k.safetensors", "r-1.pth"])
def test_pretrained_takes_a_file_put_in_the_cache_by_hand_without_asking_the_network(
    caches, name, monkeypatch, online
):
    monkeypatch.setattr(module, "can_reach", lambda address: pytest.fail("asked the network"))
    file = write(caches / name)
    source = locate_weights("pretrained", RESNET)
    assert source.location == str(file)
    assert source.tag == "resnet18.a1_in1k"
    assert source.license == "apache-2.0"
    assert source.origin == "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"


def test_pretrained_takes_what_the_hub_cached_before(caches, tmp_path):
    repository = tmp_path / "hf" / "models--timm--resnet18.a1_in1k"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    file = write(snapshot / "model.safetensors")
    assert locate_weights("pretrained", RESNET).location == str(file)


def test_offline_mode_says_what_to_fetch_and_where_to_put_it(caches):
    with pytest.raises(ModelFileError) as refusal:
        locate_weights("pretrained", RESNET)
    message = str(refusal.value)
    assert "HF_HUB_OFFLINE" in message
    assert "model.safetensors of timm/resnet18.a1_in1k" in message
    assert str(caches / "resnet18.a1_in1k.safetensors") in message
    assert "--model.weights" in message


@pytest.mark.alone
def test_without_a_network_the_answer_comes_within_three_seconds(caches, monkeypatch, online):
    over = threading.Event()

    def no_answer(*args, **keywords):
        over.wait(20)
        raise OSError("no name server")

    monkeypatch.setattr(socket, "getaddrinfo", no_answer)
    start = time.monotonic()
    with pytest.raises(ModelFileError, match=r"huggingface\.co cannot be reached"):
        locate_weights("pretrained", RESNET)
    assert time.monotonic() - start < 2.5
    over.set()


def test_a_model_without_published_weights_says_so(caches, online):
    with pytest.raises(ModelFileError, match="no pretrained weights are published for resnet18"):
        locate_weights("pretrained", Published("resnet18", "", None, None, "unknown"))


@pytest.mark.parametrize("status", ["302 Found\r\nLocation: http://127.0.0.1:1/", "404 Not Found", "200 OK"])
def test_any_answer_at_all_counts_as_reached(status):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        assert can_reach(f"http://127.0.0.1:{server.getsockname()[1]}/x", seconds=5)
        thread.join()


def test_a_closed_port_is_not_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not can_reach(f"http://127.0.0.1:{port}/x")


def test_a_source_describes_itself_in_one_line():
    source = WeightSource(
        "hub", "/c/model.safetensors", tag="r.t", license="mit", size_bytes=2_500_000, sha256="ab" * 32
    )
    assert source.describe() == (
        "weights: r.t from /c/model.safetensors (2.5 MB, licence mit, sha256 abababababababab)"
    )
    assert WeightSource(**source.to_dict()) == source
