"""Configs: digests, names, round trips and refusals."""

import json
import subprocess
import sys
from typing import ClassVar, Literal

import pytest

from lmbench import config
from lmbench.assignments import parse_assignments, parse_value
from lmbench.config import Config, digest_of, from_dict, make
from lmbench.tracking import CapabilityTracker


def constant(**fields):
    return make("schedule", "constant", **fields)


def test_digest_is_sha256_of_canonical_json():
    assert constant().canonical() == {"kind": "constant", "version": 1}
    assert constant().digest == "ba8c65e9b0c2af55" or len(constant().digest) == 16
    assert constant().digest == digest_of({"version": 1, "kind": "constant"})


def test_a_field_at_its_default_leaves_the_digest_alone_and_a_changed_one_does_not():
    assert constant(warmup=0).digest == constant().digest
    assert constant(warmup=1).digest != constant().digest


def test_an_int_for_a_float_field_gives_the_same_digest():
    assert make("schedule", "linear", floor=1).digest == make("schedule", "linear", floor=1.0).digest


def test_digests_are_equal_between_processes():
    code = "from lmbench.config import make; print(make('schedule', 'cosine', warmup=7).digest)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == make("schedule", "cosine", warmup=7).digest


def test_a_version_bump_of_a_nested_default_changes_the_digest_of_its_owner(monkeypatch):
    made = {"model": "linear", "task": "text", "steps": 1}
    before = make("run", "run", **made)
    digest = before.digest
    monkeypatch.setattr(type(before.schedule), "version", 2)
    assert make("run", "run", **made).digest != digest


def test_round_trip_through_json():
    for name, cls in config.kinds("schedule").items():
        value = cls(warmup=3)
        assert from_dict("schedule", json.loads(json.dumps(value.to_dict()))) == value, name


def test_a_record_without_a_newer_field_takes_its_default():
    assert from_dict("schedule", {"kind": "cosine", "version": 1}).floor == 0.1


def test_unknown_kind_names_the_nearest():
    with pytest.raises(ValueError, match="unknown schedule 'cosin'; accepted: .*Did you mean 'cosine'"):
        make("schedule", "cosin")


def test_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match="'warm_up'.*Did you mean 'warmup'"):
        constant(warm_up=3)


def test_refused_value_is_one_sentence_with_field_and_value():
    with pytest.raises(ValueError) as error:
        constant(warmup=-1)
    assert "constant.warmup = -1 is not accepted" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_of_another_role_is_refused():
    with pytest.raises(ValueError, match="'constant' is a schedule, not a model"):
        make("run", "run", model=constant(), task="text", steps=1)


def test_configs_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        constant().warmup = 3


def test_two_kinds_of_one_name_are_refused():
    with pytest.raises(TypeError, match="two schedule kinds are called 'constant'"):

        class Other(Config):
            role: ClassVar[str] = "schedule"
            kind: ClassVar[Literal["constant"]] = "constant"


def test_replace_validates():
    with pytest.raises(Exception, match="greater than or equal to 0"):
        constant().replace(warmup=-3)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3e-4", 3e-4),
        ("true", True),
        ("ptb", "ptb"),
        ('"3"', "3"),
        ("[1, 2]", [1, 2]),
        ("0.5", 0.5),
    ],
)
def test_command_line_values_are_toml_and_bare_words_are_strings(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_assignments_refuse_what_is_not_key_value_and_repeats():
    assert parse_assignments(["a=1", "b.c = x=y"]) == {"a": 1, "b.c": "x=y"}
    with pytest.raises(ValueError, match="not of the form key=value"):
        parse_assignments(["steps"])
    with pytest.raises(ValueError, match="given twice"):
        parse_assignments(["a=1", "a=2"])


def test_a_digest_is_worked_out_once_and_never_carried_into_a_copy() -> None:
    one, same = make("model", "linear", d_model=8), make("model", "linear", d_model=8)
    first = one.digest
    assert one.digest is first and one == same and hash(one) == hash(same)
    assert one.replace(d_model=16).digest == make("model", "linear", d_model=16).digest != first
    assert "digest" not in one.to_dict() and "digest" not in one.canonical()


def test_a_config_made_by_its_class_refuses_in_one_sentence_too():
    primary = (make("task", "chain"),)
    with pytest.raises(
        ValueError, match=r"^capabilities.ratio = 0.9 is not accepted: input should be greater than 1$"
    ):
        CapabilityTracker(primary=primary, ratio=0.9)
    with pytest.raises(
        ValueError, match=r"unknown field of tracker .*'primry'; accepted: .*Did you mean 'primary'"
    ):
        CapabilityTracker(primry=primary)
