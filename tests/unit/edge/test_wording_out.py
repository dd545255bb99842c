"""What may leave the workstation as text: fixed words, and no name of a file."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from edge_agent.capture.source import HEALTHY_STATES, DropReason, SourceState
from edge_agent.wording_out import ALARM_WORDS, FRAME_DROPPED, alarm, without_paths
from fleet.contract.messages import Severity
from tests.unit.edge.edge_builders import START

PROGRAM = Path(__file__).parents[3] / "edge_agent"


def test_an_alarm_holds_its_code_fixed_words_and_a_number() -> None:
    told = alarm("slide_target_reached", Severity.INFO, START, count=100)
    assert (told.code, told.text) == ("slide_target_reached", "The target of white cells is reached. (100)")
    assert alarm("disk_full_over", Severity.INFO, START).text.startswith("Over: The disk")
    assert alarm("nobody_knows", Severity.INFO, START).text == ""


def test_every_state_of_a_camera_and_every_dropped_frame_has_words() -> None:
    states = set(SourceState) - HEALTHY_STATES - {SourceState.CLOSED}
    assert {f"camera_{state.value}" for state in states} <= ALARM_WORDS.keys()
    assert {f"{FRAME_DROPPED}_{reason.value}" for reason in DropReason} <= ALARM_WORDS.keys()


def test_alarms_are_made_in_one_place_and_every_problem_has_words() -> None:
    makers, codes = [], set()
    for path in sorted(PROGRAM.rglob("*.py")):
        name = path.relative_to(PROGRAM.parent)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called == "Alarm":
                makers.append(name.as_posix())
            if called == "Problem" and isinstance(node.args[0], ast.Name) and node.args[0].id.isupper():
                module = importlib.import_module(".".join(name.with_suffix("").parts))
                codes.add(getattr(module, node.args[0].id))
    assert makers == ["edge_agent/wording_out.py"]
    assert len(codes) >= 8
    assert codes <= ALARM_WORDS.keys()


@pytest.mark.parametrize(
    "text",
    [
        "[Errno 28] No space left on device: '/srv/anna m/data/slots/a/b.zip'",
        "/srv/anna m/data: cannot be written",
        "could not open /srv/anna m/data/slots/a/b.zip, try again",
        "could not open /home/anna/x.zip",
        "could not open C:\\anna\\slots\\x.zip",
        "(\\\\server\\anna\\x.zip)",
    ],
)
def test_an_error_leaves_without_the_names_of_folders_and_files(text: str) -> None:
    said = without_paths(text, ["/srv/anna m/data"])
    assert "anna" not in said
    assert "[path]" in said


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("cannot read /media/Anna Muster 1980/usb/x.zip", "cannot read [path]"),
        ("cannot read /Anna Muster 1980.zip: no such file", "cannot read [path]"),
        ("[Errno 2] No such file: '/media/Anna Muster, 1980/x.zip' (2)", "[Errno 2] No such file: '[path]' (2)"),
        ('no room: "/media/Anna Muster/x.zip"; free some', 'no room: "[path]"; free some'),
        ("'/media/Anna's stick/x.zip' is no archive", "'[path]' is no archive"),
        ("'/media/Anna Muster/a' -> '/media/Anna Muster/b'", "'[path]'"),
        ("a quote that is not closed: '/media/Anna Muster/x.zip", "a quote that is not closed: '[path]"),
        ("'/a/b' and then /media/Anna Muster/x.zip", "'[path]' and then [path]"),
        ("C:\\Users\\Anna Muster\\x.zip is locked", "[path]"),
        ("\\\\server\\Anna Muster\\x.zip is locked", "[path]"),
        ("//server/Anna Muster/x.zip is locked", "[path]"),
        ("cannot open file:///media/Anna Muster/x.zip", "cannot open [path]"),
        ("failed:/media/Anna Muster/x.zip", "failed:[path]"),
        ("'/srv/anna m/data/slots/Anna Muster/x' is locked", "'[path]' is locked"),
        ("/srv/anna m/data/slots/a.zip: no space left", "[path]: no space left"),
        ("see https://cloud.lab/v1/trust, then /media/Anna Muster/x", "see https://cloud.lab/v1/trust, then [path]"),
    ],
)
def test_nothing_of_a_name_with_spaces_is_left_behind_its_path(text: str, left: str) -> None:
    assert without_paths(text, ["/srv/anna m/data"]) == left


def test_what_is_no_path_is_left_alone() -> None:
    text = "3/4 chunks of https://cloud.lab/v1/trust arrived; sha256:ab/cd ratio 1/2 and/or a slide is being read"
    assert without_paths(text, ["edge-data"]) == text
